"""DeepMind's parameter names: trees of `{module: {parameter: array}}`.

Reference: the parameter trees of the authors' published `F*_haiku.npz`.
"""

from collections.abc import Mapping

import keras
import numpy as np

from keras_nfnet.utils.types import Tree
from keras_nfnet.weights.check import assign, collect, entry_of
from keras_nfnet.weights.layout import is_head, layout_for
from keras_nfnet.weights.layouts import HAIKU
from keras_nfnet.weights.structure import shapes_of, whole_network


def haiku_names(model):
    """DeepMind's name of every parameter of a model.

    Args:
        model: An NFNet of this package.

    Returns:
        `{variable path: (module, parameter)}`.

    Raises:
        ValueError: If the model is not an NFNet.
    """
    variables = whole_network(model)
    names = layout_for(variables, HAIKU).names(variables)
    return {
        variable.path: tuple(names[key].split(":"))
        for key, variable in variables.items()
    }


def flatten(tree):
    """`{"module:parameter": Entry}` of a tree.

    Raises:
        ValueError: If it is not a mapping of mappings of arrays.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(
            "`tree` must be {module: {parameter: array}}. Received: "
            f"{type(tree).__name__}"
        )
    entries = {}
    for module, parameters in tree.items():
        if not isinstance(module, str) or not isinstance(parameters, Mapping):
            raise ValueError(
                "`tree` must be {module: {parameter: array}}. Received: "
                f"{type(parameters).__name__} under {module!r}"
            )
        for parameter, value in parameters.items():
            name = f"{module}:{parameter}"
            try:
                entries[name] = entry_of(value)
            except ValueError as error:
                raise ValueError(f"In `tree`, {name}: {error}") from error
        if not parameters:
            entries[module] = entry_of(np.zeros(0))
    return entries


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
    entries = flatten(tree)
    if not any(is_head(key) for key in variables):
        entries = {
            name: entry
            for name, entry in entries.items()
            if not layout.is_head(name)
        }
    shapes = shapes_of(variables)
    arrays = collect(
        {names[key]: shapes[key] for key in variables}, entries, "The tree"
    )
    assign(variables, {key: arrays[names[key]] for key in variables})


def to_haiku_tree(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of a model as DeepMind's code names them.

    Args:
        model: An NFNet of this package.

    Returns:
        `{module: {parameter: float32 array}}`, sorted as the published
        files are, kernels HWIO. A model without a classifier has no
        module `…/~/linear`.

    Raises:
        ValueError: If the model is no network of this package, or one that
            DeepMind's code does not have, such as timm's.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> tree = keras_nfnet.weights.to_haiku_tree(model)
    >>> tree["NFNet/~/linear"]["w"].shape
    (128, 10)

    Reference: the authors' published `F*_haiku.npz`.
    """
    return tree_of(values_of(whole_network(model)))


def values_of(variables):
    """`{key: float32 array}`, copies of the variables' values."""
    from keras import ops

    return {
        key: np.array(ops.convert_to_numpy(variable), np.float32)
        for key, variable in variables.items()
    }


def tree_of(arrays):
    """`{module: {parameter: array}}` of `{key: array}`."""
    tree = {}
    for key, name in layout_for(arrays, HAIKU).names(arrays).items():
        module, parameter = name.split(":")
        tree.setdefault(module, {})[parameter] = arrays[key]
    return {
        module: dict(sorted(tree[module].items())) for module in sorted(tree)
    }
