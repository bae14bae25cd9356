"""A recipe: everything that decides one training run, also as TOML."""

import dataclasses
import difflib
import pathlib
import tomllib
import typing
from dataclasses import dataclass
from typing import Any

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.augmentation import check as check_augmentation
from keras_nfnet.utils.arguments import (
    boolean,
    check_fields,
    choice,
    count,
    fraction,
    integer,
    not_negative,
    number,
    optional,
    path,
    positive,
    probability,
    refuse,
    text,
)
from keras_nfnet.utils.files import write_whole
from keras_nfnet.variants import VARIANTS, NFNetConfig, variant_named

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")
# TOML has no null.
_NONE = "none"


def _model(name, value):
    if not isinstance(value, NFNetConfig) and not variant_named(value):
        refuse(name, value, f"an `NFNetConfig` or one of {', '.join(VARIANTS)}")
    return value


def _augmentation(name, value):
    check_augmentation(value, name)
    return value


def _weights(name, value):
    if value is None:
        return None
    return str(path(name, value, '`None`, "imagenet" or the path of a file'))


def _decay(name, value):
    return number(name, value, lambda v: 0 < v < 1, "in (0, 1)", True)


def _share(name, value):
    return number(name, value, lambda v: 0 <= v <= 1, "in [0, 1]")


# What each field must be.
_CHECKS = {
    **dict.fromkeys(("name", "data", "train_split", "test_split"), text),
    "model": _model,
    **dict.fromkeys(("classes", "size", "batch_size", "epochs"), integer),
    "test_size": optional(integer),
    "evaluation_margin": count,
    "max_corrupt": _share,
    "augmentation": _augmentation,
    "weights": _weights,
    "new_head": optional(boolean),
    "drop_rate": optional(probability),
    "stochastic_depth_rate": optional(probability),
    "learning_rate": positive,
    "warmup_epochs": not_negative,
    "momentum": probability,
    "weight_decay": not_negative,
    "clipping": optional(positive),
    "eps": positive,
    "label_smoothing": probability,
    "ema_decay": _decay,
    "sam_rho": optional(positive),
    "sam_fraction": fraction,
    "gradient_accumulation_steps": optional(integer),
    "precision": choice(*PRECISIONS),
    "max_skipped_steps": count,
    "strategy": choice(*STRATEGIES),
    "deterministic": boolean,
    "seed": count,
}


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
        max_corrupt: Fraction of images that may be corrupt before the run
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
        sam_fraction: The fraction of each batch, in (0, 1], on which SAM's
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
        check_fields(self, _CHECKS)
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
    def peak_learning_rate(self) -> float:
        """The rate after warm-up, by the linear scaling rule."""
        return self.learning_rate * self.batch_size / 256

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with other values."""
        return dataclasses.replace(self, **changes)


def to_toml(recipe):
    """A recipe as TOML, from which `from_toml` makes the same again."""
    import tomli_w

    return tomli_w.dumps(_plain(recipe))


def from_toml(text, source="the text"):
    """The recipe that a TOML document holds.

    Args:
        text: The document: the fields of `Recipe`, with `model` and
            `augmentation` as a name or as a table of their own fields, and
            `"none"` for `None`.
        source: What to call the document in an error.

    Raises:
        ValueError: If it is no TOML, or no recipe.

    Example:

    >>> from_toml(to_toml(recipe)) == recipe
    True
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"A recipe must be TOML. Received: {source}, {error}"
        ) from error
    return _made(Recipe, fields)


def read_recipe(path):
    """The recipe in a TOML file; see `from_toml`."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"A recipe must be a TOML file. Received: {str(path)!r} ({error})"
        ) from error
    return from_toml(text, repr(str(path)))


def write_recipe(recipe, path):
    """Writes a recipe to a TOML file, whole or not at all."""
    write_whole(path, to_toml(recipe))


def with_settings(recipe, settings):
    """A recipe with other values, given as texts.

    Args:
        recipe: A `Recipe`.
        settings: Texts `key=value`, such as `"epochs=3"`, `"model=F1"`,
            `"clipping=none"`, `"model.widths=[16, 32]"` or
            `"augmentation.mixup=0"`. Values are TOML's; one that is none is
            taken as text.

    Raises:
        ValueError: If a key is no field of a recipe, or a value does not
            fit.
    """
    fields = _plain(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(
                "A setting must read key=value, such as epochs=3. "
                f"Received: {setting!r}"
            )
        table = fields
        *outer, last = key.split(".")
        for name in outer:
            if not isinstance(table.get(name), dict):
                _refuse_unknown(name, Recipe, table)
                raise ValueError(
                    f"`{name}` of this recipe has no fields of its own. "
                    f"Received: {setting!r} for {name}={table.get(name)!r}"
                )
            table = table[name]
        text = text.strip()
        try:
            table[last] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            table[last] = text
    return _made(Recipe, fields)


def _plain(recipe):
    """A recipe as dictionaries of the values that TOML has."""

    def fields(pairs):
        for _, value in pairs:
            if callable(value):
                raise ValueError(
                    "A recipe with a function cannot be written; use an "
                    f"`Augmentation` or its name. Received: {value!r}"
                )
        return {k: _NONE if value is None else value for k, value in pairs}

    return dataclasses.asdict(recipe, dict_factory=fields)


def _made(cls, fields):
    types = typing.get_type_hints(cls)
    arguments = {}
    for name, value in fields.items():
        _refuse_unknown(name, cls, types)
        arguments[name] = _fitted(value, types[name])
    try:
        return cls(**arguments)
    except TypeError as error:  # A required field is not there.
        raise ValueError(
            f"A field is missing in the {cls.__name__}: {error}"
        ) from error


def _fitted(value, expected):
    options = typing.get_args(expected) or (expected,)
    if value == _NONE and type(None) in options:
        return None
    if isinstance(value, dict):
        for option in options:
            if dataclasses.is_dataclass(option):
                return _made(option, value)
    if isinstance(value, list):
        return tuple(value)
    if type(value) is int and float in options and int not in options:
        return float(value)
    return value


def _refuse_unknown(name, cls, known):
    if name in known:
        return
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"A {cls.__name__} has the fields {', '.join(known)}{hint} "
        f"Received: {name!r}"
    )
