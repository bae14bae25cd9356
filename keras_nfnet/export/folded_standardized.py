"""How a standardized layer is folded."""

import keras
import numpy as np
from keras import ops

from keras_nfnet.export.folded_layers import PlainConvolution
from keras_nfnet.export.folded_values import Scaled, Source
from keras_nfnet.layers import ScaledWSMixin

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


class KerasKernels:
    """A layer of Keras, whose last kernel and bias can take a factor."""

    def __init__(self, layer):
        self.layer = layer

    def values(self):
        *_, kernel, bias = self.layer.get_weights()
        return kernel, bias

    def set_values(self, kernel, bias):
        kernels = self.layer.get_weights()[:-2]
        self.layer.set_weights([*kernels, kernel, bias])


def keeps_its_operation(layer):
    """Whether no class of the user's changes what a layer computes."""
    return all(
        kind.__module__.split(".")[0] in ("keras", "keras_nfnet")
        or not {"call", "convolution_op"} & vars(kind).keys()
        for kind in type(layer).__mro__
    )


def fold_standardized(folder, layer, value):
    """A standardized layer as a plain one.

    Args:
        folder: Of the network, which names and copies layers.
        layer: The layer.
        value: The `Scaled` value that it is called on.

    Returns:
        The `Scaled` result.
    """
    if not keeps_its_operation(layer):
        return Scaled(folder.copied(layer)(folder.plain(value)))
    kernels = [
        ops.convert_to_numpy(layer.standardized_kernel(name))
        for name in layer.unit_axes
    ]
    kernels[-1] = kernels[-1] * np.float32(value.factor)
    config = {
        **layer.plain_config(),
        **folder.options(layer.name, layer.dtype_policy),
    }
    tensor = value.tensor
    is_plain = (
        isinstance(layer, _CONVOLUTIONS)
        and layer.data_format == "channels_last"
    )
    if is_plain:
        if layer.padding == "causal":
            before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
            tensor = keras.layers.ZeroPadding1D(
                (before, 0),
                **folder.options(f"{layer.name}_pad", layer.dtype_policy),
            )(tensor)
            config["padding"] = "valid"
        names = ("filters", "kernel_size", "strides", "padding", "groups")
        names += ("dilation_rate", "name", "dtype")
        plain = PlainConvolution(**{name: config[name] for name in names})
        source = plain
    else:
        # The layer that the mixin was put before.
        kinds = type(layer).__mro__
        kind = kinds[kinds.index(ScaledWSMixin) + 1]
        plain = kind.from_config({**config, "activation": None})
        source = KerasKernels(plain)
    plain.build(tensor.shape)
    bias = np.zeros(plain.bias.shape, "float32")
    if layer.bias is not None:
        bias = ops.convert_to_numpy(layer.bias)
    if is_plain:
        plain.set_values(*kernels, bias)
    else:
        plain.set_weights([*kernels, bias])
    result = plain(tensor)
    if layer.activation is keras.activations.linear:
        return Scaled(result, source=Source(source))
    activation = keras.layers.Activation(
        layer.activation,
        **folder.options(f"{layer.name}_activation", layer.dtype_policy),
    )
    return Scaled(activation(result))
