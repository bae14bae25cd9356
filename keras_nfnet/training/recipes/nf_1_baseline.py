"""Ablation, the baseline: 80.4% top-1 in the paper.

SE-ResNeXt-D without normalization, at F0. The paper's top-1 of F0 / F1 / F2 /
F3: 80.4 / 81.7 / 82.0 / 82.3; batch 4096 and 360 epochs on TPUv3. Not run by
this package's authors.

    keras-nfnet train nf_1_baseline

Reference: arXiv:2102.06171, table 2.
"""

import dataclasses

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.training.imagenet import imagenet
from keras_nfnet.variants import VARIANTS

RECIPE = imagenet(
    "nf_1_baseline",
    "F0",
    # A ResNet's widths, and one 3×3 convolution in each block.
    model=dataclasses.replace(
        VARIANTS["F0"], widths=(256, 512, 1024, 2048), use_two_convs=False
    ),
    # Crops and flips alone.
    augmentation=Augmentation(randaugment_layers=0, mixup=0, cutmix=0),
)
