"""Walks a folded network and has each of its parts written by a target."""

import functools
import itertools

import keras
import numpy as np

from keras_nfnet.export.folded_layers import (
    PlainActivation,
    PlainConvolution,
    numpy_value,
)
from keras_nfnet.layers import EfficientChannelAttention, SqueezeExcite
from keras_nfnet.layers.activation import ACTIVATIONS
from keras_nfnet.layers.pooling import SymmetricMaxPooling
from keras_nfnet.models import graphs

# The names of activation functions. Keras's own gelu and leaky_relu differ
# from the table's.
_KERAS = ("linear", "relu", "sigmoid", "softmax", "tanh", "elu", "selu")
_KERAS += ("celu", "silu", "relu6", "softplus", "log_sigmoid", "hard_sigmoid")
_KERAS += ("exponential", "mish")
_NAMES = {
    **{getattr(keras.activations, name): name for name in _KERAS},
    keras.activations.gelu: "exact_gelu",
    keras.activations.softsign: "soft_sign",
    **{function: name for name, (function, _) in ACTIVATIONS.items()},
}


class UnknownOperation(Exception):
    """A target has no operation for a layer or an activation."""


class Target:
    """What a folded network is written into: the operations of a runtime.

    Each operation is a method on values of the target's own kind:
    `convolution`, `along_channels`, `activation`, `dense`, `mean`, `maximum`,
    `average_pool`, `max_pool`, `add`, `multiply`, `scale` and those below.
    `sides` are the height and width of the images, `None` where any.
    `activation` is told whether its input `is_shared`, that is, has other
    uses: a runtime cannot join it with what computes that input then.

    Attributes:
        layer: Name of the layer that is being written.
        activations: What the target has for an activation, by its name.
    """

    layer = None
    activations = {}

    def pointwise(self, x, kernel, bias):
        """A dense layer on the channels of every pixel."""
        kernel, unknown = kernel[None, None], (None, None)
        return self.convolution(
            x, kernel, bias, (1, 1), "valid", 1, (1, 1), unknown
        )

    def dense_of_pixel(self, x, kernel, bias):
        """A dense layer on the channels of one pixel.

        Without a reshape, which would have to compute its shape in a graph
        of any batch.
        """
        return self.pointwise(x, kernel, bias)

    def known(self, function):
        """What the target has for an activation function.

        Raises:
            UnknownOperation: If it has none.
        """
        name = activation_name(function)
        if name not in self.activations:
            name = getattr(function, "__name__", function)
            raise UnknownOperation(f"the activation {name!r}")
        return self.activations[name]

    def other(self, layer, *args, **kwargs):
        """A layer that none of the operations is for."""
        raise UnknownOperation(f"the layer {layer.name!r}")


def lower(folded, target, images):
    """Writes a folded model into a target.

    Args:
        folded: What `keras_nfnet.fold` returned.
        target: A `Target`.
        images: The target's value of the normalized images.

    Returns:
        The target's values of the model's outputs, in their structure.

    Raises:
        UnknownOperation: If the target cannot write a layer or activation.
    """
    return _lower_graph(target, graphs.functional_graph(folded), [images])


def activation_name(function):
    """The name of an activation function if it is a known one, or `None`."""
    return _NAMES.get(function)


def _lower_graph(target, graph, inputs, shared_inputs=()):
    """Writes a graph.

    Args:
        target: A `Target`.
        graph: What `functional_graph` returns.
        inputs: The target's values of its inputs.
        shared_inputs: The `id` of each of its input tensors whose value has
            uses outside of the graph.

    Returns:
        The target's values of its outputs, in their structure.
    """
    uses = graphs.uses_of_tensors(graph)
    shared = {x for x, count in uses.items() if count > 1}.union(shared_inputs)
    apply = functools.partial(_lower, target, shared)
    return graphs.run_graph(graph, inputs, apply)


