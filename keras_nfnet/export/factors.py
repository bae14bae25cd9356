"""Values of a network being folded, and the layers that take their factors."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nfnet.export.folded_layers import PlainConvolution, numpy_value
from keras_nfnet.layers import ScaledWSMixin

# A factor c goes into a convolution, and 1/c into the gates after it. Below
# this, 1/c could exceed the range of float16, so c stays a factor.
_SMALLEST = 2.0**-10
_CONVOLUTIONS = keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D


@dataclasses.dataclass(eq=False)
class Source:
    """A convolution, and the kernels of the gates between it and a value.

    `positive`: whether an activation or a maximum came between, which only
    a factor above 0 passes.
    """

    convolution: Any
    gates: tuple = ()
    positive: bool = False

    def takes(self, factor):
        if factor < 0 and self.positive:
            return False
        return factor != 0 and (not self.gates or abs(factor) >= _SMALLEST)

    def multiply(self, factor):
        kernel, bias = self.convolution.values()
        factor = np.float32(factor)
        self.convolution.set_values(kernel * factor, bias * factor)
        for gate in self.gates:
            gate.assign(numpy_value(gate) / factor)


@dataclasses.dataclass(eq=False)
class Scaled:
    """A tensor of the folded graph that stands for `tensor * factor`.

    `source` can take the factor. It is `None` if an operation came between
    that no factor passes, or if something else uses the tensor.
    """

    tensor: Any
    factor: float = 1.0
    source: Source | None = None

    def rectified(self):
        """The source, after an operation that only factors above 0 pass."""
        return self.source and dataclasses.replace(self.source, positive=True)


class _KerasKernels:
    """A layer of Keras, whose last kernel and bias can take a factor."""

    def __init__(self, layer):
        self.layer = layer

    def values(self):
        return self.layer.get_weights()[-2:]

    def set_values(self, kernel, bias):
        kernels = self.layer.get_weights()[:-2]
        self.layer.set_weights([*kernels, kernel, bias])


def _keeps_its_operation(layer):
    """Whether no class of the user's changes what a layer computes."""
    return all(
        kind.__module__.split(".")[0] in ("keras", "keras_nfnet")
        or not {"call", "convolution_op"} & vars(kind).keys()
        for kind in type(layer).__mro__
    )


def fold_standardized(folder, layer, value):
    """A standardized layer as a plain one.

    Args:
        folder: Names and copies the layers of the network.
        layer: The layer.
        value: The `Scaled` value that it is called on.

    Returns:
        The `Scaled` result.
    """
    if not _keeps_its_operation(layer):
        return Scaled(folder.copied(layer)(folder.plain(value)))
    tensor = value.tensor
    if _is_plain(layer) and layer.padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        tensor = keras.layers.ZeroPadding1D(
            (before, 0),
            **folder.options(f"{layer.name}_pad", layer.dtype_policy),
        )(tensor)

    def make():
        options = folder.options(layer.name, layer.dtype_policy)
        return _plain_layer(layer, options, value.factor, tensor.shape)

    plain = folder.once(layer, make, value.factor)
    result = plain(tensor)
    if layer.activation is keras.activations.linear:
        is_ours = isinstance(plain, PlainConvolution)
        return Scaled(
            result, source=Source(plain if is_ours else _KerasKernels(plain))
        )
    activation = keras.layers.Activation(
        layer.activation,
        **folder.options(f"{layer.name}_activation", layer.dtype_policy),
    )
    return Scaled(activation(result))


def _is_plain(layer):
    """Whether a `PlainConvolution` stands for a standardized layer."""
    is_convolution = isinstance(layer, _CONVOLUTIONS)
    return is_convolution and layer.data_format == "channels_last"


def _plain_layer(layer, options, factor, shape):
    """The plain layer of a standardized one, whose inputs have a factor."""
    kernels = [
        ops.convert_to_numpy(layer.standardized_kernel(name))
        for name in layer.unit_axes
    ]
    kernels[-1] = kernels[-1] * np.float32(factor)
    config = {**layer.plain_config(), **options}
    is_plain = _is_plain(layer)
    if is_plain:
        if layer.padding == "causal":
            config["padding"] = "valid"
        names = (*PlainConvolution.FIELDS, "name", "dtype")
        plain = PlainConvolution(**{name: config[name] for name in names})
    else:
        # The Keras layer that the mixin precedes among the base classes.
        kinds = type(layer).__mro__
        kind = kinds[kinds.index(ScaledWSMixin) + 1]
        plain = kind.from_config({**config, "activation": None})
    plain.build(shape)
    bias = np.zeros(plain.bias.shape, "float32")
    if layer.bias is not None:
        bias = ops.convert_to_numpy(layer.bias)
    if is_plain:
        plain.set_values(*kernels, bias)
    else:
        plain.set_weights([*kernels, bias])
    return plain
