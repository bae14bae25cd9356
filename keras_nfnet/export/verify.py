"""Compares an artifact that is there with a model."""

import os

from keras_nfnet.export import comparison
from keras_nfnet.export.classifier import input_size
from keras_nfnet.export.contract import contract_of


def verify(path, model, precision="float32", input_range=None):
    """Runs an export by its own runtime and holds it against a model.

    Args:
        path: A SavedModel's directory, a `.tflite`, an `.onnx` or an `.xml`
            file.
        model: The Keras model that it shall equal.
        precision: Of the export; sets the bound.
        input_range: As for `to_onnx`.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If it is no such artifact, or differs by more than the
            bound of its precision.

    Example:

    >>> print(verify("nfnet_f0.onnx", model))
    """
    outputs = model
    try:
        if os.path.isdir(path):
            from keras_nfnet.export.saved_model import answering, runner

            outputs = answering(model)
        elif str(path).endswith(".tflite"):
            from keras_nfnet.export.tflite import runner
        elif str(path).endswith(".xml"):
            from keras_nfnet.export.openvino_file import runner
        else:
            from keras_nfnet.export.onnx_file import runner
        run = runner(path)
    except ImportError:
        raise
    # Each runtime has errors of its own for a broken file.
    except Exception as error:
        raise ValueError(
            "`path` must be a SavedModel, a .tflite, an .onnx or an .xml file "
            f"that its runtime loads. Received: path={str(path)!r} ({error})"
        ) from error
    size = input_size(model) or (comparison.DEFAULT_SIZE,) * 2
    return comparison.checked(
        run,
        outputs,
        size=size,
        contract=contract_of(model, input_range),
        model=model,
        path=path,
        target=path,
        precision=precision,
    )
