"""NFNet-F2 on ImageNet: 85.1% top-1 in the paper.

The paper's: 85.1% top-1 and 97.3% top-5, trained at 256 px and tested at
352 px; batch 4096 and 360 epochs on TPUv3. One step took 295.8 ms on TPUv3
and 226.3 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f2
    keras-nfnet train f2 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f2", "F2")
