"""timm's names and array layouts of `dm_nfnet_f*`.

timm stores DeepMind's values with kernels as OIHW, gains as (C, 1, 1, 1)
and the linear layers of squeeze-and-excite as 1×1 convolutions.

NOTE: the values mean DeepMind's function here. timm's own arithmetic
deviates from it by up to 1.3% on the logits (it adds the variance epsilon
and uses the exact GELU).
"""

import re

import numpy as np

_PARTS = {
    "conv0": "conv1",
    "conv1": "conv2",
    "conv1b": "conv2b",
    "conv2": "conv3",
    "conv_shortcut": "downsample.conv",
    "se_reduce": "attn_last.fc1",
    "se_expand": "attn_last.fc2",
}
_PARTS_BACK = {value: key for key, value in _PARTS.items()}
_PARAMETERS = {"kernel": "weight", "gain": "gain", "bias": "bias"}
_PARAMETERS_BACK = {value: key for key, value in _PARAMETERS.items()}
_OUTER = {
    **{f"stem_conv{i}": f"stem.conv{i + 1}" for i in range(4)},
    "final_conv": "final_conv",
    "predictions": "head.fc",
}
_OUTER_BACK = {value: key for key, value in _OUTER.items()}
_BLOCK = re.compile(r"stages\.(\d{1,4})\.(\d{1,4})\.(.+)")


class TimmLayout:
    """Names and shapes of timm's state dict."""

    name = "timm's"

    @staticmethod
    def names(keys):
        """`{key: name}`."""
        return {key: _timm_name(key) for key in keys}

    @staticmethod
    def keys(names):
        """`{name: key}` of a file's names; unknown ones are left out."""
        found = {name: _canonical(name) for name in names}
        return {name: key for name, key in found.items() if key}

    @staticmethod
    def is_head(name):
        return name.startswith("head.")

    @staticmethod
    def shape(key, shape):
        """Shape in the file of a parameter of the model."""
        shape = tuple(shape)
        if key.endswith("/gain"):
            return (*shape, 1, 1, 1)
        if key.endswith("/kernel"):
            if len(shape) == 4:  # HWIO → OIHW
                return (shape[3], shape[2], shape[0], shape[1])
            units = shape[::-1]
            return (*units, 1, 1) if "/se_" in key else units
        return shape

    @staticmethod
    def model_shape(key, shape):
        """The inverse of `shape`, of an entry that may be misshapen."""
        shape = tuple(shape)
        if key.endswith("/gain"):
            return shape[:1]
        if key.endswith("/kernel"):
            if len(shape) == 4 and "/se_" not in key:
                return (shape[2], shape[3], shape[1], shape[0])
            return shape[1::-1]
        return shape

    @staticmethod
    def to_file(key, array):
        if key.endswith("/kernel"):
            axes = (3, 2, 0, 1) if array.ndim == 4 else (1, 0)
            array = np.transpose(array, axes)
            if "/se_" in key:
                array = array[:, :, None, None]
        elif key.endswith("/gain"):
            array = array[:, None, None, None]
        return np.ascontiguousarray(array).reshape(array.shape)

    @staticmethod
    def from_file(key, array):
        if key.endswith("/kernel"):
            if "/se_" in key:
                array = array[:, :, 0, 0]
            axes = (2, 3, 1, 0) if array.ndim == 4 else (1, 0)
            return np.ascontiguousarray(np.transpose(array, axes))
        return array.reshape(-1) if key.endswith("/gain") else array


def _timm_name(key):
    layer, *part, parameter = key.split("/")
    if layer in _OUTER:
        return f"{_OUTER[layer]}.{_PARAMETERS[parameter]}"
    stage, block = re.findall(r"\d+", layer)
    prefix = f"stages.{int(stage) - 1}.{block}"
    if not part:
        return f"{prefix}.skipinit_gain"
    return f"{prefix}.{_PARTS[part[0]]}.{_PARAMETERS[parameter]}"


def _canonical(name):
    match = _BLOCK.fullmatch(name)
    prefix, rest = "", name
    table = _OUTER_BACK
    if match:
        prefix = f"stage{int(match[1]) + 1}_block{int(match[2])}/"
        rest, table = match[3], _PARTS_BACK
        if rest == "skipinit_gain":
            return f"{prefix}skip_gain"
    layer, _, parameter = rest.rpartition(".")
    if layer not in table or parameter not in _PARAMETERS_BACK:
        return None
    return f"{prefix}{table[layer]}/{_PARAMETERS_BACK[parameter]}"
