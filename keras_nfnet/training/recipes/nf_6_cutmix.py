"""Ablation, + CutMix: 83.6% top-1 in the paper.

CutMix on half of the batch, which is the NFNet on top of `nf_5_randaugment`,
at F0. The paper's top-1 of F0 / F1 / F2 / F3: 83.6 / 84.7 / 85.1 / 85.7;
batch 4096 and 360 epochs on TPUv3. Not run by this package's authors.

    keras-nfnet train nf_6_cutmix

Reference: arXiv:2102.06171, table 2.
"""

from keras_nfnet.training.recipes.nf_5_randaugment import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_6_cutmix",
    augmentation=BEFORE.augmentation.replace(cutmix=1.0),
)
