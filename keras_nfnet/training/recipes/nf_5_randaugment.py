"""Ablation, + RandAugment: 83.2% top-1 in the paper.

RandAugment on top of `nf_4_mixup`, at F0. The paper's top-1 of F0 / F1 / F2 /
F3: 83.2 / 84.6 / 84.8 / 85.0; batch 4096 and 360 epochs on TPUv3. Not run by
this package's authors.

    keras-nfnet train nf_5_randaugment

Reference: arXiv:2102.06171, table 2.
"""

from keras_nfnet.training.recipes.nf_4_mixup import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_5_randaugment",
    augmentation=BEFORE.augmentation.replace(randaugment_layers=4),
)
