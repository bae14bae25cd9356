"""OpenVINO files, an `.xml` with its `.bin`. Any Keras backend."""

import dataclasses
import gc
import os
import tempfile

import keras
import numpy as np

from keras_nfnet.export.comparison import checked
from keras_nfnet.export.contract import named
from keras_nfnet.export.report import ExportReport
from keras_nfnet.export.request import (
    check_installed,
    checked_request,
    prepared,
    silent,
)
from keras_nfnet.export.staging import check_file, weights_of, writing
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

PRECISIONS = ("float32", "float16", "int8")


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
    random pictures, compared, and only then moved to `path`, both files or
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
        calibration: For `"int8"`, as for `to_tflite`: pixels `(pictures,
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
            the place cannot be written, a layer cannot be converted, or the
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
    request = checked_request(
        model,
        path,
        ".xml",
        PRECISIONS,
        precision=precision,
        labels=labels,
        size=size,
        margin=margin,
        overwrite=overwrite,
        progress=progress,
        input_range=input_range,
    )
    modules = ["openvino", "nncf"] if precision == "int8" else ["openvino"]
    check_installed("to_openvino", "openvino", *modules)
    if not str(path).endswith(".xml"):
        raise ValueError(
            f"`path` must end in .xml. Received: path={str(path)!r}"
        )
    path = place(path)
    check_file(weights_of(path), overwrite, ".bin")
    say = progress or silent
    calibration, texts, folded, reference = prepared(
        request, model, precision, calibration, say
    )
    content = _openvino_model(model, folded, request)
    del folded
    gc.collect()
    float_layers = ()
    if precision == "int8":
        from keras_nfnet.export.openvino_precision import quantized

        content, float_layers = quantized(content, calibration)
    for name, text in texts.items():
        content.set_rt_info(text, ["keras_nfnet", name])
    with staged(path, beside=[weights_of(path)]) as new:
        with writing("path", path):
            _save(content, new, precision)
        del content
        say("running and comparing")
        report = checked(
            runner(new),
            reference,
            size=request.size,
            contract=request.contract,
            model=reference,
            path=new,
            target=path,
            precision=precision,
        )
    return dataclasses.replace(report, float_layers=float_layers)


def runner(path, threads=0):
    """A function from float32 pixels to the outputs of an `.xml` file."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    names = [output.any_name for output in compiled.outputs]

    def run(pixels):
        results = compiled([np.float32(pixels)])
        values = {name: results[name] for name in names}
        return values["output"] if names == ["output"] else values

    return run


def _save(content, path, precision):
    import openvino

    try:
        openvino.save_model(
            content, path, compress_to_fp16=precision == "float16"
        )
    # What OpenVINO makes of a full disk.
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _openvino_model(model, folded, request):
    from keras_nfnet.export.lowering import UnknownOperation, lower
    from keras_nfnet.export.openvino_target import OpenVINOTarget

    target = OpenVINOTarget(folded.inputs[0].shape[1:])
    try:
        outputs = lower(folded, target, target.images(request.contract))
    except UnknownOperation as error:
        return _through_onnx(model, request, error)
    return target.model(named(outputs))


def _through_onnx(model, request, reason):
    """Converts a network with layers that the package does not know."""
    import openvino

    try:
        from keras_nfnet.export.onnx_file import to_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            to_onnx(
                model,
                path,
                labels=request.labels,
                size=request.size,
                margin=request.margin,
                input_range=request.contract.input_range,
            )
            with open(path, "rb") as file:
                content = file.read()
    except ModuleNotFoundError as error:
        raise ValueError(
            "`model` must be an NFNet with a head of known layers; others go "
            "through ONNX, which needs `pip install keras-nfnet[export]` "
            f"({error.name} is missing). Received: {reason}"
        ) from reason
    return openvino.Core().read_model(content)
