"""ONNX files for ONNX Runtime and others. Any Keras backend."""

import functools
import gc

import keras
import numpy as np

from keras_nfnet.export import staging
from keras_nfnet.export.comparison import ExportReport
from keras_nfnet.export.contract import named
from keras_nfnet.export.lowering import UnknownOperation, lower
from keras_nfnet.utils.arguments import integer, one_of
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

ENDING = ".onnx"
PRECISIONS = ("float32", "float16", "int8")


def to_onnx(
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
    opset: int | None = None,
) -> ExportReport:
    """Writes a model as one ONNX file.

    Its input is `images`, float32 0–255 `(batch, height, width, channels)`;
    it normalizes inside and returns what the model returns: `output`, or
    outputs by the names of a dictionary. The batch is free, and height and
    width where the model leaves them open. The model's metadata have
    `labels.txt` and `preprocessing.json`.

    The model is folded, written beside `path`, run by ONNX Runtime on real
    and random images, compared, and only then moved to `path`. An NFNet
    is written operator by operator; a network with other layers around it
    is converted by tf2onnx, which needs the TensorFlow backend.

    Args:
        model: A functional or sequential Keras model with one input of
            images and one output, or a dictionary or list of outputs.
        path: The file to write, such as `"nfnet.onnx"`.
        precision: `"float32"`; `"float16"` (weights of half the size,
            widened when the file is loaded: the speed and memory of
            float32); `"int8"` (weights and activations of 8 bits).
        calibration: For `"int8"`, as for `to_tflite`: pixels `(images,
            height, width, 3)` of 0–255, or a folder.
        labels: As for `to_saved_model`.
        size: Side in pixels or `(height, width)`, as for `to_tflite`.
        margin: Pixels or a crop fraction, as for `to_saved_model`.
        overwrite: Whether a file that is there is replaced.
        progress: As for `to_tflite`.
        input_range: `"imagenet"` for a model on images normalized by
            `preprocess_input`, `"0-255"` for one that takes pixels as they
            are. Default: found out, where the model begins with an NFNet or
            with a layer that rescales or normalizes.
        opset: Version of ONNX's operators, 17 or later. Default: 20, the
            first that has GELU as one operator.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model has NaN weights, is too large for one file
            (2 GB), an argument does not fit, the path cannot be written,
            or the file does not give the model's outputs. Then what was
            there is unchanged.
        RuntimeError: If ONNX or ONNX Runtime is not installed.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_onnx(model, "nfnet.onnx", size=32)
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
    staging.check_installed("to_onnx", "export", "onnx", "onnxruntime")
    import onnx

    from keras_nfnet.export import onnx_weights
    from keras_nfnet.export.onnx_target import OLDEST_OPSET, OPSET

    newest = onnx.defs.onnx_opset_version()
    opset = integer(
        "opset", OPSET if opset is None else opset, OLDEST_OPSET, newest
    )
    folded, calibration = export.prepared(calibration)
    content, values = onnx_model(folded, export.contract, opset)
    onnx_weights.merge_equal(content, values)
    for name, text in export.texts().items():
        content.metadata_props.add(key=name, value=text)
    with staged(path) as new:
        with staging.writing("path", path):
            half = precision == "float16"
            onnx_weights.write(content, values, new, half)
            del folded, content, values
            gc.collect()
            if precision == "int8":
                onnx_weights.quantize(new, calibration)
        return export.compared(functools.partial(runner, layouts=False), new)


def runner(path, threads=0, layouts=True):
    """A function from float32 pixels to the outputs of an ONNX file.

    Args:
        path: The file.
        threads: Of one operation; 0 for all cores.
        layouts: Whether ONNX Runtime may store the kernels once more, in a
            layout of its own. It is faster, and takes 1.5 times their
            memory.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not layouts:
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        )
    # Log errors only: the warnings are about the optimizer.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(pixels):
        values = session.run(names, {"images": np.float32(pixels)})
        if names == ["output"]:
            return values[0]
        return dict(zip(names, values, strict=True))

    return run


def onnx_model(folded, contract, opset=None):
    """An `onnx.ModelProto` without its constants, and those by name."""
    from keras_nfnet.export.onnx_target import OPSET, OnnxTarget

    opset = opset or OPSET
    target = OnnxTarget(opset)
    try:
        outputs = named(lower(folded, target, target.images(contract)))
    except UnknownOperation as error:
        return _by_tf2onnx(folded, contract, opset, error)
    shapes = [x.shape[1:] for x in named(folded.output).values()]
    content = target.model(outputs, folded.inputs[0].shape[1:], shapes)
    return content, target.values


def _by_tf2onnx(folded, contract, opset, reason):
    """Converts a network with layers that the package does not know."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`model` must be an NFNet with a head of known layers, or the "
            "backend TensorFlow (KERAS_BACKEND=tensorflow), from which "
            f"tf2onnx converts others. Received: {reason}, on the backend "
            f"{keras.backend.backend()!r}"
        ) from reason
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    shape = (None, *folded.inputs[0].shape[1:])

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec(shape, name="images")],
    )
    def outputs(images):
        return named(folded(contract.images(images), training=False))

    # Constants that a layer made eagerly, as `Normalization` does, would
    # become inputs.
    with staging.quiet():
        frozen = convert_variables_to_constants_v2(
            outputs.get_concrete_function()
        )
        found = [x.name for x in frozen.outputs]
        names = zip(found, sorted(named(folded.output)), strict=True)
        content, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=["images:0"],
            output_names=found,
            # The newest opset that tf2onnx writes may be older than ours.
            opset=min(opset, tf2onnx.constants.PREFERRED_OPSET + 3),
            tensors_to_rename={"images:0": "images", **dict(names)},
        )
    _complete(content)
    values = {
        constant.name: onnx.numpy_helper.to_array(constant)
        for constant in content.graph.initializer
    }
    content.graph.ClearField("initializer")
    return content, values


def _complete(content):
    """Writes what tf2onnx leaves as TensorFlow has it, or refuses it.

    Raises:
        ValueError: If an operation is none of ONNX's.
    """
    import onnx

    nodes = []
    for node in content.graph.node:
        if node.op_type == "Erfc" and not node.domain:
            erf, (out,) = f"{node.name}/erf", node.output
            one = onnx.numpy_helper.from_array(np.float32(1), f"{erf}/one")
            content.graph.initializer.append(one)
            nodes.append(onnx.helper.make_node("Erf", node.input, [erf]))
            nodes.append(onnx.helper.make_node("Sub", [one.name, erf], [out]))
        elif node.domain or onnx.defs.has(node.op_type):
            nodes.append(node)
        else:
            raise ValueError(
                "`model` must be of operations that ONNX has. Received: the "
                f"operation {node.op_type} of {node.name!r}"
            )
    del content.graph.node[:]
    content.graph.node.extend(nodes)
