"""Large weights that stay outside of TensorFlow Lite's converter.

The converter copies its constants a dozen times: F0's 286 MB took 7.4 GB and
22 s of processor time, against 3.5 GB and 11 s with constants of one repeated
value. So each large weight goes in as a number of its own, and its values are
written into the finished file, where that number is found. For float32 and
float16; the 8-bit forms of such constants would all be the same.
"""

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

# Weights of fewer values go in as they are.
_FEWEST = 1024
# Numbers that float16 holds exactly, apart by at least 1 in 2048: the
# significand's 10 bits in each of [1, 2), [2, 4), … [8, 16).
_NUMBERS = np.concatenate(
    [2.0**power * (1 + np.arange(1024) / 1024) for power in range(4)]
)
_KINDS = {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2"}


class StandIns:
    """Numbers for weights, and the weights for the numbers."""

    def __init__(self):
        self.weights = []

    def constant(self, kernel):
        """A TensorFlow constant in the shape of a kernel.

        Args:
            kernel: `(height, width, channels, filters)` or `(in, out)`.
        """
        if kernel.size < _FEWEST or len(self.weights) == len(_NUMBERS):
            return tf.constant(kernel)
        self.weights.append(kernel)
        number = _NUMBERS[len(self.weights) - 1]
        return tf.constant(number, tf.float32, shape=kernel.shape)

    def fill(self, content):
        """Writes the weights into a TFLite file in place of their numbers.

        Args:
            content: The file, a bytearray; changed in place.

        Raises:
            LookupError: If a weight's place is not found.
        """
        missing = set(range(len(self.weights)))
        model = schema.Model.GetRootAs(content)
        for graph in range(model.SubgraphsLength()):
            subgraph = model.Subgraphs(graph)
            for index in range(subgraph.TensorsLength()):
                tensor = subgraph.Tensors(index)
                data = _data(model.Buffers(tensor.Buffer()), content)
                which = _stands_for(tensor, data)
                if which in missing:
                    _write(self.weights[which], tensor, data)
                    missing.remove(which)
        if missing:
            raise LookupError(f"{len(missing)} weights have no place")


def _data(buffer, content):
    """A buffer's bytes, writable; `None` if it has none."""
    if buffer.Size():
        # A file near 2 GB and beyond has them behind the flatbuffer.
        return np.frombuffer(
            content, np.uint8, buffer.Size(), offset=buffer.Offset()
        )
    data = buffer.DataAsNumpy()
    return data if isinstance(data, np.ndarray) else None


def _stands_for(tensor, data):
    """Index of the weight whose number fills a tensor, or `None`."""
    if data is None:
        return None
    if tensor.Type() not in _KINDS:
        return None
    first, last = data.view(_KINDS[tensor.Type()])[[0, -1]]
    (found,) = np.nonzero(_NUMBERS == first)
    is_kernel = tensor.ShapeLength() > 1 and first == last
    return int(found[0]) if len(found) and is_kernel else None


def _write(kernel, tensor, data):
    """Writes a kernel as a tensor has it: output units first."""
    values = np.moveaxis(kernel, -1, 0)
    if tuple(tensor.ShapeAsNumpy()) != values.shape:
        raise LookupError(f"no place for a kernel of shape {kernel.shape}")
    data.view(_KINDS[tensor.Type()])[:] = values.reshape(-1)
