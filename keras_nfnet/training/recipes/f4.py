"""NFNet-F4 on ImageNet: 85.9% top-1 in the paper.

The paper's: 85.9% top-1 and 97.6% top-5, trained at 384 px and tested at
512 px; batch 4096 and 360 epochs on TPUv3. One step took 1033.3 ms on TPUv3
and 1190.6 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f4
    keras-nfnet train f4 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f4", "F4")
