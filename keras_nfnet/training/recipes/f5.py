"""NFNet-F5 on ImageNet: 86.0% top-1 in the paper.

The paper's: 86.0% top-1 and 97.6% top-5, trained at 416 px and tested at
544 px; batch 4096 and 360 epochs on TPUv3. One step took 1398.5 ms on TPUv3
and 2177.1 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f5
    keras-nfnet train f5 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f5", "F5")
