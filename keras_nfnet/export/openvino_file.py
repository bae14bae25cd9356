"""OpenVINO files, an `.xml` with its `.bin`. Any Keras backend."""

import contextlib
import dataclasses
import gc
import io
import logging
import os
import tempfile

import keras
import numpy as np

from keras_nfnet.export import staging
from keras_nfnet.export.comparison import ExportReport, cosine_of, weights_of
from keras_nfnet.export.contract import named
from keras_nfnet.export.lowering import UnknownOperation, lower
from keras_nfnet.utils.arguments import one_of
from keras_nfnet.utils.files import place, staged
from keras_nfnet.utils.types import (
    InputRange,
    Labels,
    Margin,
    Path,
    Progress,
    Size,
    Tensor,
)

ENDING = ".xml"
PRECISIONS = ("float32", "float16", "int8")
# Least cosine of int8, and on how many images it is measured.
_COSINE = 0.999
_JUDGED = 16


def to_openvino(
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
    """Writes a model as OpenVINO's `.xml` and the `.bin` of its weights.

    Its input is `images`, float32 0–255 `(batch, height, width, channels)`;
    it normalizes inside and returns what the model returns: `output`, or the
    outputs by their names. The batch is free, and height and width where the
    model leaves them open. `labels.txt` and `preprocessing.json` are in the
    file: `openvino.Core().read_model(path).get_rt_info(["keras_nfnet",
    "labels.txt"])`.

    The model is folded, written beside `path`, run by OpenVINO on real and
    random images, compared, and only then moved to `path`, both files or
    none. An NFNet is written operation by operation; a network with other
    layers around it goes through `to_onnx`.

    On a CPU that has bfloat16 the runtime computes in it unless it is told
    `{"INFERENCE_PRECISION_HINT": "f32"}`, as it is for the comparison.

    Args:
        model: A functional or sequential Keras model with one input of
            images and one output, or a dictionary or list of outputs.
        path: The file to write, such as `"nfnet.xml"`; the weights lie
            beside it, in `"nfnet.bin"`.
        precision: `"float32"`; `"float16"` (weights of half the size);
            `"int8"` (weights and activations of 8 bits, by NNCF).
        calibration: For `"int8"`, as for `to_tflite`: pixels `(images,
            height, width, channels)` of 0–255, or a folder.
        labels: As for `to_saved_model`.
        size: Side in pixels or `(height, width)`, as for `to_tflite`.
        margin: Pixels or a crop fraction, as for `to_saved_model`.
        overwrite: Whether files that are there are replaced.
        progress: As for `to_tflite`.
        input_range: `"imagenet"` for a model on images normalized by
            `preprocess_input`, `"0-255"` for one that takes pixels as they
            are. Default: found out, where the model begins with an NFNet or
            with a layer that rescales or normalizes.

    Returns:
        An `ExportReport`; its size is that of both files. Its `float_layers`
        are what `"int8"` left in float to reach a cosine of 0.999 on
        `calibration`.

    Raises:
        ValueError: If the model has NaN weights, an argument does not fit,
            the path cannot be written, a layer cannot be converted, or the
            files do not give the model's outputs. Then what was there is
            unchanged.
        RuntimeError: If OpenVINO, or for `"int8"` NNCF, is not installed.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_openvino(model, "nfnet.xml", size=32)
    >>> report.top1_agreement, report.largest_difference < 1e-6
    (1.0, True)

    Reference: of int8: Jacob et al., arXiv:1712.05877.
    """
    one_of("precision", precision, PRECISIONS)
    say = staging.checked_progress(overwrite, progress)
    export = staging.checked_export(
        model, path, precision, labels, size, margin, input_range, say
    )
    staging.check_file(path, overwrite, ENDING)
    modules = ["openvino", "nncf"] if precision == "int8" else ["openvino"]
    staging.check_installed("to_openvino", "openvino", *modules)
    if not str(path).endswith(ENDING):
        raise ValueError(
            f"`path` must end in .xml. Received: path={str(path)!r}"
        )
    path = place(path)
    staging.check_file(weights_of(path), overwrite, ".bin")
    folded, calibration = export.prepared(calibration)
    import openvino

    content = _openvino_model(folded, export)
    del folded
    gc.collect()
    float_layers = ()
    if precision == "int8":
        content, float_layers = _quantized(content, calibration)
    for name, text in export.texts().items():
        content.set_rt_info(text, ["keras_nfnet", name])
    with staged(path, beside=[weights_of(path)]) as new:
        with staging.writing("path", path):
            try:
                half = precision == "float16"
                openvino.save_model(content, new, compress_to_fp16=half)
            # OpenVINO's error on a full disk.
            except RuntimeError as error:
                raise OSError(str(error)) from error
        del content
        report = export.compared(runner, new)
    return dataclasses.replace(report, float_layers=float_layers)


def runner(path, threads=0):
    """A function from float32 pixels to the outputs of an `.xml` file."""
    compiled = _compiled(str(path), threads)
    names = [output.any_name for output in compiled.outputs]

    def run(pixels):
        results = compiled([np.float32(pixels)])
        values = {name: results[name] for name in names}
        return values["output"] if names == ["output"] else values

    return run


def _compiled(model, threads=0):
    """A model or the path of one, compiled to compute in float32."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return openvino.Core().compile_model(model, "CPU", options)


def _openvino_model(folded, export):
    from keras_nfnet.export.openvino_target import OpenVINOTarget

    target = OpenVINOTarget(folded.inputs[0].shape[1:])
    try:
        outputs = lower(folded, target, target.images(export.contract))
    except UnknownOperation as error:
        return _through_onnx(folded, export.contract, error)
    return target.model(named(outputs))


def _through_onnx(folded, contract, reason):
    """Converts a network with layers that the package does not know."""
    import openvino

    from keras_nfnet.export.onnx_file import onnx_model

    try:
        from keras_nfnet.export import onnx_weights

        content, values = onnx_model(folded, contract)
    except ModuleNotFoundError as error:
        raise ValueError(
            "`model` must be an NFNet with a head of known layers; others go "
            "through ONNX, which needs `pip install keras-nfnet[export]` "
            f"({error.name} is missing). Received: {reason}"
        ) from reason
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        onnx_weights.write(content, values, path)
        with open(path, "rb") as file:
            return openvino.Core().read_model(file.read())


def _quantized(model, calibration):
    """The model in int8, by NNCF.

    Weights per output channel and signed, activations per tensor: with a
    zero point where they have both signs. Their ranges are those of least
    squared error over all images. NNCF's default is the mean of each
    image's range, which cuts off what single images have beyond it (F0's
    logits on other images: a cosine of 0.9987 with the float ones, 0.9994
    by histograms). Below a cosine of 0.999 on `calibration` NNCF ranks the
    layers by what they cost, and leaves the worst in float until it is
    reached. Of a network that came through ONNX it leaves the gates of
    squeeze-and-excite in float: there the weights alone are of 8 bits.

    Args:
        model: A float32 `openvino.Model`.
        calibration: Float32 pixels `(images, height, width, channels)`.

    Returns:
        The model, and the names of the layers that are left in float.
    """
    import nncf
    from nncf.quantization import range_estimator

    ranges = range_estimator.RangeEstimatorParametersSet.HISTOGRAM
    images = [image[None] for image in calibration]
    dataset, mixed = nncf.Dataset(images), nncf.QuantizationPreset.MIXED
    options = {"preset": mixed, "subset_size": len(images)}
    # The control takes its parameters under another name.
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=ranges
    )
    with _quiet(nncf):
        result = nncf.quantize(
            model, dataset, advanced_parameters=advanced, **options
        )
        kept = ()
        judged = _judged(model, images[:_JUDGED])
        if _cosine(_compiled(result), judged)[0] < _COSINE:
            before = _quantized_layers(result)
            restorer = nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=len(judged)
            )
            result = nncf.quantize_with_accuracy_control(
                model,
                dataset,
                nncf.Dataset(judged, lambda item: item[0]),
                _cosine,
                # A tenth is left to the weights of the gates.
                max_drop=0.9 * (1 - _COSINE),
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=restorer,
                **options,
            )
            after = set(_quantized_layers(result))
            kept = tuple(name for name in before if name not in after)
        result = nncf.compress_weights(
            result,
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(names=list(kept)),
        )
    return result, kept


def _outputs(compiled, image):
    return [np.float64(value).ravel() for value in compiled(image).values()]


def _judged(model, images):
    """`[(image, outputs)]` of the float model."""
    compiled = _compiled(model)
    return [(image, _outputs(compiled, image)) for image in images]


def _cosine(compiled, judged):
    """Least cosine of an output, all images together; and of each image."""
    got = [_outputs(compiled, image) for image, _ in judged]
    wanted = [outputs for _, outputs in judged]
    together = (
        map(np.concatenate, zip(*outputs, strict=True))
        for outputs in (got, wanted)
    )
    pairs = zip(got, wanted, strict=True)
    each = [min(map(cosine_of, *outputs)) for outputs in pairs]
    return min(map(cosine_of, *together)), each


def _quantized_layers(model):
    """Names of the operations on 8-bit activations."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if any(map(_is_quantized, node.input_values()))
    ]


def _is_quantized(value):
    node = value.get_node()
    return (
        node.get_type_name() == "FakeQuantize"
        # Weights have 8 bits beside float activations too.
        and node.input_value(0).get_node().get_type_name() != "Constant"
    )


@contextlib.contextmanager
def _quiet(nncf):
    """Without NNCF's messages and progress bars."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level)
