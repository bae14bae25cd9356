"""A recipe: everything that decides one training run."""

import dataclasses
from dataclasses import dataclass

from keras_nfnet.variants import VARIANTS, NFNetConfig


@dataclass(frozen=True)
class Recipe:
    """One whole training run as data.

    Args:
        name: Name of the recipe, and of the model.
        model: A variant's name or a `keras_nfnet.NFNetConfig`.
        data: Name of a TFDS data set with `image` and `label`.
        train_split: Split to train on.
        test_split: Split to evaluate on.
        classes: Number of classes of the data.
        size: Side of the images in pixels.
        evaluation_margin: Pixels to resize beyond `size` before the centre
            crop of evaluation.
        augmentation: Name of the training augmentation, or `None`.
        batch_size: Global batch.
        epochs: Passes over the training split.
        learning_rate: Peak rate at batch 256; scaled by batch / 256.
        warmup_epochs: Epochs of linear warm-up from 0.
        momentum: Nesterov momentum.
        weight_decay: Coupled weight decay.
        clipping: AGC's λ, or `None` for no clipping.
        eps: AGC's floor of the parameter norm.
        label_smoothing: In [0, 1).
        seed: Seed of everything random in the run.

    Raises:
        ValueError: If a value is out of its range; the message names it.

    Reference: arXiv:2102.06171, section 4.
    """

    name: str
    model: str | NFNetConfig
    data: str
    classes: int
    size: int
    batch_size: int
    epochs: int
    train_split: str = "train"
    test_split: str = "test"
    evaluation_margin: int = 32
    augmentation: str | None = None
    learning_rate: float = 0.1
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 2e-5
    clipping: float | None = 0.01
    eps: float = 1e-3
    label_smoothing: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if not isinstance(self.model, NFNetConfig) and (
            self.model not in VARIANTS
        ):
            raise ValueError(
                "`model` must be an `NFNetConfig` or one of "
                f"{', '.join(VARIANTS)}. Received: model={self.model!r}"
            )
        for field in ("classes", "size", "batch_size", "epochs"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{field}` must be a whole number above 0. "
                    f"Received: {field}={value!r}"
                )
        for field in ("label_smoothing", "momentum"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise ValueError(
                    f"`{field}` must be in [0, 1). Received: {field}={value!r}"
                )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be in [0, epochs). Received: "
                f"warmup_epochs={self.warmup_epochs!r}, epochs={self.epochs!r}"
            )

    @property
    def peak_learning_rate(self):
        """The rate after warm-up, by the linear scaling rule."""
        return self.learning_rate * self.batch_size / 256

    def replace(self, **changes):
        """A copy with other values."""
        return dataclasses.replace(self, **changes)
