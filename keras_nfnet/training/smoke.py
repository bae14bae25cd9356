"""The small form of a recipe: the same way in seconds."""

import dataclasses

from keras_nfnet.training.recipe import Recipe
from keras_nfnet.variants import VARIANTS, NFNetConfig


def smoke(recipe):
    """A recipe made small enough for a test, all its parts still there.

    The model keeps its kind but is one narrow block; the data are a few
    handwritten digits. Augmentation, optimizer, schedule, moving average,
    SAM and precision stay.

    Args:
        recipe: A `keras_nfnet.Recipe`.

    Returns:
        A `keras_nfnet.Recipe`.

    Example:

    >>> smoke(recipe("f6")).sam_rho
    0.05
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"`recipe` must be a `Recipe`. Received: recipe={recipe!r}"
        )
    model = recipe.model
    if not isinstance(model, NFNetConfig):
        model = VARIANTS[model]
    return recipe.replace(
        name=f"{recipe.name}_smoke",
        model=dataclasses.replace(
            model, widths=(16,), depths=(1,), group_width=8
        ),
        weights=None,
        data="nf_digits",
        classes=10,
        train_split="train[:40]",
        test_split="test[:20]",
        size=32,
        test_size=None if recipe.test_size is None else 40,
        evaluation_margin=0,
        batch_size=8,
        epochs=2,
        warmup_epochs=min(1.0, recipe.warmup_epochs),
    )
