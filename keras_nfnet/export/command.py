"""`keras-nfnet export`, and what the scripts in `export/` run."""

import argparse
import os
import sys

from keras_nfnet.data.labels import Described, described, read_labels
from keras_nfnet.export import (
    comparison,
    onnx_file,
    openvino_file,
    saved_model,
    tflite,
)
from keras_nfnet.export.contract import contract_of, input_size

# Each module has `PRECISIONS`, the `ENDING` of its files and a `runner`.
FORMATS = {
    "saved_model": saved_model,
    "tflite": tflite,
    "onnx": onnx_file,
    "openvino": openvino_file,
}


def add_parser(subparsers):
    """Adds the command `export` to the command line's parsers."""
    text = "write a SavedModel, a TFLite, ONNX or OpenVINO file of a model"
    parser = subparsers.add_parser(
        "export", help=text, description=text[0].upper() + text[1:] + "."
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="saved_model",
        help="what to write (default: saved_model)",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser):
    """Adds all arguments but the format to a parser."""
    add_model_arguments(parser)
    parser.add_argument(
        "--out",
        help="file to write (default: the model's name); of a SavedModel a "
        "version such as serving/nfnet/1, or the model's folder, in which "
        "the next version is made (default: serving/ and the model's name)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=tflite.PRECISIONS,
        help="of the weights (default: float32)",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="for int8: images like those to be classified, 100 or so",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the images in pixels (default: the model's)",
    )
    parser.add_argument(
        "--margin",
        type=pixels_or_fraction,
        help="pixels to resize images beyond the size before the centre is "
        "cropped, or a crop fraction such as 0.9 (default: as the model was "
        "evaluated, or 32)",
    )
    parser.add_argument(
        "--input-range",
        choices=("imagenet", "0-255"),
        help="what a .keras file takes: normalized images or pixels "
        "(default: found out)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what is there",
    )


def add_model_arguments(parser):
    """Adds the arguments that say which model."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a variant, such as F0 or F4+, or a .keras file",
    )
    parser.add_argument(
        "--weights",
        help='of a variant: "imagenet" (default) or a file of weights',
    )
    parser.add_argument(
        "--labels",
        help="text file, one name a line (default: the labels.txt beside a "
        ".keras file, or ImageNet's)",
    )
    parser.add_argument(
        "--classes",
        type=int,
        help="classes of the weights (default: as many as labels, or 1000)",
    )


def pixels_or_fraction(text):
    """A number of pixels, or with a point in it a fraction."""
    return float(text) if "." in text else int(text)


def run(options):
    """Runs the command; returns its exit status."""
    try:
        print(export(options))
    except RuntimeError as error:  # The wrong Keras backend.
        raise ValueError(str(error)) from error
    return 0


def export(options):
    """Exports as the options say.

    Args:
        options: What a parser with `add_arguments` returns, and `format`.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: Saying what to mend.
    """
    form = FORMATS[options.format]
    if options.precision not in form.PRECISIONS:
        raise ValueError(
            f"`--precision` of {options.format} must be one of "
            f"{', '.join(form.PRECISIONS)}. "
            f"Received: {options.precision}"
        )
    beside = Described()
    if options.model.endswith(".keras"):
        beside = described(options.model)
    labels = read_labels(options.labels) if options.labels else beside.labels
    _say(f"building {options.model}")
    model = model_of(options)
    size = options.size
    if size is None and None in model.inputs[0].shape[1:3]:
        size = beside.size
    arguments = {
        "labels": labels,
        "size": size,
        "margin": beside.margin if options.margin is None else options.margin,
        "overwrite": options.overwrite,
        "progress": _say,
        "input_range": options.input_range,
    }
    write = getattr(form, f"to_{options.format}")
    if form is not saved_model:
        return write(
            model,
            options.out or model.name + form.ENDING,
            options.precision,
            options.calibration,
            **arguments,
        )
    out = options.out or os.path.join("serving", model.name)
    if not os.path.basename(os.path.normpath(out)).isdecimal():
        out = saved_model.next_version(out)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    return write(model, out, **arguments)


def _say(text):
    print(f"{text} …", flush=True)


def model_of(options, weights="imagenet"):
    """The model that the options of `add_model_arguments` say.

    Args:
        options: `model`, `weights`, `classes` and `labels`.
        weights: Of a variant without an option that says them.

    Raises:
        ValueError: Saying what to mend.
    """
    import keras_nfnet
    from keras_nfnet.models.keras_file import load_keras_file

    if not options.model.endswith(".keras"):
        classes = options.classes or 1000
        if options.labels and not options.classes:
            classes = len(read_labels(options.labels))
        return keras_nfnet.NFNet(
            options.model,
            weights=options.weights or weights,
            classes=classes,
            classifier_activation="sigmoid" if classes == 1 else "softmax",
        )
    for name in ("weights", "classes"):
        if getattr(options, name):
            raise ValueError(
                f"`--{name}` is of a variant; a .keras file has its own. "
                f"Received: {getattr(options, name)}"
            )
    return load_keras_file(options.model, "MODEL")


def main(form, text, arguments=None):
    """Exports to one format; returns the exit status, 2 on bad input.

    Args:
        form: A format of `keras-nfnet export`.
        text: The script's docstring.
        arguments: Of the command line; `None` for the process's.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    options.format = form
    # TensorFlow's start-up notes are not for users of a command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return reported(lambda: print(export(options)))


def reported(work):
    """Runs a function; 0, or 2 with one line on what to mend."""
    try:
        work()
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        line = " ".join(str(error).split())
        name = os.path.basename(sys.argv[0])
        print(f"{name}: error: {line}", file=sys.stderr)
        return 2
    return 0


def verify(path, model, precision="float32", input_range=None):
    """Runs an export by its own runtime and compares it with a model.

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
    outputs, form = model, onnx_file
    for other in (tflite, openvino_file):
        if str(path).endswith(other.ENDING):
            form = other
    try:
        if os.path.isdir(path):
            outputs, form = saved_model.answering(model), saved_model
        run = form.runner(path)
    except ImportError:
        raise
    # Each runtime has errors of its own for a broken file.
    except Exception as error:
        raise ValueError(
            "`path` must be a SavedModel, a .tflite, an .onnx or an .xml file "
            f"that its runtime loads. Received: path={str(path)!r} ({error})"
        ) from error
    size = input_size(model) or comparison.DEFAULT_SIZE
    contract = contract_of(model, input_range)
    images = comparison.images(size)
    return comparison.report(
        *comparison.compare(run, outputs, images, contract),
        model=model,
        path=path,
        target=path,
        precision=precision,
        size=size,
    )
