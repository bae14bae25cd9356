"""`keras-nfnet export`, and what the scripts in `export/` share."""

import os

FORMATS = {
    "saved_model": ("float32",),
    "tflite": ("float32", "float16", "dynamic_int8", "int8"),
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "int8"),
}
_ENDINGS = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml"}


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
        choices=FORMATS["tflite"],
        help="of the weights (default: float32)",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="for int8: pictures like those to be classified, 100 or so",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the pictures in pixels (default: the model's)",
    )
    parser.add_argument(
        "--margin",
        type=pixels_or_fraction,
        help="pixels to resize pictures beyond the size before the centre is "
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
    if options.precision not in FORMATS[options.format]:
        raise ValueError(
            f"`--precision` of {options.format} must be one of "
            f"{', '.join(FORMATS[options.format])}. "
            f"Received: {options.precision}"
        )
    from keras_nfnet import export as exports
    from keras_nfnet.data.labels import Described, described, read_labels

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
        "overwrite": options.overwrite,
        "progress": _say,
        "input_range": options.input_range,
    }
    margin = beside.margin if options.margin is None else options.margin
    if margin is not None:
        arguments["margin"] = margin
    out = _place(options, model.name)
    if options.format == "saved_model":
        os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
        return exports.to_saved_model(model, out, **arguments)
    write = {
        "tflite": exports.to_tflite,
        "onnx": exports.to_onnx,
        "openvino": exports.to_openvino,
    }
    return write[options.format](
        model, out, options.precision, options.calibration, **arguments
    )


def _say(text):
    print(f"{text} …", flush=True)


def model_of(options):
    """The model that the options of `add_model_arguments` say.

    Raises:
        ValueError: Saying what to mend.
    """
    import keras_nfnet
    from keras_nfnet.data.labels import read_labels
    from keras_nfnet.models.keras_file import load_keras_file

    if not options.model.endswith(".keras"):
        classes = options.classes or 1000
        if options.labels and not options.classes:
            classes = len(read_labels(options.labels))
        return keras_nfnet.NFNet(
            options.model,
            weights=options.weights or "imagenet",
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


def _place(options, name):
    if options.format != "saved_model":
        return options.out or name + _ENDINGS[options.format]
    out = options.out or os.path.join("serving", name)
    if os.path.basename(os.path.normpath(out)).isdecimal():
        return out
    from keras_nfnet.export.saved_model import next_version

    return next_version(out)
