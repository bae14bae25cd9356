"""Ablation, + second 3×3: 81.3% top-1 in the paper.

A second 3×3 convolution in each block on top of `nf_2_width`, at F0. The
paper's top-1 of F0 / F1 / F2 / F3: 81.3 / 82.2 / 82.4 / 82.7; batch 4096 and
360 epochs on TPUv3. Not run by this package's authors.

    keras-nfnet train nf_3_second_conv

Reference: arXiv:2102.06171, table 2.
"""

import dataclasses

from keras_nfnet.training.recipes.nf_2_width import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_3_second_conv",
    model=dataclasses.replace(BEFORE.model, use_two_convs=True),
)
