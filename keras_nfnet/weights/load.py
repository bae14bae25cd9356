"""Loading weights into a model: everything is checked, then assigned."""

from keras_nfnet.weights.check import assign, collect
from keras_nfnet.weights.files import open_weights, path_of, shapes_in
from keras_nfnet.weights.hub import published_weights
from keras_nfnet.weights.structure import (
    HEAD,
    infer,
    is_head,
    parameters,
    shapes_of,
    variant_of,
)


def load(model, source, new_head=False):
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
    variables, others = parameters(model)
    if others and not new_head:
        raise ValueError(
            "`model` has layers that are not the NFNet's; use "
            "`new_head=True` to leave them as they are and load the rest. "
            f"Received: the layers {', '.join(map(repr, others[:5]))}"
        )
    if isinstance(source, str) and source == "imagenet":
        source = published_weights(variant_of(shapes_of(variables)))
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
        As `load`.
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
        As `load`.
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
        names = layout.names(variables)
        if not any(is_head(key) for key in variables):
            entries = {
                name: entry
                for name, entry in entries.items()
                if not layout.is_head(name)
            }
        expected = {
            names[key]: layout.shape(key, shape)
            for key, shape in shapes.items()
        }
        _refuse_other_head(names, expected, contents, path)
        source = f"The file {path!r} ({layout.name} names)"
        try:
            arrays = collect(expected, entries, source)
        except ValueError as error:
            hint = _other_network(contents, shapes)
            if not hint:
                raise
            raise ValueError(f"{error}. {hint}") from error
        values = {
            key: layout.from_file(key, arrays.pop(names[key]))
            for key in variables
        }
    assign(variables, values)


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
    if (theirs.widths, theirs.depths) == (ours.widths, ours.depths):
        return None
    return (
        f"The file holds an NFNet of widths {theirs.widths} and depths "
        f"{theirs.depths}, the model has widths {ours.widths} and depths "
        f"{ours.depths}"
    )
