"""Ablation, default width + augmentation: 83.1% top-1 in the paper.

The baseline's widths again on top of `nf_6_cutmix`, at F0. The paper's top-1
of F0 / F1 / F2 / F3: 83.1 / 84.5 / 85.0 / 85.5; batch 4096 and 360 epochs on
TPUv3. Not run by this package's authors.

    keras-nfnet train nf_7_default_width

Reference: arXiv:2102.06171, table 2.
"""

import dataclasses

from keras_nfnet.training.recipes.nf_6_cutmix import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_7_default_width",
    model=dataclasses.replace(BEFORE.model, widths=(256, 512, 1024, 2048)),
)
