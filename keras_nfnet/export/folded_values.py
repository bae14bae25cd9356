"""Values of a network being folded: a tensor, and a factor beside it."""

import numpy as np

from keras_nfnet.export.folded_layers import numpy_value

# A factor c goes into a convolution, and 1/c into the gates behind it. Below
# this, 1/c could leave the range of float16: c stays a factor.
_SMALLEST = 2.0**-10


class Scaled:
    """A tensor of the folded graph that stands for `tensor * factor`.

    `source` is the `Source` that can take the factor, if nothing but what
    lets it through came between and nothing else uses it.
    """

    def __init__(self, tensor, factor=1.0, source=None):
        self.tensor = tensor
        self.factor = factor
        self.source = source


class Source:
    """A convolution, and the kernels of the gates between it and a value."""

    def __init__(self, convolution, gates=(), positive=False):
        self.convolution = convolution
        self.gates = gates
        # Whether an activation came between, which no sign passes.
        self.positive = positive

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
