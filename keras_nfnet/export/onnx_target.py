"""A folded network in ONNX operators, channels first as ONNX has them."""

import numpy as np
from onnx import TensorProto, helper

from keras_nfnet.export.lowering import (
    Target,
    UnknownOperation,
    activation_name,
)
from keras_nfnet.layers.grouped_convolution import symmetric_padding

# Gelu came with opset 20. Older opsets have it in parts.
OPSET = 20
OLDEST_OPSET = 17
# Keras's or the table's name → operators, one after the other.
_ACTIVATIONS = {
    "linear": (),
    "identity": (),
    "gelu": ("Gelu",),
    "exact_gelu": ("Gelu",),
    "relu": ("Relu",),
    "elu": ("Elu",),
    "celu": ("Celu",),
    "leaky_relu": ("LeakyRelu",),
    "selu": ("Selu",),
    "sigmoid": ("Sigmoid",),
    "silu": ("Sigmoid",),
    "log_sigmoid": ("Neg", "Softplus", "Neg"),
    "softplus": ("Softplus",),
    "soft_sign": ("Softsign",),
    "mish": ("Softplus", "Tanh"),
    "tanh": ("Tanh",),
    "hard_sigmoid": ("HardSigmoid",),
    "exponential": ("Exp",),
}
_ATTRIBUTES = {
    "gelu": {"approximate": "tanh"},
    "leaky_relu": {"alpha": 0.01},
    "hard_sigmoid": {"alpha": 1 / 6, "beta": 0.5},
}
# Their operators' result is multiplied by their input.
_GATES = ("silu", "mish")


