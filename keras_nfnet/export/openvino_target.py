"""A folded network in OpenVINO's operations, channels first inside."""

import collections

import numpy as np
import openvino
from openvino import opset13 as operations

from keras_nfnet.export.lowering import Target, UnknownOperation
from keras_nfnet.layers.grouped_convolution import symmetric_padding

# The constants of Klambauer et al., arXiv:1706.02515.
_SELU = np.float32([1.6732632423543772]), np.float32([1.0507009873554805])
# Keras's or the table's name → function of a value.
_ACTIVATIONS = {
    "linear": lambda x: x,
    "identity": lambda x: x,
    "gelu": lambda x: operations.gelu(x, "tanh"),
    "exact_gelu": lambda x: operations.gelu(x, "erf"),
    "relu": operations.relu,
    "relu6": lambda x: operations.clamp(x, 0.0, 6.0),
    "silu": operations.swish,
    "elu": lambda x: operations.elu(x, 1.0),
    "celu": lambda x: operations.elu(x, 1.0),  # Of alpha 1 they are equal.
    "leaky_relu": lambda x: operations.prelu(x, np.float32([0.01])),
    "selu": lambda x: operations.selu(x, *_SELU),
    "sigmoid": operations.sigmoid,
    "softplus": operations.softplus,
    "soft_sign": operations.softsign,
    "tanh": operations.tanh,
    # The channels: second in an image, last in a vector of two axes.
    "softmax": lambda x: operations.softmax(x, 1),
    "log_sigmoid": lambda x: operations.negative(
        operations.softplus(operations.negative(x))
    ),
}


class OpenVINOTarget(Target):
    """Values are the outputs of OpenVINO's nodes.

    Args:
        shape: `(height, width, channels)` of the images, `None` for any
            side.
    """

    activations = _ACTIVATIONS

    def __init__(self, shape):
        sides = [-1 if side is None else side for side in shape]
        self.input = operations.parameter([-1, *sides], np.float32, "images")
        self.input.output(0).get_tensor().set_names({"images"})
        self.input.set_layout(openvino.Layout("NHWC"))
        self._names = collections.Counter()

    def _named(self, node):
        """The node, with the name of its layer; NNCF wants each name once."""
        self._names[self.layer] += 1
        count = self._names[self.layer]
        node.set_friendly_name(self.layer + f"_{count}" * (count > 1))
        return node

    def images(self, contract):
        """The input: pixels, normalized as the model's `Contract` says."""
        if "int" in contract.dtype:
            raise UnknownOperation(f"the input type {contract.dtype}")
        # Transposed first: the three channels are slow as innermost axis.
        x = _transposed(self.input.output(0), (0, 3, 1, 2))
        if contract.statistics is not None:
            mean, deviation = (
                _constant(np.reshape(value, (1, -1, 1, 1)))
                for value in contract.statistics
            )
            x = operations.divide(operations.subtract(x, mean), deviation)
        return x

    def convolution(
        self, x, kernel, bias, strides, padding, groups, dilation_rate, sides
    ):
        before, auto_pad = _pads(
            kernel.shape[:2], strides, padding, dilation_rate
        )
        kernel = kernel.transpose(3, 2, 0, 1)
        convolve = operations.convolution
        if groups > 1:
            convolve = operations.group_convolution
            filters, *rest = kernel.shape
            kernel = kernel.reshape(groups, filters // groups, *rest)
        steps = list(strides), before, before, list(dilation_rate)
        x = self._named(convolve(x, _constant(kernel), *steps, auto_pad))
        return operations.add(x, _constant(bias[None, :, None, None]))

    def along_channels(self, x, kernel):
        """A 1D convolution over the channels of one pixel."""
        x = self._named(_transposed(x, (0, 2, 1, 3)))
        half = [len(kernel) // 2, 0]
        kernel = _constant(kernel[None, None, :, None])
        x = operations.convolution(x, kernel, [1, 1], half, half, [1, 1])
        return _transposed(x, (0, 2, 1, 3))

    def activation(self, x, function, rank=4, is_shared=False):
        return self.known(function)(x)

    def dense(self, x, kernel, bias):
        if _rank(x) != 2:
            raise UnknownOperation("a dense layer on feature maps")
        x = self._named(operations.matmul(x, _constant(kernel.T), False, True))
        return x if bias is None else operations.add(x, _constant(bias))

    def dense_of_pixel(self, x, kernel, bias):
        """A dense layer on the channels of one pixel.

        NNCF would leave a 1×1 convolution in float, and the runtime would
        read its 8-bit weights as float32.
        """
        sides = np.int64([2, 3])
        x = self.dense(operations.squeeze(x, sides), kernel, bias)
        return operations.unsqueeze(x, sides)

    def mean(self, x, keepdims):
        sides = np.int64([2, 3])
        return self._named(operations.reduce_mean(x, sides, keepdims))

    def maximum(self, x, keepdims):
        return operations.reduce_max(x, np.int64([2, 3]), keepdims)

    def average_pool(self, x, pool_size, strides, padding, sides):
        before, auto_pad = _pads(pool_size, strides, padding)
        window = list(strides), before, before, list(pool_size)
        return operations.avg_pool(
            x, *window, exclude_pad=True, auto_pad=auto_pad
        )

    def max_pool(self, x, pool_size, strides, padding, sides):
        before, auto_pad = _pads(pool_size, strides, padding)
        window = list(strides), [1, 1], before, before, list(pool_size)
        pool = operations.max_pool(x, *window, auto_pad=auto_pad)
        return pool.output(0)  # The second are the indices.

    def add(self, x, y):
        return self._named(operations.add(x, y))

    def multiply(self, x, y):
        return self._named(operations.multiply(x, y))

    def scale(self, x, factor):
        return self._named(operations.multiply(x, np.float32(factor)))

    def model(self, outputs):
        """The OpenVINO model of the values `{name: value}`."""
        results = []
        for name, value in outputs.items():
            if _rank(value) == 4:
                value = _transposed(value, (0, 2, 3, 1))
            result = operations.result(value)
            result.output(0).get_tensor().set_names({name})
            results.append(result)
        return openvino.Model(results, [self.input], "nfnet")


def _constant(value):
    return operations.constant(np.ascontiguousarray(value, np.float32))


def _transposed(x, axes):
    return operations.transpose(x, np.int64(axes))


def _rank(x):
    output = x if isinstance(x, openvino.Output) else x.output(0)
    return len(output.get_partial_shape())


def _pads(sides, strides, padding, dilation_rate=(1, 1)):
    """Pixels before and behind each side, and OpenVINO's name for the rule."""
    if padding == "valid":
        return [0, 0], "valid"
    odd = all(side % 2 for side in sides)
    if padding == "same" and not (odd and tuple(strides) == (1, 1)):
        # SAME of any resolution; the end is padded first, as in TensorFlow.
        return [0, 0], "same_upper"
    return list(map(symmetric_padding, sides, dilation_rate)), "explicit"
