"""Ablation, + MixUp: 82.2% top-1 in the paper.

MixUp on the whole batch on top of `nf_3_second_conv`, at F0. The paper's
top-1 of F0 / F1 / F2 / F3: 82.2 / 82.9 / 83.1 / 83.5; batch 4096 and 360
epochs on TPUv3. Not run by this package's authors.

    keras-nfnet train nf_4_mixup

Reference: arXiv:2102.06171, table 2.
"""

from keras_nfnet.training.recipes.nf_3_second_conv import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_4_mixup",
    augmentation=BEFORE.augmentation.replace(mixup=0.2),
)
