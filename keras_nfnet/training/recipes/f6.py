"""NFNet-F6 on ImageNet, with SAM: 86.5% top-1 in the paper.

The paper's: 86.5% top-1 and 97.9% top-5, trained at 448 px and tested at
576 px; batch 4096 and 360 epochs on TPUv3. One step took 2774.1 ms on TPUv3.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train f6
    keras-nfnet train f6 --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.

NOTE: 0.05 is the radius of the authors of SAM, arXiv:2010.01412. As in the
paper the ascent gradient is taken on a fifth of each batch.
"""

from keras_nfnet.training.imagenet import imagenet

RECIPE = imagenet("f6", "F6", sam_rho=0.05, sam_fraction=0.2)
