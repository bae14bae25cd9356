"""Ablation, + modified width: 80.9% top-1 in the paper.

The NFNets' widths on top of `nf_1_baseline`, at F0. The paper's top-1 of F0 /
F1 / F2 / F3: 80.9 / 81.8 / 82.0 / 82.3; batch 4096 and 360 epochs on TPUv3.
Not run by this package's authors.

    keras-nfnet train nf_2_width

Reference: arXiv:2102.06171, table 2.
"""

import dataclasses

from keras_nfnet.training.recipes.nf_1_baseline import RECIPE as BEFORE

RECIPE = BEFORE.replace(
    name="nf_2_width",
    model=dataclasses.replace(BEFORE.model, widths=(256, 512, 1536, 1536)),
)
