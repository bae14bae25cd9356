"""Keras's `.weights.h5`: where `model.save_weights` puts each parameter.

Keras names a layer's group after its class and counts, in the order of the
model's layers, and numbers a layer's variables.
"""

import re

from keras_nfnet.weights.structure import block_order, is_head, stage_names

_CONVOLUTION = ("kernel", "gain", "bias")
_DENSE = ("kernel", "bias")
_STEM = 4
_PARTS = {
    "se_reduce": "squeeze_excite/reduce",
    "se_expand": "squeeze_excite/expand",
}
_PARTS_BACK = {value: key for key, value in _PARTS.items()}
_PATH = re.compile(
    r"layers/(scaled_ws_conv2d|nf_block|dense)(?:_([1-9]\d{0,3}))?"
    r"(?:/(.+))?/vars/(\d)"
)


class KerasH5Layout:
    """Paths of the datasets in a `.weights.h5`."""

    name = "Keras's (.weights.h5)"

    @staticmethod
    def names(keys):
        """`{key: path of the dataset}`."""
        index = {block: i for i, block in enumerate(block_order(keys))}
        return {key: _path(key, index) for key in keys}

    @staticmethod
    def keys(names):
        """`{name: key}` of a file's names; unknown ones are left out."""
        matches = {name: _PATH.fullmatch(name) for name in names}
        blocks = {}
        for match in matches.values():
            if match and match[1] == "nf_block":
                i = int(match[2] or 0)
                shortcut = match[3] == "conv_shortcut"
                blocks[i] = blocks.get(i, False) or shortcut
        blocks = stage_names(blocks)
        found = {
            name: _canonical(match, blocks)
            for name, match in matches.items()
            if match
        }
        return {name: key for name, key in found.items() if key}

    @staticmethod
    def is_head(name):
        return not name.startswith(
            ("layers/scaled_ws_conv2d", "layers/nf_block")
        )

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


def _counted(name, index):
    return f"layers/{name}_{index}" if index else f"layers/{name}"


def _path(key, index):
    layer, *part, parameter = key.split("/")
    names = _CONVOLUTION
    if is_head(key):
        group, names = "layers/dense", _DENSE
    elif layer in index:
        group = _counted("nf_block", index[layer])
        if not part:
            group, names = f"{group}/skip_init", ("skip_gain",)
        elif part[0] in _PARTS:
            group, names = f"{group}/{_PARTS[part[0]]}", _DENSE
        else:
            group = f"{group}/{part[0]}"
    else:
        position = _STEM if layer == "final_conv" else int(layer[-1])
        group = _counted("scaled_ws_conv2d", position)
    return f"{group}/vars/{names.index(parameter)}"


def _canonical(match, blocks):
    kind, index, part, variable = match.groups()
    index, variable = int(index or 0), int(variable)
    names = _CONVOLUTION
    if kind == "dense":
        layer, names = "predictions", _DENSE
        known = index == 0 and part is None
    elif kind == "scaled_ws_conv2d":
        layer = f"stem_conv{index}" if index < _STEM else "final_conv"
        known = index <= _STEM and part is None
    else:
        layer, known = blocks[index], part is not None
        if part == "skip_init":
            names = ("skip_gain",)
        elif part in _PARTS_BACK:
            layer, names = f"{layer}/{_PARTS_BACK[part]}", _DENSE
        else:
            layer = f"{layer}/{part}"
    if not known or variable >= len(names):
        return None
    return f"{layer}/{names[variable]}"
