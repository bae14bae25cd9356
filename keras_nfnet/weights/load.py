"""Loading weights into a model: everything is checked, then assigned."""

from collections.abc import Mapping

import keras
import numpy as np

from keras_nfnet.utils.arguments import boolean
from keras_nfnet.utils.types import Path, Tree
from keras_nfnet.weights.check import Entry, assign, collect
from keras_nfnet.weights.files import open_weights, path_of
from keras_nfnet.weights.names import HAIKU, layout_for
from keras_nfnet.weights.published import published_weights
from keras_nfnet.weights.structure import (
    FIRST_KERNEL,
    HEAD,
    infer,
    is_head,
    parameters,
    shapes_of,
    variant_of,
    whole_network,
)


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
    load_into(variables, path_of(source, "source"), new_head)


def load_into(variables, path, new_head=False):
    """Loads a file into the variables of an NFNet, by key; as `load`."""
    if new_head:
        variables = {
            key: value for key, value in variables.items() if not is_head(key)
        }
    shapes = shapes_of(variables)
    with open_weights(path) as contents:
        if not any(map(is_head, variables)):
            contents = contents.without_head()
        try:
            in_file = _as_in_file(shapes, contents)
            _refuse_other_head(in_file, contents)
            values = contents.read(in_file)
        except ValueError as error:
            hint = _other_network(shapes, contents)
            if not hint:
                raise
            raise ValueError(f"{error}. {hint}") from error
    if FIRST_KERNEL in values:
        values[FIRST_KERNEL] = _adapted_kernel(
            values[FIRST_KERNEL], shapes[FIRST_KERNEL][2]
        )
    assign(variables, values)


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
        shape = contents.shapes.get(f"{HEAD}/bias")
    return shape[0] if shape else None


def load_haiku_tree(model: keras.Model, tree: Tree) -> None:
    """Loads a parameter tree under DeepMind's names.

    Args:
        model: An NFNet of this package. One without a classifier takes a
            tree with or without the classifier's module.
        tree: `{module: {parameter: array}}`, floating-point, kernels HWIO.

    Raises:
        ValueError: Naming every entry (the first of many) that is missing,
            extra, misshapen, of another type or not finite. The model is
            unchanged then.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> tree = keras_nfnet.weights.to_haiku_tree(model)
    >>> tree["NFNet/~/linear"]["b"][:] = 1
    >>> keras_nfnet.weights.load_haiku_tree(model, tree)
    >>> float(model.get_layer("predictions").bias[0])
    1.0

    Reference: the authors' published `F*_haiku.npz`.
    """
    variables = whole_network(model)
    layout = layout_for(variables, HAIKU)
    names = layout.names(variables)
    entries = _entries(tree)
    if not any(map(is_head, variables)):
        entries = {
            name: entry
            for name, entry in entries.items()
            if not layout.is_head(name)
        }
    expected = {
        names[key]: shape for key, shape in shapes_of(variables).items()
    }
    arrays = collect(expected, entries, "The tree")
    assign(variables, {key: arrays[names[key]] for key in variables})


def _entries(tree):
    """`{"module:parameter": Entry}` of a tree.

    Raises:
        ValueError: If it is not a mapping of mappings of arrays.
    """
    expected = "`tree` must be {module: {parameter: array}}. Received: "
    if not isinstance(tree, Mapping):
        raise ValueError(f"{expected}{type(tree).__name__}")
    entries = {}
    for module, values in tree.items():
        if not isinstance(module, str) or not isinstance(values, Mapping):
            raise ValueError(
                f"{expected}{type(values).__name__} under {module!r}"
            )
        if not values:
            entries[module] = Entry((0,), "nothing", lambda: np.zeros(0))
        for parameter, value in values.items():
            name = f"{module}:{parameter}"
            try:
                array = np.asarray(value)
            except Exception as error:
                raise ValueError(
                    f"In `tree`, {name}: every parameter must be an array of "
                    f"numbers. Received: {type(value).__name__}"
                ) from error
            entries[name] = Entry(
                array.shape, array.dtype.name, lambda array=array: array
            )
    return entries


def _as_in_file(shapes, contents):
    """The shapes to expect: a file of RGB fits any number of channels."""
    found, ours = contents.shapes.get(FIRST_KERNEL), shapes.get(FIRST_KERNEL)
    if found and ours and found == (*ours[:2], 3, ours[3]):
        return {**shapes, FIRST_KERNEL: found}
    return shapes


def _adapted_kernel(kernel, channels):
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


def _refuse_other_head(shapes, contents):
    """The error of a classifier that alone does not fit."""
    ours, theirs = (
        {key: shape for key, shape in each.items() if not is_head(key)}
        for each in (shapes, contents.shapes)
    )
    names = [n for n in contents.entries if not contents.layout.is_head(n)]
    bias = shapes.get(f"{HEAD}/bias")
    if bias is None or ours != theirs or len(names) > len(theirs):
        return  # Not only the head: the general error says more.
    found = contents.shapes.get(f"{HEAD}/bias", bias)
    if not any(map(is_head, contents.shapes)):
        holds, has = "no classifier", f"one of {bias[0]} classes"
    elif len(found) == 1 and found != bias:
        holds, has = f"a classifier of {found[0]} classes", f"one of {bias[0]}"
    else:
        return
    raise ValueError(
        f"The file {contents.path!r} has {holds}, the model {has}. Use "
        "`include_top=False`, or `keras_nfnet.weights.load(model, path, "
        "new_head=True)` to load the rest and keep the model's classifier. "
        "Nothing was loaded"
    )


def _other_network(shapes, contents):
    """A sentence on which network the file holds, if that differs."""
    try:
        theirs, ours = infer(contents.shapes)[0], infer(shapes)[0]
    except ValueError:
        return None
    if (theirs.widths, theirs.depths) != (ours.widths, ours.depths):
        return (
            f"The file holds an NFNet of widths {theirs.widths} and depths "
            f"{theirs.depths}, the model has widths {ours.widths} and depths "
            f"{ours.depths}"
        )
    names = [variant_of(contents.shapes), variant_of(shapes)]
    if names[0] == names[1] or None in names:
        return None
    return f"The file holds {names[0]}, the model is {names[1]}"
