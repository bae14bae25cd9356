"""How files name and shape the parameters: one table per publisher.

Inside the package every parameter has one key, which is also its name in
the package's own `.safetensors`: `stem_conv0/kernel`,
`stage2_block0/conv1/gain`, `stage2_block0/skip_gain`,
`stage2_block0/se_reduce/bias`, `final_conv/kernel`, `predictions/kernel`.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

HEAD = "predictions"
BLOCK = re.compile(r"stage([1-9]\d{0,3})_block(0|[1-9]\d{0,3})")
_STEM = re.compile(r"stem_conv(0|[1-9]\d?)")
_NUMBER = r"(?:0|[1-9]\d{0,3})"

# What a part of a network has.
CONVOLUTION = ("kernel", "gain", "bias")
DENSE = ("kernel", "bias")
ECA = ("kernel",)
SKIP = ("skip_gain",)
# Key of a part → what it has. `block` stands for `stage1_block0` and so on.
PARTS = {
    "stem_conv": CONVOLUTION,
    "final_conv": CONVOLUTION,
    HEAD: DENSE,
    "block": SKIP,
    **{
        f"block/{part}": CONVOLUTION
        for part in ("conv0", "conv1", "conv1b", "conv2", "conv_shortcut")
    },
    "block/se_reduce": DENSE,
    "block/se_expand": DENSE,
    "block/middle_se_reduce": DENSE,
    "block/middle_se_expand": DENSE,
    "block/eca": ECA,
    "block/middle_eca": ECA,
}


def is_head(key):
    """Whether a key belongs to the classifier."""
    return key.startswith(f"{HEAD}/")


def block_order(keys):
    """The blocks of some keys, first to last: `["stage1_block0", ...]`."""
    blocks = {key.split("/")[0] for key in keys if BLOCK.match(key)}
    return sorted(
        blocks, key=lambda name: tuple(map(int, BLOCK.match(name).groups()))
    )


def part_of(key):
    """`(part, parameter)` of a key, or `(None, None)`."""
    path, _, parameter = key.rpartition("/")
    layer, *inner = path.split("/")
    if BLOCK.fullmatch(layer):
        part = "/".join(["block", *inner])
    elif _STEM.fullmatch(layer) and not inner:
        part = "stem_conv"
    else:
        part = "/".join([layer, *inner])
    if parameter not in PARTS.get(part, ()):
        return None, None
    return part, parameter


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of one publisher, and the form of the arrays.

    Args:
        name: Whose names they are, for messages.
        modules: Part of `PARTS` → module in the file. A module may have the
            fields `{stage}` and `{block}`, from 0, or `{index}` of the block
            in the network (nothing for block 0, else `_1`, `_2`, …), and
            for the stem `{stem}`, from 0, or `{stem1}`, from 1, or none: then
            the stem is one convolution.
        words: What each of `CONVOLUTION`, `DENSE`, `ECA` and `SKIP` is
            called: as many words, or absent where there are none.
        joint: Between a module and a word.
        skip_gain: Whether every block must have a skip gain.
        torch: Whether the arrays have PyTorch's form: kernels OIHW, gains
            `(channels, 1, 1, 1)`, matrices `(out, in)`, and dense layers
            inside a block as 1×1 convolutions.
    """

    name: str
    modules: Mapping
    words: Mapping
    joint: str = "/"
    skip_gain: bool = False
    torch: bool = False

    def names(self, keys):
        """`{key: name}`.

        Raises:
            ValueError: If these names have none for a key.
        """
        index = {block: i for i, block in enumerate(block_order(keys))}
        for block in index:
            if self.skip_gain and f"{block}/skip_gain" not in keys:
                self._refuse(f"{block} without a skip gain")
        return {key: self._name(key, index) for key in keys}

    def _refuse(self, what):
        raise ValueError(
            f"`model` must be a network that {self.name} names have. "
            f"Received: a network with {what}"
        )

    def _name(self, key, index):
        part, parameter = part_of(key)
        words = self.words.get(PARTS.get(part))
        if part not in self.modules or words is None:
            self._refuse(key)
        layer = key.split("/")[0]
        fields = {}
        if layer in index:
            stage, block = BLOCK.match(layer).groups()
            fields = {
                "stage": int(stage) - 1,
                "block": block,
                "index": f"_{index[layer]}" if index[layer] else "",
            }
        elif part == "stem_conv":
            stem = int(_STEM.fullmatch(layer)[1])
            fields = {"stem": stem, "stem1": stem + 1}
            if stem and "{" not in self.modules[part]:
                self._refuse(key)
        module = self.modules[part].format(**fields)
        return module + self.joint + words[PARTS[part].index(parameter)]

    def keys(self, names):
        """`{name: key}` of a file's names; unknown ones are left out."""
        found = {}
        for name in names:
            for part, pattern, parameters in self._patterns():
                match = pattern.fullmatch(name)
                if match:
                    fields = match.groupdict()
                    parameter = parameters[fields.pop("word")]
                    found[name] = (part, fields, parameter)
                    break
        starts = {}
        for part, fields, _ in found.values():
            if "index" in fields:
                i = int(fields["index"] or 0)
                starts[i] = starts.get(i, False) or (
                    part == "block/conv_shortcut"
                )
        stages = _stage_names(starts)
        return {
            name: "/".join([_layer(part, fields, stages), parameter])
            for name, (part, fields, parameter) in found.items()
        }

    def _patterns(self):
        patterns = self.__dict__.get("_cache")
        if patterns is None:
            patterns = []
            for part, module in self.modules.items():
                words = self.words.get(PARTS[part])
                if words is None:
                    continue
                pattern = re.escape(module)
                for field in ("stage", "block", "stem", "stem1"):
                    pattern = pattern.replace(
                        rf"\{{{field}\}}", f"(?P<{field}>{_NUMBER})"
                    )
                pattern = pattern.replace(
                    r"\{index\}", r"(?:_(?P<index>[1-9]\d{0,3}))?"
                )
                options = "|".join(map(re.escape, words))
                pattern += rf"{re.escape(self.joint)}(?P<word>{options})"
                parameters = dict(zip(words, PARTS[part], strict=True))
                patterns.append((part, re.compile(pattern), parameters))
            object.__setattr__(self, "_cache", patterns)
        return patterns

    def is_head(self, name):
        """Whether a file's name belongs to the classifier."""
        return name.startswith(self.modules[HEAD] + self.joint)

    def shape(self, key, shape):
        """Shape in the file of a parameter of the model."""
        shape = tuple(shape)
        form = self._form(key)
        if form == "gain":
            return (*shape, 1, 1, 1)
        if form == "OIHW":  # of HWIO
            return (shape[3], shape[2], shape[0], shape[1])
        if form == "OIW":
            return (shape[2], shape[1], shape[0])
        if form == "OI11":
            return (*shape[::-1], 1, 1)
        return shape[::-1] if form == "OI" else shape

    def model_shape(self, key, shape):
        """The inverse of `shape`, of an entry that may be misshapen."""
        shape = tuple(shape)
        form = self._form(key)
        if form == "gain":
            return shape[:1]
        if form == "OIHW" and len(shape) == 4:
            return (shape[2], shape[3], shape[1], shape[0])
        if form == "OIW":
            return shape[::-1]
        if form in ("OIHW", "OI11", "OI"):
            return shape[1::-1]
        return shape

    def to_file(self, key, array):
        """The array of a parameter as the file has it."""
        form = self._form(key)
        if form == "OIHW":
            array = np.transpose(array, (3, 2, 0, 1))
        elif form is not None and form != "gain":
            array = np.transpose(array)
        shape = array.shape
        if form in ("gain", "OI11"):
            shape += (1,) * (4 - len(shape))
        return np.asarray(array, order="C").reshape(shape)

    def from_file(self, key, array):
        """The inverse of `to_file`."""
        form = self._form(key)
        if form == "gain":
            return array.reshape(-1)
        if form == "OIHW":
            array = np.transpose(array, (2, 3, 1, 0))
        elif form is not None:
            array = np.transpose(array[:, :, 0, 0] if form == "OI11" else array)
        return np.asarray(array, order="C")

    def _form(self, key):
        """The file's form of a parameter; `None` where it is the model's."""
        part, parameter = part_of(key)
        if not self.torch or parameter not in ("kernel", "gain"):
            return None
        if parameter == "gain":
            return "gain"
        if PARTS[part] == DENSE:
            return "OI" if part == HEAD else "OI11"
        return "OIW" if PARTS[part] == ECA else "OIHW"


