"""What is put into a TFLite file once it is converted.

Large weights: the converter copies its constants a dozen times. F0's 286 MB
took 7.4 GB and 22 s of processor time, against 3.5 GB and 11 s with constants
of one repeated value. So each large weight goes in as a number of its own,
and its values are written into the finished file, where that number is found.
For float32 and float16; the 8-bit forms of such constants would all be the
same.

A signature: the converter writes one only for a whole SavedModel, which takes
twice the memory of concrete functions with stand-ins for the weights.

Metadata: MediaPipe, ML Kit and Android's task library open a file by them:
how pixels are normalized, what the outputs are called, where the labels lie.

Reference: the schema of TFLite metadata, `metadata_schema.fbs`, version 1.5,
whose tables' slots stand below as numbers.
"""

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from keras_nfnet.data.labels import LABELS

# Weights of fewer values go in as they are.
_FEWEST = 1024
# Numbers that float16 holds exactly, apart by at least 1 in 2048: the
# significand's 10 bits in each of [1, 2), [2, 4), … [8, 16).
_NUMBERS = np.concatenate(
    [2.0**power * (1 + np.arange(1024) / 1024) for power in range(4)]
)
_KINDS = {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2"}

KEY = "serving_default"
METADATA = "TFLITE_METADATA"
# Largest file that the flatbuffer library can build, less what is added.
_LARGEST = 2**31 - 2**24

_FEATURE, _IMAGE = 1, 2  # ContentProperties
_COLORS = {3: 1, 1: 2}  # ColorSpaceType by the number of channels
_NORMALIZATION = 1  # ProcessUnitOptions
_AXIS_LABELS = 2  # AssociatedFileType


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
            LookupError: If a weight's number is not found.
        """
        missing = set(range(len(self.weights)))
        for tensor, data in tensors_of(content):
            which = _stands_for(tensor, data)
            if which not in missing:
                continue
            # The file has output units first.
            values = np.moveaxis(self.weights[which], -1, 0)
            if tuple(tensor.ShapeAsNumpy()) != values.shape:
                raise LookupError(f"no place for a kernel of {values.shape}")
            data.view(_KINDS[tensor.Type()])[:] = values.reshape(-1)
            missing.remove(which)
        if missing:
            raise LookupError(f"{len(missing)} weights have no place")


def tensors_of(content):
    """The tensors of a TFLite file, each with its bytes.

    Args:
        content: The file, a bytearray.

    Yields:
        A `schema.Tensor`, and a writable array of bytes, `None` for a tensor
        without values.
    """
    model = schema.Model.GetRootAs(content)
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            data = buffer.DataAsNumpy()
            if buffer.Size():
                # A file near 2 GB and beyond has them behind the flatbuffer.
                data = np.frombuffer(
                    content, np.uint8, buffer.Size(), offset=buffer.Offset()
                )
            yield tensor, data if isinstance(data, np.ndarray) else None


def _stands_for(tensor, data):
    """Index of the weight whose number fills a tensor, or `None`."""
    if data is None or tensor.Type() not in _KINDS:
        return None
    first, last = data.view(_KINDS[tensor.Type()])[[0, -1]]
    (found,) = np.nonzero(_NUMBERS == first)
    is_kernel = tensor.ShapeLength() > 1 and first == last
    return int(found[0]) if len(found) and is_kernel else None


def with_description(content, outputs, metadata):
    """A TFLite file with the signature `serving_default` and metadata.

    Args:
        content: The file's bytes.
        outputs: Names of the outputs, sorted as TensorFlow sorts a
            dictionary's.
        metadata: What `model_metadata` returned.

    Returns:
        The new file's bytes. A file near 2 GB stays as it is.
    """
    if len(content) > _LARGEST:
        return content
    model = flatbuffer_utils.read_model_from_bytearray(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = KEY.encode()
    signature.subgraphIndex = 0
    signature.inputs = [_named(graph, "images", graph.inputs[0])]
    signature.outputs = [
        _named(graph, each, index)
        for each, index in zip(outputs, graph.outputs, strict=True)
    ]
    model.signatureDefs = [signature]
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = METADATA.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return flatbuffer_utils.convert_object_to_bytearray(model)


def _named(graph, name, tensor):
    # Some readers look at the tensors' names instead.
    graph.tensors[tensor].name = name.encode()
    entry = schema.TensorMapT()
    entry.name = name.encode()
    entry.tensorIndex = int(tensor)
    return entry


def model_metadata(
    name, channels, outputs, is_open, has_labels, is_probability
):
    """The bytes of a `ModelMetadata`.

    Args:
        name: The model's.
        channels: Of the images.
        outputs: Names of the outputs, sorted.
        is_open: Whether the file takes images of any size. Then the metadata
            do not say how pixels are normalized, so that MediaPipe refuses
            the file: it would bring images to one pixel.
        has_labels: Whether each value of the output has its line in
            `labels.txt`, in the zip archive behind the model.
        is_probability: Whether the output is between 0 and 1.
    """
    builder = flatbuffers.Builder()

    def table(**slots):
        """A table of offsets, or of bytes `(value,)`, by `s` and the slot."""
        slots = {int(slot[1:]): value for slot, value in slots.items()}
        builder.StartObject(max(slots) + 1)
        for slot, value in slots.items():
            if isinstance(value, tuple):
                builder.PrependUint8Slot(slot, *value, 0)
            elif value is not None:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()

    def tables(*offsets):
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def floats(*values):
        return builder.CreateNumpyVector(np.array(values, np.float32))

    text = builder.CreateString

    def tensor(name, about, content, kind, units=None, most=None, files=None):
        return table(
            s0=text(name),
            s1=text(about),
            s3=table(s0=(kind,), s1=content) if content else None,
            s4=tables(units) if units else None,
            s5=most and table(s0=floats(most), s1=floats(0.0)),
            s6=tables(files) if files else None,
        )

    normalization = None
    if not is_open:  # Pixels go in as they are.
        normalization = table(
            s0=(_NORMALIZATION,), s1=table(s0=floats(0.0), s1=floats(1.0))
        )
    images = tensor(
        "images",
        "Pixels of 0 to 255. The model normalizes them.",
        table(s0=(_COLORS[channels],)) if channels in _COLORS else None,
        _IMAGE,
        normalization,
        255.0,
    )
    returned = [
        tensor(
            each,
            "One score per class." if has_labels else "What the model returns.",
            table(s0=None),
            _FEATURE,
            most=1.0 if is_probability else None,
            files=table(
                s0=text(LABELS),
                s1=text("One label a line."),
                s2=(_AXIS_LABELS,),
            )
            if has_labels
            else None,
        )
        for each in outputs
    ]
    graph = table(s2=tables(images), s3=tables(*returned))
    root = table(s0=text(name), s3=tables(graph), s7=text("1.0.0"))
    builder.Finish(root, file_identifier=b"M001")
    return bytes(builder.Output())
