"""DeepMind's parameter names: trees of `{module: {parameter: array}}`.

Reference: the parameter trees of the authors' published `F*_haiku.npz`.
"""

import re
from collections.abc import Mapping

import numpy as np

from keras_nfnet.weights.check import assign, collect, entry_of
from keras_nfnet.weights.structure import (
    block_order,
    is_head,
    shapes_of,
    stage_names,
    whole_network,
)

_ROOT = "NFNet/~/"
_PARTS = {
    "se_reduce": "squeeze_excite/~/linear",
    "se_expand": "squeeze_excite/~/linear_1",
}
_PARTS_BACK = {value: key for key, value in _PARTS.items()}
_BLOCK = re.compile(r"NFNet/~/nf_block(?:_([1-9]\d{0,3}))?(?:/~/(.+))?")


class HaikuLayout:
    """Names of DeepMind's trees, flattened as `module:parameter`."""

    name = "DeepMind's (haiku)"

    @staticmethod
    def names(keys):
        """`{key: "module:parameter"}`."""
        index = {block: i for i, block in enumerate(block_order(keys))}
        return {key: ":".join(_haiku_name(key, index)) for key in keys}

    @staticmethod
    def keys(names):
        """`{name: key}` of a file's names; unknown ones are left out."""
        blocks = {}
        for name in names:
            match = _BLOCK.fullmatch(name.partition(":")[0])
            if match:
                i = int(match[1] or 0)
                shortcut = match[2] == "conv_shortcut"
                blocks[i] = blocks.get(i, False) or shortcut
        blocks = stage_names(blocks)
        found = {}
        for name in names:
            module, _, parameter = name.partition(":")
            key = _canonical(module, parameter, blocks)
            if key:
                found[name] = key
        return found

    @staticmethod
    def is_head(name):
        return name.startswith(f"{_ROOT}linear:")

    @staticmethod
    def shape(key, shape):
        return tuple(shape)

    @staticmethod
    def model_shape(key, shape):
        return tuple(shape)

    @staticmethod
    def to_file(key, array):
        return array

    @staticmethod
    def from_file(key, array):
        return array


def _haiku_name(key, index):
    """`(module, parameter)` of a key; `index` numbers the blocks."""
    layer, *part, parameter = key.split("/")
    if is_head(key):
        return f"{_ROOT}linear", {"kernel": "w", "bias": "b"}[parameter]
    if layer in index:
        module = f"{_ROOT}nf_block"
        if index[layer]:
            module += f"_{index[layer]}"
        if not part:
            return module, parameter
        module += f"/~/{_PARTS.get(part[0], part[0])}"
        if part[0] in _PARTS:
            return module, {"kernel": "w", "bias": "b"}[parameter]
    else:
        module = f"{_ROOT}{layer}"
    return module, "w" if parameter == "kernel" else parameter


def _canonical(module, parameter, blocks):
    if module == f"{_ROOT}linear":
        parameter = {"w": "kernel", "b": "bias"}.get(parameter)
        return parameter and f"predictions/{parameter}"
    match = _BLOCK.fullmatch(module)
    if match is None:
        if not module.startswith(_ROOT):
            return None
        parameter = "kernel" if parameter == "w" else parameter
        return f"{module.removeprefix(_ROOT)}/{parameter}"
    block = blocks[int(match[1] or 0)]
    if match[2] is None:
        return f"{block}/{parameter}"
    part = _PARTS_BACK.get(match[2], match[2])
    names = {"w": "kernel", **({"b": "bias"} if part in _PARTS else {})}
    return f"{block}/{part}/{names.get(parameter, parameter)}"


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
    names = HaikuLayout.names(variables)
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


def load_haiku_tree(model, tree):
    """Loads a parameter tree under DeepMind's names.

    Args:
        model: An NFNet of this package. One without a classifier takes a
            tree with or without `NFNet/~/linear`.
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
    names = HaikuLayout.names(variables)
    entries = flatten(tree)
    if not any(is_head(key) for key in variables):
        entries = {
            name: entry
            for name, entry in entries.items()
            if not HaikuLayout.is_head(name)
        }
    shapes = shapes_of(variables)
    arrays = collect(
        {names[key]: shapes[key] for key in variables}, entries, "The tree"
    )
    assign(variables, {key: arrays[names[key]] for key in variables})


def to_haiku_tree(model):
    """The parameters of a model as DeepMind's code names them.

    Args:
        model: An NFNet of this package.

    Returns:
        `{module: {parameter: float32 array}}`, sorted as the published
        files are, kernels HWIO. A model without a classifier has no
        `NFNet/~/linear`.

    Raises:
        ValueError: If the model is not an NFNet.

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
    for key, name in HaikuLayout.names(arrays).items():
        module, parameter = name.split(":")
        tree.setdefault(module, {})[parameter] = arrays[key]
    return {
        module: dict(sorted(tree[module].items())) for module in sorted(tree)
    }
