"""Export of trained models to what servers and devices run."""

from keras_nfnet.export.comparison import ExportReport
from keras_nfnet.export.onnx_file import to_onnx
from keras_nfnet.export.openvino_file import to_openvino
from keras_nfnet.export.saved_model import to_saved_model
from keras_nfnet.export.tflite import to_tflite

__all__ = [
    "ExportReport",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
]
