"""Types of public arguments and results, under one name each.

Keras, TensorFlow and the backends' arrays carry no types of their own.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from keras_nfnet.models.classifier import NFNetModel

Path: TypeAlias = str | os.PathLike
# An array, a tensor of any backend, or what becomes one.
Tensor: TypeAlias = Any
# `(height, width, channels)`, `None` where any.
Shape: TypeAlias = Sequence[int | None]
# A side in pixels, or `(height, width)`.
Size: TypeAlias = int | Sequence[int]
# Pixels, or a crop fraction.
Margin: TypeAlias = int | float
Labels: TypeAlias = Sequence[str] | Path
Progress: TypeAlias = Callable[[str], Any]
InputRange: TypeAlias = Literal["imagenet", "0-255"]
Activation: TypeAlias = str | Callable[..., Any]
Axes: TypeAlias = int | Sequence[int]
# `{module: {parameter: array}}`, as Haiku has it.
Tree: TypeAlias = Mapping[str, Mapping[str, Any]]
# Which variables: themselves, ends of their paths, a list, or a function.
Which: TypeAlias = str | Sequence[Any] | Callable[[Any], bool] | Any
# A number, or a Keras schedule.
Rate: TypeAlias = float | Any


# Written out, as in `NFNet`: type checkers and editors read no signature that
# is made at run time.
class Constructor(Protocol):
    """A network's constructor, with the arguments of `keras.applications`."""

    __name__: str

    def __call__(
        self,
        include_top: bool = True,
        weights: Path | None = "imagenet",
        input_tensor: Tensor | None = None,
        input_shape: Shape | None = None,
        pooling: Literal["avg", "max"] | None = None,
        classes: int = 1000,
        classifier_activation: Activation | None = "softmax",
        name: str | None = None,
        *,
        drop_rate: float | None = None,
        stochastic_depth_rate: float | None = None,
        activation: Activation | None = None,
        width: float = 1.0,
        output_stride: int = 32,
    ) -> "NFNetModel": ...


class ResNetConstructor(Protocol):
    """`Constructor` of DeepMind's NF-ResNets, which have `use_se` besides."""

    __name__: str

    def __call__(
        self,
        include_top: bool = True,
        weights: Path | None = "imagenet",
        input_tensor: Tensor | None = None,
        input_shape: Shape | None = None,
        pooling: Literal["avg", "max"] | None = None,
        classes: int = 1000,
        classifier_activation: Activation | None = "softmax",
        name: str | None = None,
        *,
        drop_rate: float | None = None,
        stochastic_depth_rate: float | None = None,
        activation: Activation | None = None,
        width: float = 1.0,
        output_stride: int = 32,
        use_se: bool = False,
    ) -> "NFNetModel": ...
