"""Walks a folded network and has each of its parts written by a target.

A target has the operations of a runtime as methods, on values of its own
kind: `convolution`, `activation`, `dense`, `mean`, `average_pool`, `add`,
`multiply`, `scale` and, for layers of other packages, `other`.
"""

import keras

from keras_nfnet.export.folded_layers import (
    PlainActivation,
    PlainBlock,
    PlainConvolution,
    PlainGate,
    numpy_value,
)
from keras_nfnet.export.folding import functional_graph
from keras_nfnet.layers.activation import ACTIVATIONS

# Of Keras's own functions those that are the same in every runtime; its
# gelu and leaky_relu differ from the table's.
_KERAS = ("linear", "relu", "sigmoid", "softmax", "tanh", "elu", "selu")
_NAMES = {getattr(keras.activations, name): name for name in _KERAS}
_NAMES.update({function: name for name, (function, _) in ACTIVATIONS.items()})


def lower(folded, target, images):
    """Writes a folded model into a target.

    Args:
        folded: What `keras_nfnet.fold` returned, with one output.
        target: See above.
        images: The target's value of the normalized images.

    Returns:
        The target's value of the model's output.
    """
    return functional_graph(folded)._run_through_graph(
        [images],
        call_fn=lambda operation, *args, **kwargs: _lower(
            target, operation, *args, **kwargs
        ),
    )


def activation_name(function):
    """The name of an activation function if it is a known one, or `None`."""
    return _NAMES.get(function)


def _lower(target, layer, *args, **kwargs):
    kind = type(layer)
    if kind is PlainBlock:
        return _block(target, layer, *args)
    if kind is PlainConvolution:
        return _convolution(target, layer, *args)
    if kind is PlainActivation:
        return _activation(target, layer, *args)
    if kind is PlainGate:
        return _gate(target, layer, *args)
    if kind is keras.layers.Rescaling and not layer.offset:
        return target.scale(*args, layer.scale)
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return target.mean(*args, keepdims=layer.keepdims)
    if kind is keras.layers.Dense:
        return _dense(target, layer, *args)
    return target.other(layer, *args, **kwargs)


def _block(target, layer, x):
    outputs = x
    if layer.shortcut is None and not layer.convolutions:
        return x
    activated = _activation(target, layer.act, x)
    if layer.shortcut is not None:
        outputs = activated
        if layer.pooling:
            outputs = target.average_pool(outputs, layer.pool)
        outputs = _convolution(target, layer.shortcut, outputs)
    if not layer.convolutions:
        return outputs
    residual = _convolution(target, layer.convolutions[0], activated)
    for convolution in layer.convolutions[1:]:
        residual = _activation(target, layer.act, residual)
        residual = _convolution(target, convolution, residual)
    return target.add(outputs, _gate(target, layer.gate, residual))


def _convolution(target, layer, x):
    return target.convolution(
        x,
        *layer.values(),
        strides=layer.strides,
        padding=layer.padding,
        groups=layer.groups,
    )


def _activation(target, layer, x):
    return target.activation(x, layer.function)


def _gate(target, layer, x):
    # 1×1 convolutions on one pixel: dense layers without a reshape, which
    # would have to compute its shape in a graph of any batch.
    gate = target.mean(x, keepdims=True)
    for dense in (layer.reduce, layer.expand):
        kernel = numpy_value(dense.kernel)[None, None]
        bias = numpy_value(dense.bias)
        gate = target.convolution(gate, kernel, bias, (1, 1), "valid", 1)
        gate = target.activation(gate, dense.activation)
    if layer.scale != 1:
        gate = target.scale(gate, layer.scale)
    return target.multiply(x, gate)


def _dense(target, layer, x):
    bias = None if layer.bias is None else numpy_value(layer.bias)
    x = target.dense(x, numpy_value(layer.kernel), bias)
    return target.activation(x, layer.activation)
