"""Export of trained models to what servers and devices run."""

from keras_nfnet.export.report import ExportReport
from keras_nfnet.export.saved_model import to_saved_model

__all__ = ["ExportReport", "to_saved_model"]