def _lower(target, shared, layer, *args, **kwargs):
    kind = type(layer)
    x = graphs.first_argument(args, kwargs)
    if isinstance(layer, keras.Model) and graphs.is_graph(layer):
        graph = graphs.functional_graph(layer)
        inner = [
            id(own)
            for tensors in graphs.inputs_of_calls(layer)
            for tensor, own in zip(tensors, graph.inputs, strict=False)
            if id(tensor) in shared
        ]
        return _lower_graph(target, graph, x, inner)
    target.layer = layer.name
    if kind in _LOWERINGS:
        return _LOWERINGS[kind](target, layer, x)
    if kind in _ACTIVATIONS:
        return target.activation(
            x,
            getattr(layer, _ACTIVATIONS[kind]),
            _rank(layer),
            is_shared=any(
                id(tensor) in shared
                for tensor in itertools.chain(*graphs.inputs_of_calls(layer))
            ),
        )
    if kind is keras.layers.Rescaling and not layer.offset:
        return target.scale(x, layer.scale)
    is_last = getattr(layer, "data_format", None) == "channels_last"
    if isinstance(layer, keras.layers.GlobalAveragePooling2D) and is_last:
        return target.mean(x, keepdims=layer.keepdims)
    if isinstance(layer, keras.layers.GlobalMaxPooling2D) and is_last:
        return target.maximum(x, keepdims=layer.keepdims)
    if isinstance(layer, _POOLS) and is_last:
        is_symmetric = isinstance(layer, SymmetricMaxPooling)
        padding = "symmetric" if is_symmetric else layer.padding
        is_max = isinstance(layer, keras.layers.MaxPooling2D)
        pool = target.max_pool if is_max else target.average_pool
        return pool(x, layer.pool_size, layer.strides, padding, _sides(layer))
    return target.other(layer, *args, **kwargs)


def _convolution(target, layer, x):
    if len(layer.kernel_size) != 2:
        return target.other(layer, x)
    options = layer.strides, layer.padding, layer.groups, layer.dilation_rate
    return target.convolution(x, *layer.values(), *options, _sides(layer))


def _input_shapes(layer):
    return [tensors[0].shape for tensors in graphs.inputs_of_calls(layer)]


def _sides(layer):
    """Height and width of what a layer is called on, `None` if they differ."""
    return tuple(
        sides[0] if len(set(sides)) == 1 else None
        for sides in zip(
            *(shape[1:3] for shape in _input_shapes(layer)), strict=True
        )
    )


def _rank(layer):
    return len(_input_shapes(layer)[0])


def _softmax(target, layer, x):
    if layer.axis not in (-1, _rank(layer) - 1):
        return target.other(layer, x)
    return target.activation(x, keras.activations.softmax, _rank(layer))


def _squeeze_excite(target, layer, x):
    gate = target.mean(x, keepdims=True)
    for dense in (layer.reduce, layer.expand):
        gate = target.dense_of_pixel(
            gate, numpy_value(dense.kernel), numpy_value(dense.bias)
        )
        gate = target.activation(gate, dense.activation)
    return _gated(target, layer, x, gate)


def _efficient_channel_attention(target, layer, x):
    gate = target.mean(x, keepdims=True)
    gate = target.along_channels(gate, numpy_value(layer.kernel)[:, 0, 0])
    gate = target.activation(gate, keras.activations.sigmoid)
    return _gated(target, layer, x, gate)


def _gated(target, layer, x, gate):
    if layer.scale != 1:
        gate = target.scale(gate, layer.scale)
    return target.multiply(x, gate)


def _dense(target, layer, x):
    if layer.quantization_mode or layer.lora_enabled or _rank(layer) == 3:
        return target.other(layer, x)
    bias = None if layer.bias is None else numpy_value(layer.bias)
    kernel = numpy_value(layer.kernel)
    if _rank(layer) == 4:
        if bias is None:
            bias = np.zeros(layer.units, "float32")
        x = target.pointwise(x, kernel, bias)
    else:
        x = target.dense(x, kernel, bias)
    return target.activation(x, layer.activation, _rank(layer))


_POOLS = (keras.layers.AveragePooling2D, keras.layers.MaxPooling2D)
_LOWERINGS = {
    PlainConvolution: _convolution,
    SqueezeExcite: _squeeze_excite,
    EfficientChannelAttention: _efficient_channel_attention,
    keras.layers.Dense: _dense,
    keras.layers.Add: lambda target, layer, values: functools.reduce(
        target.add, values
    ),
    keras.layers.Softmax: _softmax,
}
# Layers that only compute an activation, and the attribute with its function.
_ACTIVATIONS = {
    PlainActivation: "function",
    keras.layers.Activation: "activation",
}
