"""The weights of an ONNX file: as they are, in half, or in 8 bits."""

import collections
import logging
import os
import tempfile

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

# Values of fewer elements stay as they are: biases and constants.
_FEWEST = 1024
# What a protobuf file can hold.
_LARGEST_FILE = 2**31 - 2**20


def merge_equal(model, values):
    """Leaves one of equal constants, as of a layer that is called twice.

    Args:
        model: An `onnx.ModelProto`; its nodes' inputs are changed.
        values: Its constants, `{name: NumPy array}`; changed.
    """
    nodes = model.graph.node
    if any(attribute.HasField("g") for x in nodes for attribute in x.attribute):
        return  # Graphs inside of nodes may use the constants too.
    alike = collections.defaultdict(list)
    for name, value in values.items():
        if value.size >= _FEWEST:
            some = value.flat[0], value.flat[value.size // 2]
            alike[value.shape, value.dtype, *map(float, some)].append(name)
    same = {}
    for names in alike.values():
        for index, name in enumerate(names):
            for first in names[:index]:
                if np.array_equal(values[first], values[name]):
                    same[name] = first
                    break
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
    for name in same:
        del values[name]


def write(model, values, path, half=False):
    """Writes a model and its constants, one after the other.

    `onnx.save` would hold all of them twice more: in the message, and in
    what is written. The file is the same.

    Args:
        model: An `onnx.ModelProto` without its constants; casts are added.
        values: Its constants, `{name: NumPy array}`.
        path: The file to write.
        half: Whether large float32 weights are stored as float16, each
            behind a cast. A runtime widens them once, when it loads the
            file. ONNX Runtime's CPU kernels are float32; a graph of float16
            would be cast to and fro.

    Raises:
        ValueError: If the file would be larger than 2 GB.
    """
    halved = _cast_back(model, values) if half else ()
    head = ModelProto()
    head.CopyFrom(model)
    head.ClearField("graph")
    head, graph = head.SerializeToString(), model.graph.SerializeToString()
    length = len(graph) + sum(map(len, _entries(values, halved)))
    if length > _LARGEST_FILE:
        raise ValueError(
            "`model` must fit one ONNX file of 2 GB; "
            '`precision="float16"` halves it. Received: '
            f"{length / 1e9:.2f} GB"
        )
    with open(path, "wb") as file:
        # The graph is field 7 of the message, which begins with its length.
        file.write(head + bytes([7 << 3 | 2]) + _varint(length) + graph)
        for entry in _entries(values, halved):
            file.write(entry)


def _entries(values, halved):
    """Each constant as a part of the graph's message."""
    for name, value in values.items():
        if name in halved:
            name, value = f"{name}_half", value.astype(np.float16)
        graph = GraphProto()
        graph.initializer.append(
            numpy_helper.from_array(np.array(value, order="C"), name)
        )
        yield graph.SerializeToString()


def _varint(number):
    """Seven bits a byte, the lowest first: protobuf's form of a length."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _cast_back(model, values):
    """Adds a cast for each large constant; returns their names."""
    names = [
        name
        for name, value in values.items()
        if value.dtype == np.float32 and value.size >= _FEWEST
    ]
    casts = [
        helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT)
        for name in names
    ]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return set(names)


def quantize(path, calibration):
    """Quantizes the model of a file to int8, in place.

    Weights per output channel and signed, activations per tensor and
    unsigned, as pairs of QuantizeLinear and DequantizeLinear that the
    runtime fuses.
    Only convolutions and dense layers: all others stay in float32.

    Args:
        path: The file, of float32.
        calibration: Float32 pixels `(images, height, width, 3)`.
    """
    from onnxruntime import quantization

    left = ({"images": image[None]} for image in calibration)

    class Images(quantization.CalibrationDataReader):
        def get_next(self):
            return next(left, None)

    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        quantized = os.path.join(folder, "int8.onnx")
        # It advises to prepare the graph, which is prepared.
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_static(
                path,
                quantized,
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                # Signed, of 7 bits: on a CPU without VNNI products are
                # summed in pairs of 16 bits, where those of 8 overflow
                # (F0's logits had a cosine of 0.951 there). Unsigned
                # weights of 8 bits do not either, but take twice the time.
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
            )
        finally:
            logging.disable(logging.NOTSET)
        os.replace(quantized, path)
