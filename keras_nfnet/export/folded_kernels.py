"""What the kernels and biases of a folded network are."""

import numpy as np
from keras import ops

from keras_nfnet.export.folded_layers import PlainBlock, PlainConvolution

# A branch's factor c goes into its last kernel, and 1/c into the gate's
# first. Below this, 1/c could leave the range of float16: c stays a factor.
_SMALLEST = 2.0**-10


def _values(variable):
    return np.asarray(ops.convert_to_numpy(variable))


def skip_factor(layer):
    return float(_values(layer.skip_gain)) * layer.scale


def plain_convolution(layer, name, dtype):
    return PlainConvolution(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        groups=layer.groups,
        name=name,
        dtype=dtype,
    )


def folded_values(layer, factor, after=1.0):
    """Kernel and bias of `conv(x * factor) * after`, standardized."""
    kernel = ops.convert_to_numpy(layer.standardized_kernel())
    bias = np.zeros(layer.filters, kernel.dtype)
    if layer.bias is not None:
        bias = _values(layer.bias)
    return kernel * np.float32(factor * after), bias * np.float32(after)


def assign_gate(layer, plain, factor):
    """Weights of a gate whose input is `factor` times too small."""
    kernel, bias = layer.reduce.get_weights()
    plain.reduce.set_weights([kernel * np.float32(factor), bias])
    plain.expand.set_weights(layer.expand.get_weights())


def _branch_factor(layer):
    return skip_factor(layer.skip_init) * layer.squeeze_excite.scale


def _branch(layer):
    """The convolutions of a block's branch, first to last."""
    convolutions = (layer.conv0, layer.conv1, layer.conv1b, layer.conv2)
    return [c for c in convolutions if c is not None]


def plain_block(layer, name, dtype):
    def config(part, part_name):
        return plain_convolution(part, part_name, dtype).get_config()

    factor = _branch_factor(layer)
    branch = _branch(layer) if factor else []
    names = ["conv0", "conv1", "conv1b"][: len(branch) - 1] + ["conv2"]
    return PlainBlock(
        [config(c, n) for c, n in zip(branch, names, strict=False)],
        layer.conv_shortcut and config(layer.conv_shortcut, "conv_shortcut"),
        layer.pool and layer.strides,
        layer.squeeze_excite.reduce.units,
        gate_scale=factor if 0 < abs(factor) < _SMALLEST else 1.0,
        activation=layer.activation,
        name=name,
        dtype=dtype,
    )


def assign_block(layer, plain):
    before = layer.preactivation.gain * layer.preactivation.scale
    if plain.shortcut is not None:
        plain.shortcut.set_values(*folded_values(layer.conv_shortcut, before))
    if not plain.convolutions:
        return
    between = layer.act.gain * layer.act.scale
    after = _branch_factor(layer) if plain.gate_scale == 1 else 1.0
    branch = _branch(layer)
    for index, (part, folded) in enumerate(
        zip(branch, plain.convolutions, strict=True)
    ):
        is_last = index == len(branch) - 1
        folded.set_values(
            *folded_values(
                part,
                between if index else before,
                after if is_last else 1.0,
            )
        )
    assign_gate(layer.squeeze_excite, plain.gate, 1 / after)
