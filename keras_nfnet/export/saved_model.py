"""SavedModels that take pixels or encoded images. TensorFlow only."""

import gc
import os
import warnings

import keras
import numpy as np
from keras import ops

from keras_nfnet.export import comparison, staging
from keras_nfnet.export.comparison import ExportReport
from keras_nfnet.export.contract import (
    check_classifier,
    check_finite,
    check_takes_images,
    contract_of,
    ends_in_logits,
    input_size,
    named,
    view_margin,
)
from keras_nfnet.models.output import (
    is_one_sigmoid,
    labelled_classes,
    probabilities,
)
from keras_nfnet.utils import arguments
from keras_nfnet.utils.files import place, staged
from keras_nfnet.utils.types import (
    InputRange,
    Labels,
    Margin,
    Path,
    Progress,
    Size,
)

ENDING = ""
PRECISIONS = ("float32",)


def to_saved_model(
    model: keras.Model,
    directory: Path,
    labels: Labels | None = None,
    size: Size | None = None,
    margin: Margin | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    input_range: InputRange | None = None,
    outputs: str | None = None,
) -> ExportReport:
    """Writes a model as a SavedModel for TensorFlow Serving.

    Signatures:

    - `serving_default`: `images`, float32 0–255 `(batch, height, width,
      channels)` → `probabilities` `(batch, classes)`; of feature maps the
      outputs by their names.
    - `serve_bytes`: `image_bytes`, strings `(batch,)` of image files of any
      size → `probabilities`, `classes` and `scores` `(batch, 5)`: the best
      labels and their probabilities (fewer columns for fewer classes). The
      files are decoded as by `keras_nfnet.data.decode_picture`, in the same
      formats and within the limit of pixels that `set_max_pixels` holds at
      the time of the export; EXIF orientation is not applied. The images
      are brought to `size` with the paper's evaluation preprocessing. A
      broken or refused file is an `INVALID_ARGUMENT` for its batch.

    Both normalize inside. The network is folded, and requests that warm a
    server up lie in `assets.extra`. What is written is loaded back and
    compared with the model before it takes its place: the directory appears
    whole or not at all.

    Args:
        model: A classifier on images normalized by `preprocess_input`. If it
            ends in logits, the SavedModel adds the softmax. Of one sigmoid
            unit, or its logit, the probabilities are those of two classes.
        directory: Where to write; for TensorFlow Serving its name is a
            version, as in `serving/nfnet/1`.
        labels: One name per class, or the path of a text file with one name
            a line. Default: ImageNet's names for 1000 classes, else the
            classes' numbers. Stored in `assets/labels.txt`.
        size: Side in pixels that encoded images are brought to, or
            `(height, width)`. Default: the model's fixed size, or the test
            size of its variant.
        margin: Pixels to resize encoded images beyond `size` before the
            centre crop, an integer, 0 or more; or a crop fraction, a float
            in (0, 1], of the image with its shorter side resized. Default:
            as the variant was evaluated, else 32.
        overwrite: Whether a SavedModel that is there is replaced.
        progress: Function that is told each step as it begins, such as
            `print`.
        input_range: As for `to_onnx`.
        outputs: What the model returns: `"probabilities"`; `"logits"` of
            classes that exclude each other; `"sigmoid_logits"` of several
            labels; or `"features"`, any tensors by name, as
            `keras_nfnet.features` gives them. Default: found out from the
            last activation (none is taken for logits) and the outputs'
            shapes.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model is no classifier or has NaN weights, an
            argument does not fit, the path cannot be written, or the
            SavedModel does not give the model's outputs. Then what was
            there is unchanged.
        RuntimeError: On another Keras backend than TensorFlow.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_saved_model(model, "nfnet", size=32)
    >>> report.top1_agreement, report.largest_difference < 1e-6
    (1.0, True)

    Reference: of the evaluation preprocessing: arXiv:2102.06171; the
    authors' dataset.py.
    """
    staging.check_backend("to_saved_model")
    check_takes_images(model)
    say = staging.checked_progress(overwrite, progress)
    contract = contract_of(model, input_range)
    classes, answers = _answers(model, outputs)
    labels = staging.checked_labels(model, labels, classes)
    size = input_size(model, size)
    if size is None:
        size = comparison.DEFAULT_SIZE
        warnings.warn(
            f"The model takes any resolution and `size` is not given; encoded "
            f"images are brought to {size[0]} pixels.",
            stacklevel=2,
        )
    margin = view_margin(model, margin)
    _check_place(directory, overwrite)
    check_finite(model)
    export = staging.Export(
        model, directory, "float32", labels, size, margin, contract, say
    )

    # Traces a TensorFlow module; imported with it.
    import tensorflow as tf

    from keras_nfnet.export import serving_module

    folded = export.folded()
    with staged(directory, "directory") as path:
        say("tracing and writing")
        with staging.writing("directory", directory):
            module, signatures = serving_module.serving_signatures(
                folded, export, answers, os.path.dirname(path)
            )
            try:
                tf.saved_model.save(module, path, signatures=signatures)
                serving_module.write_warm_up(
                    path, comparison.images(size)[0], contract, signatures
                )
            except tf.errors.OpError as error:
                raise OSError(error.message) from error
        del folded, module, signatures
        gc.collect()
        say("loading and comparing")
        return _compared(export, path, answers)


