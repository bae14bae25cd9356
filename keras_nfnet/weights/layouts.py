"""The layouts that files are read and written in.

To read another publisher's `.safetensors`, add its `Layout` to
`SAFETENSORS`.

Reference: the parameter trees of the authors' published `F*_haiku.npz` and
of timm 1.0.31.
"""

import dataclasses
import re

from keras_nfnet.weights.layout import (
    CONVOLUTION,
    DENSE,
    ECA,
    HEAD,
    SKIP,
    Layout,
    part_of,
)

_BRANCH = ("conv0", "conv1", "conv1b", "conv2", "conv_shortcut")


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
    branch = [part for part in _BRANCH if two_convs or part != "conv1b"]
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
            for part in (*_BRANCH, "eca", "middle_eca")
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
