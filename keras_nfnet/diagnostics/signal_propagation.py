"""Signal propagation plots.

Reference: Brock et al. 2021, arXiv:2101.08692, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nfnet.layers import StochasticDepth
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.utils.arguments import array
from keras_nfnet.utils.types import Tensor


@dataclass(frozen=True)
class SignalPropagation:
    """Statistics of the signal after the stem and after each block.

    Attributes:
        names: `"stem"` and the blocks' names.
        avg_sq_mean: Mean over channels of the squared channel mean.
        avg_var: Mean over channels of the channel variance.
        res_avg_var: The same of each block's residual branch, after
            squeeze-and-excite and before SkipInit; one fewer than the rest.
        expected_var: What the analysis expects of `avg_var` at
            initialization with a skip gain of 1: 1 after the stem,
            `1 + alpha²` after a stage's first block, growing by `alpha²`.
            The pooled shortcuts lower the measured one on white noise,
            whose neighbouring pixels are independent.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (2, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None)
    >>> signal = keras_nfnet.signal_propagation(model)
    >>> [round(variance, 2) for variance in signal.expected_var]
    [1.0, 1.04, 1.08, 1.04]
    >>> signal.plot().savefig("signal.png")

    Reference: arXiv:2101.08692, section 3.
    """

    names: list
    avg_sq_mean: list
    avg_var: list
    res_avg_var: list
    expected_var: list

    def plot(self) -> Any:
        """Returns a matplotlib figure of the three statistics by depth."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.2), layout="constrained")
        self.draw(figure.subplots(1, 3))
        return figure

    def draw(self, axes: Sequence[Any]) -> None:
        """Draws the three statistics on three matplotlib axes."""
        depth = np.arange(len(self.names))
        panels = (
            ("Average squared channel mean", depth, self.avg_sq_mean),
            ("Average channel variance", depth, self.avg_var),
            ("Residual average variance", depth[1:], self.res_avg_var),
        )
        for axis, (title, x, y) in zip(axes, panels, strict=True):
            axis.plot(x, y, "o-", markersize=3, label="measured")
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("block (0 is the stem)")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        axes[1].plot(depth, self.expected_var, "k--", lw=1, label="expected")
        axes[1].legend(fontsize=8)


def signal_propagation(
    model: keras.Model, x: Tensor | None = None
) -> SignalPropagation:
    """Measures how a network propagates its signal, in inference.

    Args:
        model: A model of this package.
        x: Normalized images `(batch, height, width, 3)`, or `None` for
            standard-normal ones (4 of the model's size, else 128 px).

    Returns:
        A `SignalPropagation` with lists of floats.

    Raises:
        ValueError: If the model has no `NFBlock`, or `x` has a wrong shape.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (2, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None)
    >>> signal = keras_nfnet.signal_propagation(model)
    >>> signal.names
    ['stem', 'stage1_block0', 'stage1_block1', 'stage2_block0']
    >>> len(signal.avg_var), len(signal.res_avg_var)
    (4, 3)

    Reference: arXiv:2101.08692, section 3.
    """
    blocks = [
        layer
        for layer in getattr(model, "layers", [])
        if isinstance(layer, NFBlock)
    ]
    if not blocks:
        raise ValueError(
            "`model` must be a network of this package, with `NFBlock` "
            f"layers. Received: model={model!r}"
        )
    x = inputs_or_noise(model, x, side=128, dtype=model.compute_dtype)
    stem = keras.Function(model.inputs, blocks[0].input)
    signal = stem([x])
    statistics, residual = [_statistics(signal)], []

    def apply(layer, *args):
        if isinstance(layer, StochasticDepth):
            residual.append(_statistics(args[0]))
        return layer(*args)

    expected = [1.0]
    variance = 1.0
    for block in blocks:
        signal = block.walk(apply, signal)
        statistics.append(_statistics(signal))
        if block.conv_shortcut is not None:
            variance = 1.0
        variance += block.alpha**2
        expected.append(variance)
    return SignalPropagation(
        names=["stem"] + [block.name for block in blocks],
        avg_sq_mean=[squared_mean for squared_mean, _ in statistics],
        avg_var=[variance for _, variance in statistics],
        res_avg_var=[variance for _, variance in residual],
        expected_var=expected,
    )


def inputs_or_noise(model, x, side, positions=0, dtype=None):
    """The inputs of a model, or standard-normal ones where `x` is `None`.

    Args:
        model: A functional Keras model.
        x: Inputs or `None`.
        side: A side in pixels where the model leaves it open.
        positions: Positions over batch and sides, at least; the batch is 4 or
            more.
        dtype: Type of the result; `None` for that of the model's input.

    Raises:
        ValueError: If the model has several inputs, or `x` does not fit.
    """
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {len(model.inputs)} inputs"
        )
    (expected,) = model.inputs
    shape = tuple(expected.shape[1:])
    if x is None:
        if "int" in keras.backend.standardize_dtype(expected.dtype):
            raise ValueError(
                "`x` must be given for a model on integers. Received: x=None"
            )
        *sides, channels = (each or side for each in shape)
        batch = max(4, math.ceil(positions / math.prod(sides)))
        x = np.random.default_rng(0).standard_normal(
            (batch, *sides, channels), np.float32
        )
    x = ops.cast(array("x", x), dtype or expected.dtype)
    fits = len(x.shape) == len(shape) + 1 and all(
        expected in (None, given)
        for expected, given in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or 0 in tuple(x.shape):
        raise ValueError(
            f"`x` must have shape {('batch', *shape)}. "
            f"Received: x of shape {tuple(x.shape)}"
        )
    return x


def _statistics(x):
    """Means over channels: of the squared channel mean, and of the variance."""
    x = ops.cast(x, "float32")
    mean = ops.mean(x, axis=(0, 1, 2))
    variance = ops.mean(ops.square(x - mean), axis=(0, 1, 2))
    return float(ops.mean(ops.square(mean))), float(ops.mean(variance))
