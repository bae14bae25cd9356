"""NFNet-F0 on ImageNet: 83.6% top-1 in the paper.

The paper's: 83.6% top-1 and 96.8% top-5, trained at 192 px and tested at
256 px; batch 4096 and 360 epochs on TPUv3. One step took 73.3 ms on TPUv3
and 56.7 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f0
    keras-nfnet train f0 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f0", "F0")
