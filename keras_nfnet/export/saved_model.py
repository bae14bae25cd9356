"""SavedModels that take pixels or encoded pictures. TensorFlow only."""

import os
import time
import warnings

import keras
import numpy as np

from keras_nfnet.data.labels import class_names
from keras_nfnet.data.preprocessing import EVALUATION_MARGIN
from keras_nfnet.export.classifier import (
    check_classifier,
    check_finite,
    ends_in_logits,
    input_size,
)
from keras_nfnet.export.report import ExportReport
from keras_nfnet.export.staging import size_of, staged

# F0's test size, for a model of any resolution that names no variant.
_DEFAULT_SIZE = 256
_TOP = 5
# Largest difference of a probability that is rounding. Half types keep 8
# (bfloat16) or 11 bits, and graphs fuse what eager execution rounds.
_TOLERANCE = {"float32": 1e-4, "float64": 1e-4}
_HALF_TOLERANCE = 2e-2


def to_saved_model(
    model, directory, labels=None, size=None, margin=EVALUATION_MARGIN
):
    """Writes a classifier as a SavedModel for TensorFlow Serving.

    Signatures:

    - `serving_default`: `images`, float32 RGB 0–255 `(batch, height, width,
      3)` → `probabilities` `(batch, classes)`.
    - `serve_bytes`: `image_bytes`, strings `(batch,)` of encoded JPEG, PNG,
      WebP, GIF or BMP pictures of any size → `probabilities`, `classes` and
      `scores` `(batch, 5)`: the best labels and their probabilities (fewer
      columns for fewer classes). The pictures are brought to `size` with
      the paper's evaluation preprocessing.

    Both normalize inside. What is written is loaded back and compared with
    the model before it takes its place: the directory appears whole or not
    at all, and one that was there stays until then.

    Args:
        model: A classifier on images normalized by `preprocess_input`. If it
            ends in logits, the SavedModel adds the softmax.
        directory: Where to write. A SavedModel that is there is replaced;
            for TensorFlow Serving its name is a version, as in
            `serving/nfnet/1`.
        labels: One name per class, or the path of a text file with one name
            a line. Default: ImageNet's names for 1000 classes, else the
            classes' numbers. Stored in `assets/labels.txt`.
        size: Side in pixels that encoded pictures are brought to, or
            `(height, width)`. Default: the model's fixed size, or the test
            size of its variant.
        margin: Pixels to resize encoded pictures beyond `size` before the
            centre crop.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model is no classifier or has NaN weights, an
            argument does not fit, the place cannot be written, or the
            SavedModel does not give the model's outputs.
        RuntimeError: On another Keras backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`to_saved_model` needs the TensorFlow backend of Keras: set "
            "KERAS_BACKEND=tensorflow and load the weights there. Received: "
            f"the backend {keras.backend.backend()!r}"
        )
    classes = check_classifier(model)
    add_softmax = ends_in_logits(model)
    labels = class_names(labels, classes)
    size = input_size(model, size)
    if size is None:
        size = (_DEFAULT_SIZE, _DEFAULT_SIZE)
        warnings.warn(
            f"The model takes any resolution and `size` is not given; encoded "
            f"pictures are brought to {_DEFAULT_SIZE} pixels.",
            stacklevel=2,
        )
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise ValueError(
            "`margin` must be a whole number, 0 or more. "
            f"Received: margin={margin!r}"
        )
    _check_place(directory)
    check_finite(model)

    # Traces and compares a TensorFlow module; imported with it.
    import tensorflow as tf

    from keras_nfnet.export.serving_module import serving_signatures

    with staged(directory, "directory") as path:
        module, signatures = serving_signatures(
            model,
            labels,
            size=size,
            margin=margin,
            top=min(_TOP, classes),
            add_softmax=add_softmax,
            scratch=os.path.dirname(path),
        )
        for signature in signatures.values():
            refuse_compiled(signature.graph)
        try:
            tf.saved_model.save(module, path, signatures=signatures)
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(
                "`directory` must be where a SavedModel can be written. "
                f"Received: directory={str(directory)!r} ({error})"
            ) from error
        report = _compare(model, path, directory, size, margin, add_softmax)
    return report


def refuse_compiled(graph):
    """Refuses a graph with a part that the server would have to compile.

    Raises:
        ValueError: Naming the operation.
    """
    definition = graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes.extend(function.node_def)
        if "_XlaMustCompile" in function.attr and (
            function.attr["_XlaMustCompile"].b
        ):
            raise ValueError(
                "`model` must not need XLA, which a server may lack. "
                f"Received: the compiled function {function.signature.name!r}"
            )
    for node in nodes:
        if "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b:
            raise ValueError(
                "`model` must not need XLA, which a server may lack (Keras's "
                "own grouped convolutions do). Received: the compiled "
                f"operation {node.name!r}"
            )


def _check_place(directory):
    if not isinstance(directory, str | os.PathLike) or not str(directory):
        raise ValueError(
            f"`directory` must be a path. Received: directory={directory!r}"
        )
    if os.path.isdir(directory):
        entries = os.listdir(directory)
        if entries and "saved_model.pb" not in entries:
            raise ValueError(
                "`directory` must be new, empty or a SavedModel to replace. "
                f"Received: directory={str(directory)!r}, which holds other "
                "files"
            )
    elif os.path.lexists(directory):
        raise ValueError(
            "`directory` must be a directory to write. "
            f"Received: directory={str(directory)!r}, which is a file"
        )


def _compare(model, path, directory, size, margin, add_softmax):
    """Loads what was written and holds it against the model."""
    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph

    loaded = tf.saved_model.load(path)
    pixels = _pictures(size)

    def expected(images):
        outputs = model(graph.normalize(images), training=False)
        outputs = tf.cast(outputs, tf.float32)
        return tf.nn.softmax(outputs) if add_softmax else outputs

    pairs = []
    serve = loaded.signatures["serving_default"]
    for batch in (pixels[:1], pixels[1:]):
        images = tf.constant(batch, tf.float32)
        pairs.append((serve(images=images)["probabilities"], expected(images)))
    started = time.perf_counter()
    serve(images=tf.constant(pixels[:1], tf.float32))["probabilities"].numpy()
    seconds = time.perf_counter() - started

    encoded = [tf.io.encode_jpeg(pixels[0]), tf.io.encode_png(pixels[1])]
    answers = loaded.signatures["serve_bytes"](image_bytes=tf.stack(encoded))
    views = tf.stack(
        [
            graph.evaluation_view(graph.decode(picture), size, margin)
            for picture in encoded
        ]
    )
    pairs.append((answers["probabilities"], expected(views)))

    got, wanted = (np.concatenate(side) for side in zip(*pairs, strict=True))
    difference = np.abs(got - wanted).max()
    tolerance = _TOLERANCE.get(model.compute_dtype, _HALF_TOLERANCE)
    if any(
        layer.compute_dtype not in _TOLERANCE
        for layer in model._flatten_layers()
    ):
        tolerance = _HALF_TOLERANCE
    # Written so that NaN fails.
    if not difference <= tolerance:
        raise ValueError(
            "The SavedModel must give the model's probabilities to within "
            f"{tolerance:g}. Received: a largest difference of "
            f"{difference:g}; nothing was written"
        )
    agreement = np.mean(got.argmax(axis=-1) == wanted.argmax(axis=-1))
    return ExportReport(
        path=os.path.abspath(directory),
        size=size_of(path),
        largest_difference=float(difference),
        top1_agreement=float(agreement),
        pictures=len(got),
        seconds_per_picture=seconds,
        input_size=size,
    )


def _pictures(size):
    """Four uint8 pictures, from smooth to noise, the same in every run."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, size[0])[:, None, None] * np.ones(
        (size[0], size[1], 3)
    )
    noise = rng.uniform(0, 255, (4, *size, 3))
    share = np.linspace(0, 1, 4)[:, None, None, None]
    return (smooth * (1 - share) + noise * share).astype("uint8")
