"""NFNet-F1 on ImageNet: 84.7% top-1 in the paper.

The paper's: 84.7% top-1 and 97.1% top-5, trained at 224 px and tested at
320 px; batch 4096 and 360 epochs on TPUv3. One step took 158.5 ms on TPUv3
and 133.9 ms on a V100.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f1
    keras-nfnet train f1 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f1", "F1")
