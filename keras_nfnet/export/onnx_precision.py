"""Half and 8-bit weights of an ONNX model."""

import logging
import os
import tempfile

import numpy as np
from onnx import TensorProto, helper, numpy_helper

# Values of fewer elements stay as they are: biases and constants.
_FEWEST = 1024


def half_weights(model):
    """Stores large weights as float16, in place, each behind a cast.

    A runtime widens them once, when it loads the file. ONNX Runtime's CPU
    kernels are float32; a graph of float16 would be cast to and fro.
    """
    casts = []
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < _FEWEST:
            continue
        name = initializer.name
        initializer.CopyFrom(
            numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        )
        casts.append(
            helper.make_node(
                "Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def write_int8(model, path, calibration):
    """Quantizes a model to int8 and writes it.

    Weights per output channel and signed, activations per tensor and
    unsigned, as pairs of QuantizeLinear and DequantizeLinear that the
    runtime fuses.
    Convolutions and dense layers alone: everything between stays in float32.

    Args:
        model: A float32 `onnx.ModelProto`.
        path: The file to write.
        calibration: Float32 pixels `(pictures, height, width, 3)`.
    """
    from onnxruntime import quantization

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(calibration)

        def get_next(self):
            picture = next(self.left, None)
            return None if picture is None else {"images": picture[None]}

    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        source = os.path.join(folder, "float32.onnx")
        with open(source, "wb") as file:
            file.write(model.SerializeToString())
        # Its advice to prepare the graph, which is prepared.
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_static(
                source,
                path,
                Pictures(),
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