def _answers(model, outputs):
    """`(classes, function)` of what a SavedModel answers.

    The classes are `None` for feature maps. The function makes `{name:
    float32 tensor}` of the model's outputs.
    """
    kinds = ("probabilities", "logits", "sigmoid_logits", "features")
    arguments.one_of("outputs", outputs, (*kinds, None))
    shapes = [x.shape for x in model.outputs]
    if outputs is None and (len(shapes) > 1 or len(shapes[0]) == 4):
        outputs = "features"
    if outputs == "features":
        return None, lambda values: {
            name: ops.cast(value, "float32")
            for name, value in named(values).items()
        }
    classes = check_classifier(model)
    if outputs == "sigmoid_logits":

        def answer(x):
            return ops.sigmoid(ops.cast(x, "float32"))

    else:
        is_logits = outputs == "logits" or (
            outputs is None and ends_in_logits(model)
        )
        classes, one_sigmoid = labelled_classes(model), is_one_sigmoid(model)

        def answer(x):
            return probabilities(x, is_logits, one_sigmoid)

    return classes, lambda values: {
        "probabilities": answer(named(values)["output"])
    }


def answering(model, answers=None):
    """A function like the model that returns what a SavedModel answers."""
    if answers is None:
        _, answers = _answers(model, None)
    return lambda images, training: answers(model(images, training=training))


def next_version(directory):
    """The place of the next version in a model's folder for serving.

    Args:
        directory: A folder such as `serving/nfnet`; it need not exist.

    Returns:
        Its path with one more than the largest number in it: `.../1` at
        first.

    Example:

    >>> next_version("a_new_folder")
    'a_new_folder/1'

    Reference: TensorFlow Serving's configuration (`base_path`).
    """
    names = os.listdir(directory) if os.path.isdir(directory) else []
    versions = [int(name) for name in names if name.isdecimal()]
    return os.path.join(directory, str(max(versions, default=0) + 1))


def runner(path):
    """A function from pixels to the outputs of a SavedModel, by name."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def run(pixels):
        outputs = serve(images=tf.constant(pixels, tf.float32))
        return {name: value.numpy() for name, value in outputs.items()}

    # The signature has only weak references to its variables.
    run.loaded = loaded
    return run


def _check_place(directory, overwrite):
    arguments.path("directory", directory, "the path of a directory")
    directory = place(directory)
    is_directory = os.path.isdir(directory)
    entries = os.listdir(directory) if is_directory else []
    if "saved_model.pb" in entries:
        staging.refuse_existing(directory, overwrite, "directory")
    elif entries or (os.path.lexists(directory) and not is_directory):
        what = "holds other files" if is_directory else "is a file"
        raise ValueError(
            "`directory` must be new, empty or a SavedModel to replace. "
            f"Received: directory={str(directory)!r}, which {what}"
        )
    staging.check_folder(directory, "directory")


def _compared(export, path, answers):
    """Loads what was written and compares it with the model."""
    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph

    size, contract = export.size, export.contract
    outputs = answering(export.reference, answers)
    run = runner(path)
    samples = comparison.images(size)
    got, wanted, seconds = comparison.compare(run, outputs, samples, contract)
    if "serve_bytes" in run.loaded.signatures:
        encoded = [tf.io.encode_jpeg(samples[0]), tf.io.encode_png(samples[1])]
        served = run.loaded.signatures["serve_bytes"](
            image_bytes=tf.stack(encoded)
        )
        views = [
            graph.evaluation_view(graph.decode(image), size, export.margin)
            for image in encoded
        ]
        pixels = contract.pixels(tf.stack(views))
        for name, view in comparison.expected(
            outputs, pixels, contract
        ).items():
            got[name] = np.concatenate([got[name], served[name]])
            wanted[name] = np.concatenate([wanted[name], view])
    return export.report((got, wanted, seconds), path)
