"""A recipe: everything that decides one training run."""

import dataclasses
from dataclasses import dataclass

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.augmentation import check as check_augmentation
from keras_nfnet.variants import VARIANTS, NFNetConfig, variant_named

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


@dataclass(frozen=True)
class Recipe:
    """One whole training run as data.

    Args:
        name: Name of the recipe, and of the model.
        model: A variant's name or a `keras_nfnet.NFNetConfig`.
        data: Name of a TFDS data set with `image` and `label`, or a folder
            of class folders.
        classes: Number of classes of the data, 2 or more; or 1 for a network
            of one sigmoid unit, the probability of the second of the data's
            two classes.
        size: Side of the training images in pixels.
        batch_size: Global batch of one optimizer step.
        epochs: Epochs, passes over the training split.
        train_split: Split to train on.
        test_split: Split to evaluate on.
        test_size: Side of the images of evaluation in pixels; `None` for
            `size`.
        evaluation_margin: Pixels to resize beyond `test_size` before the
            centre crop of evaluation.
        max_corrupt: Share of pictures that may be corrupt before the run
            fails, in [0, 1].
        augmentation: A `keras_nfnet.data.Augmentation`, the name of one, or
            `None`.
        weights: Weights to start from, as for `keras_nfnet.NFNet`; `None`
            for random ones.
        new_head: Whether the classifier starts anew beside `weights`; if
            not, that of the file must have as many classes. `None`: anew
            only where the numbers of classes differ.
        drop_rate: Dropout before the classifier, in [0, 1); `None` for the
            model's.
        stochastic_depth_rate: Rate of stochastic depth, in [0, 1); `None`
            for the model's.
        learning_rate: Peak rate at batch 256, above 0; scaled by
            `batch_size / 256`.
        warmup_epochs: Epochs of linear warm-up from 0, below `epochs`; 0
            for none.
        momentum: Nesterov momentum, in [0, 1).
        weight_decay: Coupled weight decay, 0 or more.
        clipping: AGC's λ, above 0; or `None` for no clipping.
        eps: AGC's floor of the parameter norm, above 0.
        label_smoothing: In [0, 1).
        ema_decay: Decay, in (0, 1), of the moving average of the weights,
            which is evaluated and saved beside them; `None` for no average.
        sam_rho: Radius of Sharpness-Aware Minimization, above 0; or `None`.
        sam_fraction: The share of each batch, in (0, 1], on which SAM's
            ascent gradient is taken.
        gradient_accumulation_steps: Parts that a batch is taken in, one
            after another, where it does not fit into memory; or `None`.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        max_skipped_steps: How many of the last 100 optimizer steps may be
            skipped because their gradient is not finite, 0 or more. With
            more the run ends; it looks every 10 steps.
        strategy: The devices to train on: `"auto"`, `"one"`, `"mirrored"`,
            `"multi_worker"` or `"tpu"`.
        deterministic: Whether TensorFlow must use operations that give the
            same bits at every run; slower. (JAX on CPU always does.)
        seed: Seed of everything random in the run.

    Raises:
        ValueError: If a value is out of its range; the message names it.

    Example:

    >>> from keras_nfnet.training.recipes import recipe
    >>> f1 = recipe("f1").replace(batch_size=1024, strategy="mirrored")
    >>> f1.peak_learning_rate
    0.4

    Reference: arXiv:2102.06171, section 6 and appendix A.
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
    test_size: int | None = None
    evaluation_margin: int = 32
    max_corrupt: float = 0.1
    augmentation: str | Augmentation | None = None
    weights: str | None = None
    new_head: bool | None = None
    drop_rate: float | None = None
    stochastic_depth_rate: float | None = None
    learning_rate: float = 0.1
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 2e-5
    clipping: float | None = 0.01
    eps: float = 1e-3
    label_smoothing: float = 0.1
    ema_decay: float | None = None
    sam_rho: float | None = None
    sam_fraction: float = 1.0
    gradient_accumulation_steps: int | None = None
    precision: str = "float32"
    max_skipped_steps: int = 10
    strategy: str = "auto"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self):
        for field in ("name", "data", "train_split", "test_split"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                self._refuse(field, "a text")
        if not isinstance(self.model, NFNetConfig) and not (
            variant_named(self.model)
        ):
            self._refuse(
                "model", f"an `NFNetConfig` or one of {', '.join(VARIANTS)}"
            )
        for field in ("classes", "size", "batch_size", "epochs"):
            self._whole(field, 1)
        for field in ("seed", "evaluation_margin", "max_skipped_steps"):
            self._whole(field, 0)
        for field in ("test_size", "gradient_accumulation_steps"):
            if getattr(self, field) is not None:
                self._whole(field, 1)
        for field in ("learning_rate", "eps"):
            self._number(field, lambda v: v > 0, "above 0")
        for field in ("weight_decay", "warmup_epochs"):
            self._number(field, lambda v: v >= 0, "0 or more")
        self._number("max_corrupt", lambda v: 0 <= v <= 1, "in [0, 1]")
        for field in ("label_smoothing", "momentum"):
            self._number(field, lambda v: 0 <= v < 1, "in [0, 1)")
        for field in ("drop_rate", "stochastic_depth_rate"):
            self._number(field, lambda v: 0 <= v < 1, "in [0, 1)", none=True)
        for field in ("clipping", "sam_rho"):
            self._number(field, lambda v: v > 0, "above 0", none=True)
        self._number("sam_fraction", lambda v: 0 < v <= 1, "in (0, 1]")
        self._number("ema_decay", lambda v: 0 < v < 1, "in (0, 1)", none=True)
        for field, values in (
            ("precision", PRECISIONS),
            ("strategy", STRATEGIES),
        ):
            if getattr(self, field) not in values:
                self._refuse(field, f"one of {', '.join(values)}")
        for field in ("deterministic",):
            if not isinstance(getattr(self, field), bool):
                self._refuse(field, "true or false")
        if self.new_head not in (None, True, False):
            self._refuse("new_head", "`None`, true or false")
        if self.weights is not None and not isinstance(self.weights, str):
            self._refuse("weights", '`None`, "imagenet" or a path')
        check_augmentation(self.augmentation)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                "`warmup_epochs` must be in [0, epochs). Received: "
                f"warmup_epochs={self.warmup_epochs!r}, epochs={self.epochs!r}"
            )
        if self.batch_size % (self.gradient_accumulation_steps or 1):
            raise ValueError(
                "`batch_size` must be a multiple of "
                "`gradient_accumulation_steps`. Received: "
                f"batch_size={self.batch_size}, gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}"
            )

    @property
    def peak_learning_rate(self):
        """The rate after warm-up, by the linear scaling rule."""
        return self.learning_rate * self.batch_size / 256

    def replace(self, **changes):
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def _refuse(self, field, expected):
        raise ValueError(
            f"`{field}` must be {expected}. "
            f"Received: {field}={getattr(self, field)!r}"
        )

    def _whole(self, field, least):
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(field, "a whole number")
        if value < least:
            self._refuse(field, f"a whole number, {least} or more")

    def _number(self, field, accepts, expected, none=False):
        value = getattr(self, field)
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(field, f"a number {expected}")
        if not accepts(value):
            self._refuse(field, expected)
