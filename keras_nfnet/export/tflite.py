"""TFLite files for LiteRT, on phones and small machines."""

import contextlib
import gc
import zipfile

import keras
import numpy as np

from keras_nfnet.export import staging
from keras_nfnet.export.comparison import ExportReport
from keras_nfnet.export.contract import named
from keras_nfnet.export.lowering import lower
from keras_nfnet.models.output import activation_of
from keras_nfnet.utils.arguments import one_of
from keras_nfnet.utils.files import staged
from keras_nfnet.utils.types import (
    InputRange,
    Labels,
    Margin,
    Path,
    Progress,
    Size,
    Tensor,
)
from keras_nfnet.weights.check import one_line

ENDING = ".tflite"
PRECISIONS = ("float32", "float16", "dynamic_int8", "int8")


def to_tflite(
    model: keras.Model,
    path: Path,
    precision: str = "float32",
    calibration: Tensor | Path | None = None,
    *,
    labels: Labels | None = None,
    size: Size | None = None,
    margin: Margin | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    input_range: InputRange | None = None,
) -> ExportReport:
    """Writes a model as a TFLite file.

    Its input is `images`, float32 0–255 `(batch, height, width, channels)`;
    it normalizes inside and returns what the model returns: `output`, or
    outputs by the names of a dictionary, in the signature
    `serving_default`. The batch is set with `resize_tensor_input`, and so are
    height and width where the model leaves them open and `size` is not given.

    Inside lies the metadata by which MediaPipe's image classifier and
    Android's task library open a file, if height and width are fixed and the
    model has one output of classes. Behind the model lies a zip archive of
    `labels.txt`, which the metadata refer to, and `preprocessing.json`
    (`zipfile.ZipFile(path)` reads it).

    The model is folded, written beside `path`, run by LiteRT on real and
    random images, compared, and only then moved to `path`.

    Args:
        model: A functional or sequential Keras model with one input of
            images and one output, or a dictionary or list of outputs.
        path: The file to write, such as `"nfnet.tflite"`.
        precision: `"float32"`; `"float16"` (half the size, the same speed
            on most CPUs); `"dynamic_int8"` (weights of 8 bits, activations
            quantized as they come: a quarter of size and time, no
            calibration); `"int8"` (activations of 8 bits too, for
            accelerators of integers; probabilities come in steps of 1/256,
            so take logits where many classes share them).
        calibration: For `"int8"`: pixels `(images, height, width, 3)`, RGB
            0–255, or a folder of images like those to be classified.
            Default: 12 crops of two photographs, with a warning.
        labels: As for `to_saved_model`.
        size: Side in pixels of the images, or `(height, width)`: the file
            takes this size alone. Default: what the model takes; any size
            that it leaves open stays open, and is described, calibrated and
            compared at that of its variant.
        margin: Pixels or a crop fraction, as for `to_saved_model`: of the
            images of a calibration folder, and in the description.
        overwrite: Whether a file that is there is replaced.
        progress: Function that is told each step as it begins, such as
            `print`.
        input_range: `"imagenet"` for a model on images normalized by
            `preprocess_input`, `"0-255"` for one that takes pixels as they
            are. Default: found out, where the model begins with an NFNet or
            with a layer that rescales or normalizes.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model has NaN weights, an argument does not fit,
            the path cannot be written, or the file does not give the
            model's outputs. Then what was there is unchanged.
        RuntimeError: On another Keras backend than TensorFlow, or if
            LiteRT is not installed.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_tflite(
    ...     model, "nfnet.tflite", "dynamic_int8", size=32
    ... )
    >>> report.precision, report.cosine > 0.99
    ('dynamic_int8', True)

    Reference: of int8: Jacob et al., arXiv:1712.05877.
    """
    staging.check_backend("to_tflite")
    one_of("precision", precision, PRECISIONS)
    say = staging.checked_progress(overwrite, progress)
    export = staging.checked_export(
        model, path, precision, labels, size, margin, input_range, say
    )
    staging.check_file(path, overwrite, ENDING)
    staging.check_installed("to_tflite", "export", "ai_edge_litert")
    folded, calibration = export.prepared(calibration)
    from keras_nfnet.export.tflite_metadata import model_metadata

    sides = export.contract.sides if size is None else export.size
    file = _converted(folded, export.contract, precision, calibration, sides)
    # The file has the values of its weights.
    del folded
    names = sorted(export.contract.outputs)
    # A single sigmoid unit has two labels.
    has_labels = len(export.labels or ()) == model.outputs[0].shape[-1]
    is_probability = activation_of(model) in ("softmax", "sigmoid")
    channels, is_open = export.contract.channels, None in sides
    file.describe(
        names,
        model_metadata(
            model.name, channels, names, is_open, has_labels, is_probability
        ),
    )
    with staged(path) as new:
        with staging.writing("path", path):
            file.write(new)
            # Readers of either format find their part of the file.
            with zipfile.ZipFile(new, "a") as archive:
                for name, text in export.texts().items():
                    archive.writestr(name, text)
        del file
        gc.collect()
        return export.compared(runner, new)


def runner(path, threads=None):
    """A function from float32 pixels to the outputs of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    serve = interpreter.get_signature_runner()
    names = list(serve.get_output_details())

    def run(pixels):
        outputs = serve(images=np.float32(pixels))
        return outputs["output"] if names == ["output"] else outputs

    return run


def _converted(folded, contract, precision, calibration, sides):
    """The `TFLiteFile` of a folded network."""
    import tensorflow as tf

    from keras_nfnet.export.tflite_file import StandIns, TFLiteFile, Unfit

    # Calibration runs the weights.
    if precision != "int8":
        stand_ins = StandIns()
        is_half = precision == "float16"
        content = _convert(
            folded,
            contract,
            "float16" if is_half else "float32",
            stand_ins.constant,
            sides,
        )
        # A converter that rearranges weights gets the real ones, below.
        with contextlib.suppress(Unfit):
            file = TFLiteFile(content, stand_ins)
            if precision == "dynamic_int8":
                file.quantize()
            return file
    return TFLiteFile(
        _convert(folded, contract, precision, tf.constant, sides, calibration)
    )


def _convert(folded, contract, precision, constant, sides, calibration=None):
    import tensorflow as tf

    from keras_nfnet.export.tflite_target import TFLiteTarget

    target = TFLiteTarget(constant, is_int8=precision == "int8")
    images = tf.TensorSpec((None, *sides, contract.channels), name="images")

    @tf.function(autograph=False, input_signature=[images])
    def outputs(images):
        return named(lower(folded, target, contract.images(images)))

    function = outputs.get_concrete_function()
    with staging.quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    # With the values behind the flatbuffer nothing packs them again.
    converter._experimental_use_buffer_offset = precision != "int8"
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: (
            [image[None]] for image in calibration
        )
    try:
        with staging.quiet():
            return converter.convert()
    except Exception as error:  # Of any type: what the converter lacks.
        others = ", ".join(map(repr, target.others)) or "none"
        # The text before it names lines of TensorFlow's own code.
        reason = str(error).partition("error: ")[2] or str(error)
        raise ValueError(
            "`model` must have layers that TensorFlow Lite's converter takes. "
            f"Of this one it says: {one_line(reason)}. The layers of others "
            f"in it are {others}"
        ) from error
