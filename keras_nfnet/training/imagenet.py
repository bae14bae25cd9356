"""What the recipes of all NFNets on ImageNet share."""

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.training.recipe import Recipe
from keras_nfnet.variants import VARIANTS


def imagenet(name, variant, **changes):
    """The paper's recipe on ImageNet for a variant.

    Args:
        name: Name of the recipe.
        variant: Its sizes in pixels and RandAugment are the table's.
        **changes: Other values of `Recipe`.

    Returns:
        A `keras_nfnet.Recipe`.

    Reference: arXiv:2102.06171, section 6 and appendix A.
    """
    config = VARIANTS[variant]
    layers, magnitude = config.rand_augment
    fields = {
        "model": variant,
        "data": "imagenet2012",
        "test_split": "validation",
        "classes": 1000,
        "size": config.train_size,
        "test_size": config.test_size,
        "evaluation_margin": 32,
        "augmentation": Augmentation(
            randaugment_layers=layers, randaugment_magnitude=magnitude
        ),
        "stochastic_depth_rate": 0.25,
        "batch_size": 4096,
        "epochs": 360,
        "learning_rate": 0.1,
        "warmup_epochs": 5.0,
        "ema_decay": 0.99999,
        "precision": "mixed_bfloat16",
    }
    return Recipe(name=name, **{**fields, **changes})