def _layer(part, fields, stages):
    """The key of a part without its parameter."""
    if part == "stem_conv":
        stem = int(fields.get("stem") or 0)
        if "stem1" in fields:
            stem = int(fields["stem1"]) - 1
        return f"stem_conv{stem}"
    if not part.startswith("block"):
        return part
    if "index" in fields:
        block = stages[int(fields["index"] or 0)]
    else:
        block = f"stage{int(fields['stage']) + 1}_block{fields['block']}"
    return block + part.removeprefix("block")


def _stage_names(starts):
    """Names of consecutive blocks.

    Args:
        starts: `{index: whether the block starts a stage}`, which a block
            does when it has a convolution in its shortcut.

    Returns:
        `{index: "stage1_block0"}`.
    """
    names, stage, block = {}, 0, 0
    for index in sorted(starts):
        if starts[index] or stage == 0:
            stage, block = stage + 1, 0
        names[index] = f"stage{stage}_block{block}"
        block += 1
    return names


def layout_for(keys, layouts):
    """The first of some layouts that names all keys.

    Raises:
        ValueError: If none does.
    """
    for position, layout in enumerate(layouts, start=1):
        try:
            layout.names(keys)
        except ValueError:
            if position == len(layouts):
                raise
        else:
            return layout
    raise LookupError("`layouts` is empty")


def layout_of(names, layouts):
    """The one of some layouts that knows most of a file's names."""
    return max(layouts, key=lambda layout: len(layout.keys(names)))
