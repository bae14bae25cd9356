"""A folded network in TensorFlow's operations, as LiteRT runs them best.

Measured on LiteRT 2.3's CPU delegate: it has a GELU of its own (0.30 ms for
a million values, against 0.45 and more for one made of other operations)
and a grouped convolution (6 groups of 128 channels at 16×16: 5.5 ms, against
6.0 as six convolutions).

What the delegate does not take, LiteRT's own kernels compute. Two of these
are slow and written here in other operations; measured on 1.3 million values:

- A ReLU of 8 bits that is an operation of its own takes 9.7 ms, and 0.2
  within a multiplication.
- Mirrored padding takes 9 ms in 8 bits and 12 in float32, joining the edges
  and pooling 0.4 together.

A GELU of 8 bits is looked up in a table. It takes 0.5 ms and stays.
"""

import numpy as np
import tensorflow as tf

from keras_nfnet.export.lowering import Target, activation_name
from keras_nfnet.layers.grouped_convolution import padded

# Activations that TensorFlow Lite computes within the operation before them,
# if nothing else uses its result.
_FUSED = ("relu", "relu6")
# The smallest float32 above 1. The converter removes a factor of exactly 1.
_ONE = np.nextafter(np.float32(1), np.float32(2))


class TFLiteTarget(Target):
    """Values are float32 tensors, channels last; weights are constants.

    Args:
        constant: Function from a kernel to its TensorFlow constant.
        is_int8: Whether the converter makes the activations 8-bit integers.
    """

    def __init__(self, constant=tf.constant, is_int8=False):
        self.constant = constant
        self.is_int8 = is_int8
        # Names of the layers that are not the package's.
        self.others = []

    def convolution(
        self, x, kernel, bias, strides, padding, groups, dilation_rate, sides
    ):
        if padding == "symmetric":
            x, padding = padded(x, kernel.shape, strides, dilation_rate)
        # The groups follow from the shapes.
        kernel = self.constant(kernel)
        x = tf.nn.conv2d(
            x, kernel, strides, padding.upper(), "NHWC", dilation_rate
        )
        return tf.nn.bias_add(x, tf.constant(bias))

    def along_channels(self, x, kernel):
        x = tf.transpose(x, (0, 3, 1, 2))
        x = tf.nn.conv2d(x, tf.constant(kernel[:, None, None, None]), 1, "SAME")
        return tf.transpose(x, (0, 2, 3, 1))

    def activation(self, x, function, rank=4, is_shared=False):
        name = activation_name(function)
        if name == "gelu":
            return tf.nn.gelu(x, approximate=True)
        if self.is_int8 and is_shared and name in _FUSED:
            # An operation that it can be computed within.
            x = x * tf.constant(_ONE)
        return function(x)

    def dense(self, x, kernel, bias):
        x = tf.matmul(x, self.constant(kernel))
        return x if bias is None else tf.nn.bias_add(x, tf.constant(bias))

    def mean(self, x, keepdims):
        return tf.reduce_mean(x, (1, 2), keepdims=keepdims)

    def maximum(self, x, keepdims):
        return tf.reduce_max(x, (1, 2), keepdims=keepdims)

    def average_pool(self, x, pool_size, strides, padding, sides):
        # The delegate does not take it in 8 bits. With a depthwise convolution
        # in its place an NF-ResNet50 was 8% faster, but its logits lay 5%
        # further from the float ones: it rounds by a scale of its own.
        return tf.nn.avg_pool2d(x, pool_size, strides, padding.upper())

    def max_pool(self, x, pool_size, strides, padding, sides):
        if padding == "symmetric":
            for axis, side in enumerate(pool_size, start=1):
                x = _with_edges(x, side // 2, axis)
            padding = "valid"
        return tf.nn.max_pool2d(x, pool_size, strides, padding.upper())

    def add(self, x, y):
        return x + y

    def multiply(self, x, y):
        return x * y

    def scale(self, x, factor):
        return tf.cast(x, tf.float32) * factor

    def other(self, layer, *args, **kwargs):
        self.others.append(layer.name)
        return layer(*args, **kwargs)


def _with_edges(x, count, axis):
    """Images with their outermost `count` rows or columns once more.

    The repeated pixels are in the same windows, so no maximum changes.
    """
    if not count:
        return x
    first, last = [slice(None)] * 4, [slice(None)] * 4
    first[axis], last[axis] = slice(count), slice(-count, None)
    return tf.concat([x[tuple(first)], x, x[tuple(last)]], axis)
