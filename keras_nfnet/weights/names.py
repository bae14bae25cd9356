"""How files name and shape the parameters: one table per publisher.

To read another publisher's `.safetensors`, add its `Layout` to
`SAFETENSORS`.

Reference: the parameter trees of the authors' published `F*_haiku.npz` and
of timm 1.0.31.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from keras_nfnet.weights.structure import (
    BLOCK,
    BRANCH,
    CONVOLUTION,
    DENSE,
    ECA,
    HEAD,
    PARTS,
    SKIP,
    STEM,
    block_order,
    part_of,
)

_NUMBER = r"(?:0|[1-9]\d{0,3})"


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
            stem = int(STEM.fullmatch(layer)[1])
            fields = {"stem": stem, "stem1": stem + 1}
            if stem and "{" not in self.modules[part]:
                self._refuse(key)
        module = self.modules[part].format(**fields)
        return module + self.joint + words[PARTS[part].index(parameter)]

    def keys(self, names):
        """`{name: key}` of a file's names; unknown ones are left out."""
        found = {}
        for name in names:
            for part, pattern, parameters in self._patterns:
                if match := pattern.fullmatch(name):
                    fields = match.groupdict()
                    found[name] = (part, fields, parameters[fields["word"]])
                    break
        blocks = {
            (int(fields["index"] or 0), part)
            for part, fields, _ in found.values()
            if "index" in fields
        }
        stages = _stage_names(blocks)
        return {
            name: f"{_layer(part, fields, stages)}/{parameter}"
            for name, (part, fields, parameter) in found.items()
        }

    @functools.cached_property
    def _patterns(self):
        """`[(part, pattern of its names, {word: parameter}), ...]`."""
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
        return patterns

    def is_head(self, name):
        """Whether a file's name belongs to the classifier."""
        return name.startswith(self.modules[HEAD] + self.joint)

    def shape(self, key, shape):
        """Shape in the file of a parameter of the model."""
        axes, ones = self._form(key)
        if axes is None:
            return tuple(shape)
        return (*(shape[axis] for axis in axes), *ones)

    def model_shape(self, key, shape):
        """The inverse of `shape`, of an entry that may be misshapen."""
        axes, _ = self._form(key)
        if axes is None or len(shape) < len(axes):
            return tuple(shape)
        return tuple(shape[i] for i in np.argsort(axes))

    def to_file(self, key, array):
        """The array of a parameter as the file has it."""
        axes, ones = self._form(key)
        if axes is not None:
            array = np.transpose(array, axes)
        array = np.asarray(array, order="C")
        return array.reshape(array.shape + ones)

    def from_file(self, key, array):
        """The inverse of `to_file`."""
        axes, _ = self._form(key)
        if axes is not None:
            array = array.reshape(array.shape[: len(axes)])
            array = np.transpose(array, np.argsort(axes))
        return np.asarray(array, order="C")

    def _form(self, key):
        """The order of the model's axes in the file, and what follows them.

        The order is `None` where the array is as in the model.
        """
        part, parameter = part_of(key)
        if not self.torch or parameter not in ("kernel", "gain"):
            return None, ()
        if parameter == "gain":
            return (0,), (1, 1, 1)
        if PARTS[part] == DENSE:  # A 1×1 convolution, but for the head.
            return (1, 0), () if part == HEAD else (1, 1)
        return (2, 1, 0) if PARTS[part] == ECA else (3, 2, 0, 1), ()


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


def _stage_names(blocks):
    """`{index: "stage1_block0"}` of consecutive blocks.

    Args:
        blocks: Pairs of a block's index and a part that it has. A block
            starts a stage if it has a convolution in its shortcut.
    """
    names, stage, block = {}, 0, 0
    for index in sorted({index for index, _ in blocks}):
        if (index, "block/conv_shortcut") in blocks or stage == 0:
            stage, block = stage + 1, 0
        names[index] = f"stage{stage}_block{block}"
        block += 1
    return names


def layout_for(keys, layouts):
    """The first of some layouts that names all keys.

    Raises:
        ValueError: If none does.
    """
    for layout in layouts:
        try:
            layout.names(keys)
        except ValueError as error:
            refused = error
        else:
            return layout
    raise refused


class _Own(Layout):
    """The package's own names: the keys as they are."""

    def names(self, keys):
        return {key: key for key in keys}

    def keys(self, names):
        return {name: name for name in names if part_of(name)[0]}


OWN = _Own("keras_nfnet's", {HEAD: HEAD}, {})