class OnnxTarget(Target):
    """Values are names of an ONNX graph that grows with every call.

    `values` has the arrays of its constants, `{name: array}`, which
    `onnx_weights.py` writes one by one.

    Args:
        opset: Version of ONNX's operators, 17 or later.
    """

    activations = _ACTIVATIONS

    def __init__(self, opset=OPSET):
        self.opset = opset
        self.values = {}
        self.content = helper.make_model(
            helper.make_graph([], "nfnet", [], []),
            producer_name="keras_nfnet",
            opset_imports=[helper.make_opsetid("", opset)],
            # The oldest version with this opset, for old runtimes.
            ir_version=9,
        )
        self.nodes = self.content.graph.node

    def node(self, kind, inputs, **attributes):
        """Adds a node; returns the name of its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [name], name=name, **attributes)
        )
        return name

    def constant(self, value, dtype="float32"):
        """Adds a constant; returns its name."""
        name = f"value_{len(self.values)}"
        self.values[name] = np.asarray(value, dtype=dtype)
        return name

    def images(self, contract):
        """The input: pixels, batch and sides first, normalized inside."""
        if "int" in contract.dtype:
            raise UnknownOperation(f"the input type {contract.dtype}")
        # Transposed first: runtimes are slow where the innermost axis is the
        # three channels.
        x = self.node("Transpose", ["images"], perm=(0, 3, 1, 2))
        if contract.statistics is not None:
            mean, deviation = (
                self.constant(np.reshape(value, (-1, 1, 1)))
                for value in contract.statistics
            )
            x = self.node("Div", [self.node("Sub", [x, mean]), deviation])
        return x

    def convolution(
        self, x, kernel, bias, strides, padding, groups, dilation_rate, sides
    ):
        weights = self.constant(kernel.transpose(3, 2, 0, 1))
        return self.node(
            "Conv",
            [x, weights, self.constant(bias)],
            kernel_shape=kernel.shape[:2],
            strides=strides,
            group=groups,
            dilations=dilation_rate,
            **_pads(kernel.shape[:2], strides, padding, dilation_rate, sides),
        )

    def along_channels(self, x, kernel):
        """A 1D convolution over the channels of one pixel."""
        x = self.node("Transpose", [x], perm=(0, 2, 1, 3))
        x = self.node(
            "Conv",
            [x, self.constant(kernel[None, None, :, None])],
            kernel_shape=(len(kernel), 1),
            **_pads((len(kernel), 1), (1, 1), "same"),
        )
        return self.node("Transpose", [x], perm=(0, 2, 1, 3))

    def activation(self, x, function, rank=4, is_shared=False):
        name = activation_name(function)
        if name == "softmax":
            # Channels are last in matrices, and second here in images.
            return self.node("Softmax", [x], axis=1 if rank == 4 else -1)
        if name == "relu6":
            bounds = [self.constant(0), self.constant(6)]
            return self.node("Clip", [x, *bounds])
        if name in ("gelu", "exact_gelu") and self.opset < OPSET:
            return self._gelu(x, exact=name == "exact_gelu")
        result = x
        for operator in self.known(function):
            attributes = _ATTRIBUTES.get(name, {})
            result = self.node(operator, [result], **attributes)
        return self.node("Mul", [x, result]) if name in _GATES else result

    def _gelu(self, x, exact):
        """`x / 2 * (1 + erf(x / √2))`, or its form with tanh."""
        if exact:
            inner = self.node("Mul", [x, self.constant(2**-0.5)])
            inner = self.node("Erf", [inner])
        else:
            cube = self.node("Mul", [self.node("Mul", [x, x]), x])
            cube = self.node("Mul", [cube, self.constant(0.044715)])
            inner = self.node("Add", [x, cube])
            inner = self.node("Mul", [inner, self.constant(0.7978845608)])
            inner = self.node("Tanh", [inner])
        inner = self.node("Add", [inner, self.constant(1.0)])
        half = self.node("Mul", [x, self.constant(0.5)])
        return self.node("Mul", [half, inner])

    def dense(self, x, kernel, bias):
        values = [kernel] if bias is None else [kernel, bias]
        return self.node("Gemm", [x, *map(self.constant, values)])

    def mean(self, x, keepdims):
        return self._reduced("Average" if keepdims else "Mean", x, keepdims)

    def maximum(self, x, keepdims):
        return self._reduced("Max", x, keepdims)

    def _reduced(self, kind, x, keepdims):
        if keepdims:
            return self.node(f"Global{kind}Pool", [x])
        if self.opset < 18:
            return self.node(f"Reduce{kind}", [x], axes=(2, 3), keepdims=0)
        axes = self.constant((2, 3), "int64")
        return self.node(f"Reduce{kind}", [x, axes], keepdims=0)

    def average_pool(self, x, *window):
        return self._pool("AveragePool", x, *window, count_include_pad=0)

    def max_pool(self, x, *window):
        return self._pool("MaxPool", x, *window)

    def _pool(self, kind, x, size, strides, padding, sides, **attributes):
        pads = _pads(size, strides, padding, sides=sides)
        attributes = {**attributes, **pads, "strides": strides}
        return self.node(kind, [x], kernel_shape=size, **attributes)

    def add(self, x, y):
        return self.node("Add", [x, y])

    def multiply(self, x, y):
        return self.node("Mul", [x, y])

    def scale(self, x, factor):
        return self.node("Mul", [x, self.constant(factor)])

    def model(self, outputs, input_shape, output_shapes):
        """The ONNX model of some outputs.

        Args:
            outputs: `{name: value}`.
            input_shape: `(height, width, channels)`, `None` for any side.
            output_shapes: Those of the outputs without the batch.
        """
        graph = self.content.graph
        for (name, value), shape in zip(
            outputs.items(), output_shapes, strict=True
        ):
            if len(shape) == 3:
                value = self.node("Transpose", [value], perm=(0, 2, 3, 1))
            self.node("Identity", [value])
            self.nodes[-1].output[0] = name
            sides = [side or f"{name}_{i}" for i, side in enumerate(shape)]
            graph.output.append(_float_value(name, sides))
        names = "height", "width", None
        sides = [a or b for a, b in zip(input_shape, names, strict=True)]
        graph.input.append(_float_value("images", sides))
        return self.content


def _pads(kernel, strides, padding, dilation_rate=(1, 1), sides=(None, None)):
    """Attributes of the padding, explicit wherever it is known."""
    if padding == "valid":
        return {"auto_pad": "VALID"}
    if padding == "symmetric":
        pads = map(symmetric_padding, kernel, dilation_rate)
        return {"pads": tuple(pads) * 2}
    around = [
        _same(*axis)
        for axis in zip(kernel, strides, dilation_rate, sides, strict=True)
    ]
    if None in around:
        # SAME of any resolution; ONNX pads the end first, as TensorFlow.
        return {"auto_pad": "SAME_UPPER"}
    begins, ends = zip(*around, strict=True)
    return {"pads": (*begins, *ends)}


def _same(kernel, stride, dilation, side):
    """Pixels before and after one axis for SAME; `None` if not known."""
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        total = reach - 1
    elif side is None:
        return None
    else:
        total = max((-(-side // stride) - 1) * stride + reach - side, 0)
    return total // 2, total - total // 2


def _float_value(name, shape):
    return helper.make_tensor_value_info(
        name, TensorProto.FLOAT, ["batch", *shape]
    )
