"""Loading weights into a model: everything is checked, then assigned."""

import keras
import numpy as np

from keras_nfnet.utils.arguments import boolean
from keras_nfnet.utils.types import Path
from keras_nfnet.weights.check import assign, collect
from keras_nfnet.weights.files import open_weights, path_of, shapes_in
from keras_nfnet.weights.hub import published_weights
from keras_nfnet.weights.layout import HEAD, is_head
from keras_nfnet.weights.structure import (
    infer,
    parameters,
    shapes_of,
    variant_of,
)

FIRST_KERNEL = "stem_conv0/kernel"


def load(model: keras.Model, source: Path, new_head: bool = False) -> None:
    """Loads a file into a model, all of it or nothing.

    Args:
        model: An NFNet of this package, or with `new_head=True` also a
            Keras model built on one.
        source: `"imagenet"`, or the path of a DeepMind `*_haiku.npz`, a
            timm or own `.safetensors`, or a `.weights.h5`. The content
            decides, not the name.
        new_head: Whether to leave the classifier (and any other layer on
            top) as it is and load the rest. A model without a classifier
            never takes the file's.

    A file that has no checksum of its own, and none that its publisher
    announced, is loaded with a `UserWarning` if it has changed since its
    first load.

    Raises:
        ValueError: If the file is damaged, or an entry is missing,
            unexpected, of another shape, or not finite. The model is
            unchanged then.
        WeightsFileError: If the file cannot be read or fetched; an
            `OSError` and a `ValueError`.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> keras_nfnet.weights.save(model, "tuned.safetensors")
    >>> other = keras_nfnet.NFNet(config, weights=None, classes=37)
    >>> keras_nfnet.weights.load(other, "tuned.safetensors", new_head=True)
    >>> kernels = (m.get_layer("stem_conv0").kernel for m in (model, other))
    >>> np.array_equal(*kernels)
    True
    """
    boolean("new_head", new_head)
    variables, others = parameters(model)
    if others and not new_head:
        raise ValueError(
            "`model` has layers that are not the NFNet's; use "
            "`new_head=True` to leave them as they are and load the rest. "
            f"Received: the layers {', '.join(map(repr, others[:5]))}"
        )
    if isinstance(source, str) and source == "imagenet":
        source = published_weights(variant_of(shapes_of(variables)))
    source = path_of(source, "source")
    _load(variables, source, new_head)


def pretrained_path(weights, variant):
    """The file that a builder's argument `weights` means.

    Args:
        weights: `"imagenet"` or a path.
        variant: The variant's name, or `None` for a configuration.

    Raises:
        ValueError: If none were published for the variant.
        WeightsFileError: If the published file cannot be had.
    """
    if isinstance(weights, str) and weights == "imagenet":
        return published_weights(variant)
    return weights


def load_pretrained(model, path):
    """Loads what `pretrained_path` gave into a new model.

    Raises:
        WeightsFileError, ValueError: As `load`.
    """
    variables, _ = parameters(model)
    _load(variables, path, new_head=False)


def classes_in(source):
    """Number of classes of the classifier in a file.

    Args:
        source: As for `load`.

    Returns:
        A number, or `None` if there is no classifier in it.

    Raises:
        WeightsFileError, ValueError: As `load`.
    """
    if isinstance(source, str) and source == "imagenet":
        return 1000
    with open_weights(path_of(source)) as contents:
        shape = shapes_in(contents).get(f"{HEAD}/bias")
    return shape[0] if shape else None


def _load(variables, source, new_head):
    path = path_of(source)
    if new_head:
        variables = {
            key: value for key, value in variables.items() if not is_head(key)
        }
    shapes = shapes_of(variables)
    with open_weights(path) as contents:
        layout, entries = contents.layout, contents.entries
        if not any(is_head(key) for key in variables):
            entries = {
                name: entry
                for name, entry in entries.items()
                if not layout.is_head(name)
            }
        source = f"The file {path!r} ({layout.name} names)"
        try:
            names = layout.names(variables)
            expected = {
                names[key]: layout.shape(key, shape)
                for key, shape in _as_in_file(shapes, contents).items()
            }
            _refuse_other_head(names, expected, contents, path)
            arrays = collect(expected, entries, source)
        except ValueError as error:
            hint = _other_network(contents, shapes)
            if not hint:
                raise
            raise ValueError(f"{error}. {hint}") from error
        contents.compare_with_known(path)
        values = {
            key: layout.from_file(key, arrays.pop(names[key]))
            for key in variables
        }
    if FIRST_KERNEL in values:
        values[FIRST_KERNEL] = adapted_kernel(
            values[FIRST_KERNEL], shapes[FIRST_KERNEL][2]
        )
    assign(variables, values)


def _as_in_file(shapes, contents):
    """The shapes to expect: a file of RGB fits any number of channels."""
    found = shapes_in(contents).get(FIRST_KERNEL)
    if FIRST_KERNEL not in shapes or found is None or len(found) != 4:
        return shapes
    height, width, _, filters = shapes[FIRST_KERNEL]
    if found == (height, width, 3, filters):
        return {**shapes, FIRST_KERNEL: found}
    return shapes


def adapted_kernel(kernel, channels):
    """A first kernel of RGB images for images of other channels.

    Args:
        kernel: NumPy array `(height, width, 3, filters)`.
        channels: Positive integer. One channel has the sum over RGB; others
            have RGB repeated, cut and scaled by 3 / channels.

    Returns:
        NumPy array `(height, width, channels, filters)`.

    Reference: timm 1.0.31, `adapt_input_conv`.
    """
    if kernel.shape[2] == channels:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))
    return repeated[:, :, :channels] * np.float32(3 / channels)


def _refuse_other_head(names, expected, contents, path):
    """The error of a classifier that alone does not fit."""
    keys = (f"{HEAD}/kernel", f"{HEAD}/bias")
    if keys[0] not in names:
        return
    heads = [names[key] for key in keys]
    entries = contents.entries
    body = {name for name in expected if name not in heads}
    found = {name for name in entries if not contents.layout.is_head(name)}
    if body != found or any(
        tuple(entries[name].shape) != tuple(expected[name]) for name in body
    ):
        return  # Not only the head: the general error says more.
    advice = (
        "Use `include_top=False`, or `keras_nfnet.weights.load(model, path, "
        "new_head=True)` to load the rest and keep the model's classifier. "
        "Nothing was loaded"
    )
    bias = tuple(expected[heads[1]])
    if not any(name in entries for name in heads):
        raise ValueError(
            f"The file {path!r} has no classifier, the model one of "
            f"{bias[0]} classes. {advice}"
        )
    shape = entries[heads[1]].shape if heads[1] in entries else bias
    if len(shape) == 1 and tuple(shape) != bias:
        raise ValueError(
            f"The file {path!r} has a classifier of {shape[0]} classes, the "
            f"model one of {bias[0]}. {advice}"
        )


def _other_network(contents, shapes):
    """A sentence on which network the file holds, if that differs."""
    try:
        found = shapes_in(contents)
        theirs, ours = infer(found)[0], infer(shapes)[0]
    except ValueError:
        return None
    if (theirs.widths, theirs.depths) != (ours.widths, ours.depths):
        return (
            f"The file holds an NFNet of widths {theirs.widths} and depths "
            f"{theirs.depths}, the model has widths {ours.widths} and depths "
            f"{ours.depths}"
        )
    names = [variant_of(found), variant_of(shapes)]
    if names[0] == names[1] or None in names:
        return None
    return f"The file holds {names[0]}, the model is {names[1]}"
