"""Recipes made small enough for a test."""

import dataclasses

from keras_nfnet import NFNetConfig
from keras_nfnet.variants import VARIANTS


def small(recipe):
    """A recipe of one narrow block on a few handwritten digits.

    Augmentation, optimizer, schedule, moving average, SAM and precision are
    the recipe's own.
    """
    model = recipe.model
    if not isinstance(model, NFNetConfig):
        model = VARIANTS[model]
    return recipe.replace(
        name=f"{recipe.name}_small",
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
