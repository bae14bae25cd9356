"""What is put into a TFLite file once it is converted.

Large weights: the converter copies its constants a dozen times, 7.4 GB for
F0's 286 MB. So each large weight goes in as one number of its own, behind the
structure, and its values are written to the disk in place of that number, one
weight after the other: 1.4 GB, with the model, the folded network and the
comparison.

Weights of 8 bits for `"dynamic_int8"`: the converter takes 5.9 GB for F0's.
Here they are rounded one by one, to the same bytes.

A signature: the converter writes one only for a whole SavedModel, which takes
twice the memory of concrete functions with stand-ins for the weights.

Metadata: see `tflite_metadata.py`.
"""

import hashlib
import struct

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

# Weights of fewer values go in as they are, and stay in float: the
# converter's own bound for 8 bits.
_FEWEST = 1024
# Numbers that float16 holds exactly, apart by at least 1 in 2048: the
# significand's 10 bits in each of [1, 2), [2, 4), … [8, 16).
_NUMBERS = np.concatenate(
    [2.0**power * (1 + np.arange(1024) / 1024) for power in range(4)]
)
_KINDS = {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2"}
_OPERATIONS = schema.BuiltinOperator
# Operations that take weights of 8 bits, with the axis of their units.
_UNIT_AXES = {
    _OPERATIONS.CONV_2D: 0,
    _OPERATIONS.FULLY_CONNECTED: 0,
    _OPERATIONS.DEPTHWISE_CONV_2D: 3,
}
# Versions of operations with such weights and a scale for each unit.
_VERSIONS = {
    _OPERATIONS.CONV_2D: 5,
    _OPERATIONS.DEPTHWISE_CONV_2D: 6,
    _OPERATIONS.FULLY_CONNECTED: 12,
}
# Least magnitude that becomes 127.
_SMALLEST = 5e-7
# Operations whose constants stay in float.
_ELEMENTWISE = (_OPERATIONS.ADD, _OPERATIONS.MUL, _OPERATIONS.SUB)

KEY = "serving_default"
METADATA = "TFLITE_METADATA"
# A larger file has its values behind the flatbuffer, whose offsets end there.
_LARGEST = 2**31 - 2**24
# Bytes that values are aligned to.
_ALIGNMENT = 16


class Unfit(Exception):
    """A model whose weights the converter has to write itself."""


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

    def index(self, values):
        """Index of the weight whose number fills an array, or `None`."""
        if values.ndim < 2 or values.size < _FEWEST:
            return None
        first, last = values.flat[0], values.flat[-1]
        (found,) = np.nonzero(_NUMBERS[: len(self.weights)] == first)
        return int(found[0]) if len(found) and first == last else None


class TFLiteFile:
    """A converted model, whose large values are written one by one.

    Args:
        content: What the converter returned.
        stand_ins: The `StandIns` that it was given, if any.

    Raises:
        Unfit: If a number is not found once, in the shape of its weight.
    """

    def __init__(self, content, stand_ins=None):
        root = schema.Model.GetRootAs(content)
        behind = [
            (buffer.Offset(), buffer.Size())
            for buffer in map(root.Buffers, range(root.BuffersLength()))
        ]
        if any(size for _, size in behind):
            # The structure alone, so that the converter's bytes are freed.
            end = min(offset for offset, size in behind if size)
            root = schema.Model.GetRootAs(bytes(memoryview(content)[:end]))
        self.model = schema.ModelT.InitFromObj(root)
        # Large arrays, and the types to write them in, by the indices of
        # their buffers.
        self.values = {}
        for index, (offset, size) in enumerate(behind):
            buffer = self.model.buffers[index]
            if size:
                buffer.data = np.frombuffer(content, np.uint8, size, offset)
                buffer.offset = buffer.size = 0
            if buffer.data is not None and len(buffer.data) >= _FEWEST:
                self.values[index] = buffer.data, np.uint8
            elif size:
                buffer.data = buffer.data.copy()
        if stand_ins is not None:
            self._fill(stand_ins)

    def _tensors(self):
        """The tensors of large values, in lists by their buffers."""
        found = {index: [] for index in self.values}
        for graph in self.model.subgraphs:
            for tensor in graph.tensors:
                found.get(tensor.buffer, []).append(tensor)
        return found

    def _fill(self, stand_ins):
        """Puts the weights in place of their numbers."""
        missing = set(range(len(stand_ins.weights)))
        for index, tensors in self._tensors().items():
            values, kind = self.values[index]
            which = None
            if tensors and tensors[0].type in _KINDS:
                kind, shape = _KINDS[tensors[0].type], tensors[0].shape
                values = values.view(kind).reshape(shape)
                which = stand_ins.index(values)
            if which is None:
                # A copy, so that the converter's bytes are freed.
                self.values[index] = values.copy(), kind
                continue
            if which not in missing:
                raise Unfit("two constants of one number")
            missing.remove(which)
            weight = stand_ins.weights[which]
            self.values[index] = _in_order(weight, shape), kind
            self.model.buffers[index].data = None
        if missing:
            raise Unfit(f"{len(missing)} weights have no place")

    def quantize(self):
        """Makes the weights 8-bit integers, as the converter does.

        The largest magnitude of each unit becomes 127. Activations stay in
        float; the runtime quantizes them as they come.

        Raises:
            Unfit: If an operation has other large constants, which the
                converter would quantize.
        """
        tensors = self._tensors()
        for graph in self.model.subgraphs:
            for operation in graph.operators:
                code = self.model.operatorCodes[operation.opcodeIndex]
                kind = code.builtinCode
                for place, index in enumerate(operation.inputs):
                    # An input that is left out is -1.
                    buffer = graph.tensors[index].buffer if index >= 0 else 0
                    if self._stays(buffer, kind, place):
                        continue
                    if kind not in _UNIT_AXES or place != 1:
                        raise Unfit("a constant of another operation")
                    self._quantize(buffer, tensors[buffer], _UNIT_AXES[kind])
                    code.version = max(code.version, _VERSIONS[kind])
                    if kind == _OPERATIONS.FULLY_CONNECTED:
                        operation.builtinOptions.asymmetricQuantizeInputs = True

    def _stays(self, buffer, kind, place):
        """Whether an operation's input stays as it is, or was quantized."""
        if buffer not in self.values:
            return True
        values, dtype = self.values[buffer]
        is_bias = kind in _UNIT_AXES and place == 2
        return (
            is_bias
            or values.size < _FEWEST
            or dtype is np.int8
            or kind in _ELEMENTWISE
        )

    def _quantize(self, buffer, tensors, axis):
        weight, _ = self.values[buffer]
        others = tuple(each for each in range(weight.ndim) if each != axis)
        largest = np.atleast_1d(np.abs(weight).max(others))
        # As the converter: in float64, which decides what lies between two
        # integers, and from a least magnitude.
        scale = np.maximum(np.float64(largest), _SMALLEST) / 127
        shape = [1] * weight.ndim
        shape[axis] = -1
        values = weight / scale.reshape(shape)
        # Halves go away from zero.
        values = np.trunc(values + np.copysign(0.5, values)).astype(np.int8)
        self.values[buffer] = values, np.int8
        for tensor in tensors:
            tensor.type = schema.TensorType.INT8
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.float32(scale)
            tensor.quantization.zeroPoint = np.zeros(scale.shape, np.int64)
            tensor.quantization.quantizedDimension = axis

    def describe(self, outputs, metadata):
        """Adds the signature `serving_default` and metadata.

        Args:
            outputs: Names of the outputs, sorted as TensorFlow sorts a
                dictionary's.
            metadata: What `model_metadata` returned.
        """
        graph = self.model.subgraphs[0]
        signature = schema.SignatureDefT()
        signature.signatureKey = KEY.encode()
        signature.subgraphIndex = 0
        signature.inputs = [_named(graph, "images", graph.inputs[0])]
        signature.outputs = [
            _named(graph, each, index)
            for each, index in zip(outputs, graph.outputs, strict=True)
        ]
        self.model.signatureDefs = [signature]
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(metadata, np.uint8)
        entry.name, entry.buffer = METADATA.encode(), len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.model.metadata = [*(self.model.metadata or []), entry]

    def write(self, path):
        """Writes the file: the structure, then the values.

        Raises:
            OSError: If the disk refuses.
        """
        sizes = [
            values.size * np.dtype(kind).itemsize
            for values, kind in self.values.values()
        ]
        is_behind = sum(sizes) > _LARGEST
        for index in self.values:
            # Anything, so that there is a field to write to below.
            buffer = self.model.buffers[index]
            buffer.data = None if is_behind else np.zeros(1, np.uint8)
            buffer.offset = buffer.size = int(is_behind)
        content = bytearray(
            flatbuffer_utils.convert_object_to_bytearray(self.model)
        )
        root = schema.Model.GetRootAs(content)
        begins = {}
        with open(path, "wb") as file:
            file.write(content)
            for index, (values, kind) in self.values.items():
                values = np.ascontiguousarray(values, kind)
                # Equal values are written once, as of a shared layer.
                key = hashlib.sha256(values.data).digest()
                if key not in begins:
                    begins[key] = _write_aligned(file, values)
                table = root.Buffers(index)._tab
                data, offset, size = (
                    table.Pos + table.Offset(slot) for slot in (4, 6, 8)
                )
                if is_behind:
                    struct.pack_into("<Q", content, offset, begins[key])
                    struct.pack_into("<Q", content, size, values.nbytes)
                else:
                    begin = begins[key] - 4 - data
                    struct.pack_into("<I", content, data, begin)
            file.seek(0)
            file.write(content)


def _write_aligned(file, values):
    """Writes the number of bytes and, aligned, the bytes; says where."""
    end = file.tell()
    begin = -(-(end + 4) // _ALIGNMENT) * _ALIGNMENT
    file.write(bytes(begin - 4 - end))
    file.write(struct.pack("<I", values.nbytes % 2**32))
    file.write(values.data)
    return begin


def _in_order(kernel, shape):
    """A kernel with its axes in the order that the file has them in."""
    orders = [np.moveaxis(kernel, -1, 0)]
    if kernel.ndim == 4 and kernel.shape[2] == 1:
        orders.append(np.moveaxis(kernel, 2, 0))  # Of each channel alone.
    for values in orders:
        if values.shape == tuple(shape):
            return values
    raise Unfit(f"no place for a kernel of {kernel.shape}")


def _named(graph, name, tensor):
    # Some readers look at the tensors' names instead.
    graph.tensors[tensor].name = name.encode()
    entry = schema.TensorMapT()
    entry.name = name.encode()
    entry.tensorIndex = int(tensor)
    return entry
