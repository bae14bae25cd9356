"""Whether a network keeps the variance that the analysis expects.

Reference: arXiv:2101.08692, sections 3 and 4.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops, tree

from keras_nfnet.diagnostics.signal_propagation import inputs_or_noise
from keras_nfnet.layers import ScaledActivation, SkipInit
from keras_nfnet.layers.activation import output_variance
from keras_nfnet.models.graphs import functional_graph, is_graph, run_graph
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.utils.arguments import positive
from keras_nfnet.utils.types import Tensor

# Positions over batch and sides that a variance is taken from, at least.
_POSITIONS = 8192
# They lower the variance by as much as neighbours differ, which is the
# signal's; the analysis says nothing of it.
_POOLS = tuple(
    getattr(layers, f"{kind}Pooling{rank}D")
    for kind in ("Average", "Max", "GlobalAverage", "GlobalMax")
    for rank in (1, 2, 3)
)


@dataclass(frozen=True)
class VarianceReport:
    """The variances of a network beside those expected at initialization.

    Attributes:
        names: Layers, in the order of the signal: those with standardized
            kernels and sums.
        measured: Mean over channels of the channel variance of each output.
        expected: What the analysis expects of it.
        tolerance: Largest relative difference that is no departure.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32,), (1,), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None)
    >>> report = keras_nfnet.check_normalizer_free(model, tolerance=0.5)
    >>> report.departures
    []

    Reference: arXiv:2101.08692, section 3.
    """

    names: list
    measured: list
    expected: list
    tolerance: float

    @property
    def departures(self) -> list:
        """`(name, measured, expected)` of the variances that depart."""
        rows = zip(self.names, self.measured, self.expected, strict=True)
        return [row for row in rows if departs(*row[1:], self.tolerance)]

    def __str__(self):
        departures, count = self.departures, len(self.names)
        within = f"within {self.tolerance:.0%} of those expected"
        if not departures:
            return f"All {count} variances are {within}."
        lines = [
            f"{len(departures)} of {count} variances are not {within}:",
            *(
                f"  {name}: {measured:.3f}, expected {expected:.3f}"
                for name, measured, expected in departures
            ),
        ]
        return "\n".join(lines)


def check_normalizer_free(
    model: keras.Model, x: Tensor | None = None, tolerance: float = 0.1
) -> VarianceReport:
    """Measures each sum and standardized layer of a network.

    The variances are those at initialization, without dropout, with a SkipInit
    gain of 1, and 1 for gains that are all 0. The analysis expects variance 1
    of a standardized layer on an activation of variance 1, `alpha²` of a
    residual branch, and the sum of both sides of an `Add`. What a pooling
    layer takes away is measured and carried on: it is the signal's own. The
    border is left out: in place of zero padding, standardized layers see
    their inputs repeated. A departure is named where it arises; what follows
    is compared with what it leaves.

    Args:
        model: A functional or sequential Keras model with one input.
        x: Inputs of the model's input shape, or `None` for standard-normal
            ones, as many as the variances need (64 along a side that the
            model leaves open).
        tolerance: Relative difference up to which a variance is as
            expected, above 0.

    Returns:
        A `VarianceReport`; `print` it.

    Raises:
        ValueError: If the model is of another kind, has several inputs or
            nothing to measure, or an argument does not fit.

    Example:

    >>> nf = keras_nfnet.layers
    >>> inputs = keras.Input((64, 64, 3))
    >>> x = nf.ScaledWSConv2D(32, 3, name="first")(inputs)
    >>> x = keras.layers.ReLU()(x)  # without its gain
    >>> x = nf.ScaledWSConv2D(32, 3, name="second")(x)
    >>> x = nf.ScaledActivation("relu")(x)
    >>> x = nf.ScaledWSConv2D(32, 3, name="third")(x)
    >>> report = keras_nfnet.check_normalizer_free(keras.Model(inputs, x))
    >>> [name for name, measured, expected in report.departures]
    ['second']

    Reference: arXiv:2101.08692, sections 3 and 4.
    """
    tolerance = positive("tolerance", tolerance)
    graph = functional_graph(model)
    x = inputs_or_noise(graph, x, side=64, positions=_POSITIONS)
    walk = _Walk(tolerance)
    with keras.StatelessScope(state_mapping=list(_gains_of_one(model))):
        walk.run(graph, tree.map_structure(lambda _: _Signal(x), graph.input))
    if not walk.rows:
        raise ValueError(
            "`model` must have layers with standardized kernels, or sums. "
            f"Received: model={model!r}"
        )
    names, measured, expected = map(list, zip(*walk.rows, strict=True))
    return VarianceReport(names, measured, expected, tolerance)


def departs(measured, expected, tolerance):
    """Whether a variance is not the expected one."""
    # Written so that NaN departs.
    return not abs(measured - expected) <= tolerance * expected


class _Signal:
    """A tensor with the variance expected of it.

    `designed` is that of the analysis, which `beta` goes by; `expected` also
    knows what pooling and departures have made of it.
    """

    def __init__(self, tensor, designed=1.0, expected=None):
        self.tensor = tensor
        self.designed = designed
        self.expected = designed if expected is None else expected

    def scaled(self, tensor, factor):
        return _Signal(tensor, self.designed * factor, self.expected * factor)


class _Walk:
    """Follows a signal through a graph, and notes what is to be checked."""

    def __init__(self, tolerance):
        self.tolerance = tolerance
        self.rows = []

    def run(self, graph, inputs):
        return run_graph(graph, inputs, self)

    def __call__(self, operation, *args, **kwargs):
        signals = [
            value
            for value in tree.flatten((args, kwargs))
            if isinstance(value, _Signal)
        ]
        if isinstance(operation, NFBlock):
            return operation.walk(self, *signals)
        if isinstance(operation, keras.Model) and is_graph(operation):
            return self.run(functional_graph(operation), signals)
        tensors, options = tree.map_structure(
            lambda value: value.tensor if isinstance(value, _Signal) else value,
            (args, kwargs),
        )
        if hasattr(operation, "standardized_kernel"):
            outputs = _without_border(operation, signals[0].tensor)
        else:
            outputs = operation(*tensors, **options)
        return tree.map_structure(
            lambda output: self._expected(operation, signals, output), outputs
        )

    def _expected(self, operation, signals, output):
        if not signals:
            return output
        signal = signals[0].scaled(output, 1.0)
        if isinstance(operation, layers.Add):
            signal = _Signal(
                output,
                sum(each.designed for each in signals),
                sum(each.expected for each in signals),
            )
            self._note(operation, signal)
        elif hasattr(operation, "standardized_kernel"):
            signal = signal.scaled(output, getattr(operation, "scale", 1) ** 2)
            self._note(operation, signal)
        elif isinstance(operation, SkipInit | layers.Rescaling):
            if isinstance(operation.scale, int | float):
                signal = signal.scaled(output, operation.scale**2)
        elif isinstance(operation, ScaledActivation):
            # `scale`, as beta, brings what is designed to variance 1.
            gain = operation.gain**2
            left = signal.expected / signal.designed
            signal = _Signal(
                output,
                gain * output_variance(operation.function),
                gain * output_variance(operation.function, left),
            )
        elif isinstance(operation, _POOLS) or len(signals) > 1:
            before = np.mean([_variance(each.tensor) for each in signals])
            left = _variance(output) / before if before else 1.0
            signal.expected *= left
        return signal

    def _note(self, operation, signal):
        measured = _variance(signal.tensor)
        self.rows.append((operation.name, measured, signal.expected))
        if departs(measured, signal.expected, self.tolerance):
            signal.expected = measured


def _without_border(layer, x):
    """The outputs of a standardized layer if its inputs went on all around.

    Zero padding lowers the variance at the border, and in small feature maps
    much of a map is border. So the inputs are repeated in its place.
    """
    if (
        getattr(layer, "padding", "valid") == "valid"
        or getattr(layer, "output_padding", None) is not None
        or layer.data_format == "channels_first"
    ):
        return layer(x)
    is_transposed = hasattr(layer, "output_padding")
    pads, crops = [(0, 0)], [slice(None)]
    for kernel, stride, dilation in zip(
        layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        # A multiple of the stride keeps the positions of the kernel.
        steps = -(-kernel * dilation // stride)
        pads.append((steps * stride, steps * stride))
        border = steps * stride**2 if is_transposed else steps
        crops.append(slice(border, -border))
    x = np.pad(ops.convert_to_numpy(x), [*pads, (0, 0)], mode="wrap")
    return layer(ops.convert_to_tensor(x))[tuple(crops)]


def _variance(x):
    """Mean over channels of the channel variance."""
    x = ops.cast(x, "float32")
    axes = tuple(range(len(x.shape) - 1))
    return float(ops.mean(ops.var(x, axis=axes)))


def _gains_of_one(model):
    """`(variable, ones)` of all SkipInit's gains, and of gains of 0."""
    for layer in model._flatten_layers():
        for name in ("gain", "skip_gain"):
            gain = getattr(layer, name, None)
            if isinstance(gain, keras.Variable) and (
                name == "skip_gain" or not np.any(ops.convert_to_numpy(gain))
            ):
                yield gain, ops.ones(gain.shape, gain.dtype)
