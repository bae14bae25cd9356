"""A folded network in TensorFlow's operations, as LiteRT runs them best.

Measured on LiteRT 2.3's CPU delegate: it has a GELU of its own (0.30 ms for
a million values, against 0.45 and more for one made of other operations)
and a grouped convolution (6 groups of 128 channels at 16×16: 5.5 ms, against
6.0 as six convolutions).
"""

import tensorflow as tf

from keras_nfnet.export.lowering import activation_name
from keras_nfnet.layers.grouped_convolution import padded


class TFLiteTarget:
    """Values are float32 tensors, channels last; weights are constants.

    Args:
        constant: Function from a kernel to its TensorFlow constant.
    """

    def __init__(self, constant=tf.constant):
        self.constant = constant
        # Names of the layers that are not the package's.
        self.others = []

    def convolution(
        self,
        x,
        kernel,
        bias,
        strides,
        padding,
        groups,
        dilation_rate,
        sides=None,
    ):
        if padding == "symmetric":
            x, padding = padded(x, kernel.shape, strides, dilation_rate)
        # The groups follow from the shapes.
        kernel = self.constant(kernel)
        x = tf.nn.conv2d(
            x, kernel, strides, padding.upper(), "NHWC", dilation_rate
        )
        return tf.nn.bias_add(x, tf.constant(bias))

    def dense_of_pixel(self, x, kernel, bias):
        """A dense layer on the channels of one pixel.

        Without a reshape, which would have to compute its shape in a graph
        of any batch.
        """
        return self.convolution(
            x, kernel[None, None], bias, (1, 1), "valid", 1, (1, 1)
        )

    def along_channels(self, x, kernel):
        x = tf.transpose(x, (0, 3, 1, 2))
        x = tf.nn.conv2d(x, tf.constant(kernel[:, None, None, None]), 1, "SAME")
        return tf.transpose(x, (0, 2, 3, 1))

    def activation(self, x, function, rank=4):
        if activation_name(function) == "gelu":
            return tf.nn.gelu(x, approximate=True)
        return function(x)

    def dense(self, x, kernel, bias):
        x = tf.matmul(x, self.constant(kernel))
        return x if bias is None else tf.nn.bias_add(x, tf.constant(bias))

    def mean(self, x, keepdims):
        return tf.reduce_mean(x, (1, 2), keepdims=keepdims)

    def maximum(self, x, keepdims):
        return tf.reduce_max(x, (1, 2), keepdims=keepdims)

    def average_pool(self, x, pool_size, strides, padding, sides=None):
        return tf.nn.avg_pool2d(x, pool_size, strides, padding.upper())

    def max_pool(self, x, pool_size, strides, padding, sides=None):
        if padding == "symmetric":
            pads = [(side // 2,) * 2 for side in pool_size]
            x = tf.pad(x, [(0, 0), *pads, (0, 0)], "SYMMETRIC")
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
