"""Fine-tuning: a pre-trained F1 on pictures of your own.

The published values of F1, a new classifier, a higher resolution than they
were trained at (its test size), a rate ten times lower and no mixing. By
default on the 102 flowers of TFDS; for a folder of class folders, set
`data` and `classes`. The paper fine-tunes after its pre-training on 300
million images only, to 89.2% on ImageNet with F4+. One GPU of 16 GB. Not
run by this package's authors on the published values.

    tfds build oxford_flowers102
    keras-nfnet train fine_tune
    keras-nfnet train fine_tune --set data=pictures/ --set classes=5

Reference: arXiv:2102.06171, section 6.2.
"""

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.training.recipe import Recipe

RECIPE = Recipe(
    name="fine_tune",
    model="F1",
    weights="imagenet",
    new_head=True,
    data="oxford_flowers102",
    classes=102,
    size=320,
    evaluation_margin=32,
    augmentation=Augmentation(randaugment_layers=0, mixup=0, cutmix=0),
    batch_size=32,
    epochs=20,
    learning_rate=0.01,
    warmup_epochs=1.0,
    ema_decay=0.999,
    precision="mixed_bfloat16",
)
