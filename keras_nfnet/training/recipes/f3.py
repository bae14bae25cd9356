"""NFNet-F3 on ImageNet: 85.7% top-1 in the paper.

The paper's: 85.7% top-1 and 97.5% top-5, trained at 320 px and tested at
416 px; batch 4096 and 360 epochs on TPUv3. One step took 532.2 ms on TPUv3
and 524.5 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f3
    keras-nfnet train f3 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f3", "F3")