_TIMM_BLOCK = "stages.{stage}.{block}"
TIMM_DEEP = Layout(
    "timm's",
    {
        "stem_conv": "stem.conv{stem1}",
        "final_conv": "final_conv",
        HEAD: "head.fc",
        "block": _TIMM_BLOCK,
        **{
            f"block/{part}": f"{_TIMM_BLOCK}.{module}"
            for part, module in {
                "conv0": "conv1",
                "conv1": "conv2",
                "conv1b": "conv2b",
                "conv2": "conv3",
                "conv_shortcut": "downsample.conv",
                "se_reduce": "attn_last.fc1",
                "se_expand": "attn_last.fc2",
                "middle_se_reduce": "attn.fc1",
                "middle_se_expand": "attn.fc2",
                "eca": "attn_last.conv",
                "middle_eca": "attn.conv",
            }.items()
        },
    },
    {
        CONVOLUTION: ("weight", "gain", "bias"),
        DENSE: ("weight", "bias"),
        ECA: ("weight",),
        SKIP: ("skipinit_gain",),
    },
    joint=".",
    torch=True,
)
# NOTE: under `dm_nfnet_f*` the values mean DeepMind's function here. timm's
# own arithmetic deviates from it by up to 1.3% on the logits (it adds the
# variance epsilon and uses the exact GELU).
TIMM = (
    dataclasses.replace(
        TIMM_DEEP, modules={**TIMM_DEEP.modules, "stem_conv": "stem.conv"}
    ),
    TIMM_DEEP,
)


def _haiku(root, stem, block, attention, final_conv=True, two_convs=False):
    block = f"{root}/~/{block}{{index}}"
    branch = [part for part in BRANCH if two_convs or part != "conv1b"]
    modules = {
        "stem_conv": f"{root}/~/{stem}",
        HEAD: f"{root}/~/linear",
        "block": block,
        **{f"block/{part}": f"{block}/~/{part}" for part in branch},
        f"block/{attention}_reduce": f"{block}/~/squeeze_excite/~/linear",
        f"block/{attention}_expand": f"{block}/~/squeeze_excite/~/linear_1",
    }
    if final_conv:
        modules["final_conv"] = f"{root}/~/final_conv"
    return Layout(
        "DeepMind's (haiku)",
        modules,
        {
            CONVOLUTION: ("w", "gain", "bias"),
            DENSE: ("w", "b"),
            SKIP: ("skip_gain",),
        },
        joint=":",
        skip_gain=True,
    )


# Names are `module:parameter`. The first that has all parts is a network's.
HAIKU = (
    _haiku("NF_ResNet", "initial_conv", "nf_res_block", "se", final_conv=False),
    _haiku("NF_RegNet", "initial_conv", "nf_block", "middle_se"),
    _haiku("NFNet", "stem_conv{stem}", "nf_block", "se", two_convs=True),
)


class _KerasH5(Layout):
    """Where `model.save_weights` puts each parameter in a `.weights.h5`.

    Keras names a layer's group after its class and counts, in the order of
    the model's layers, and numbers a layer's variables. So the last
    convolution counts on from the stem's.
    """

    _outer = re.compile(r"layers/scaled_ws_conv2d(?:_([1-9]\d?))?/vars/\d")

    def names(self, keys):
        stem = {key.split("/")[0] for key in keys if key.startswith("stem_")}
        keys = {
            key: key.replace("final_conv", f"stem_conv{len(stem)}")
            for key in keys
        }
        names = super().names(keys.values())
        return {
            key: names[counted].replace("conv2d_0/", "conv2d/")
            for key, counted in keys.items()
        }

    def keys(self, names):
        outer = [match for match in map(self._outer.fullmatch, names) if match]
        last = max((int(match[1] or 0) for match in outer), default=0)
        counted = {name.replace("conv2d/", "conv2d_0/"): name for name in names}
        final = f"stem_conv{last}/" if last else None
        return {
            counted[name]: (
                key.replace(final, "final_conv/")
                if final and key.startswith(final)
                else key
            )
            for name, key in super().keys(counted).items()
        }

    def is_head(self, name):
        return not name.startswith(
            ("layers/scaled_ws_conv2d", "layers/nf_block")
        )


_H5_BLOCK = "layers/nf_block{index}"
KERAS_H5 = _KerasH5(
    "Keras's (.weights.h5)",
    {
        "stem_conv": "layers/scaled_ws_conv2d_{stem}",
        HEAD: "layers/dense",
        "block": f"{_H5_BLOCK}/skip_init",
        **{
            f"block/{part}": f"{_H5_BLOCK}/{part}"
            for part in (*BRANCH, "eca", "middle_eca")
        },
        **{
            f"block/{middle}se_{part}": (
                f"{_H5_BLOCK}/{middle}squeeze_excite/{part}"
            )
            for middle in ("", "middle_")
            for part in ("reduce", "expand")
        },
    },
    {
        kind: tuple(map(str, range(len(kind))))
        for kind in (CONVOLUTION, DENSE, ECA, SKIP)
    },
    joint="/vars/",
)

# What a `.safetensors` may be named by.
SAFETENSORS = [OWN, *TIMM]
