"""The table of variants, and their names.

Reference: Brock et al., arXiv:2102.06171, table 1 and appendix (the F+
widths), and arXiv:2101.08692 (NF-RegNet, NF-ResNet); timm 1.0.31,
`models/nfnet.py`, for what exists only there.
"""

from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.block_spec import Stem, round_channels

# (dropout, train px, test px, RandAugment magnitude) of F0 … F7; the depths
# of FN are (1, 2, 6, 3) times N + 1.  arXiv:2102.06171, table 1.
_NFNETS = (
    (0.2, 192, 256, 5),
    (0.3, 224, 320, 10),
    (0.4, 256, 352, 10),
    (0.4, 320, 416, 15),
    (0.5, 384, 512, 15),
    (0.5, 416, 544, 15),
    (0.5, 448, 576, 15),
    (0.5, 480, 608, 15),
)
_NFNET_WIDTHS = (256, 512, 1536, 1536)


def _nfnet(n, widths, group_width):
    drop_rate, train_size, test_size, magnitude = _NFNETS[n]
    return NFNetConfig(
        widths=widths,
        depths=tuple(depth * (n + 1) for depth in (1, 2, 6, 3)),
        group_width=group_width,
        drop_rate=drop_rate,
        train_size=train_size,
        test_size=test_size,
        stochastic_depth_rate=0.25,
        rand_augment=(4, magnitude),
    )


# Widths, depths, dropout, train px, test px of NF-RegNet B0 … B5;
# arXiv:2101.08692, appendix.
_REGNETS = (
    ((48, 104, 208, 440), (1, 3, 6, 6), 0.2, 192, 224),
    ((48, 104, 208, 440), (2, 4, 7, 7), 0.2, 224, 256),
    ((56, 112, 232, 488), (2, 4, 8, 8), 0.3, 240, 272),
    ((56, 128, 248, 528), (2, 5, 9, 9), 0.3, 288, 320),
    ((64, 144, 288, 616), (2, 6, 11, 11), 0.4, 320, 384),
    ((80, 168, 336, 704), (3, 7, 14, 14), 0.4, 384, 456),
)
_REGNET = {
    "group_width": 8,
    "bottleneck_ratio": 2.25,
    "bottleneck_of": "in",
    "use_two_convs": False,
    "attention_position": "middle",
    "stem": Stem((1.0,), (2,)),
    "first_stride": 2,
    "activation": "silu",
    "final_conv_mult": 1280 / 440,
    "head_initializer": "zeros",
}
_RESNET_DEPTHS = {
    "26": (2, 2, 2, 2),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
_RESNET = {
    "widths": (256, 512, 1024, 2048),
    "group_width": None,
    "bottleneck_ratio": 0.25,
    "use_two_convs": False,
    "stem": Stem((64,), (2,), kernel_size=7, max_pool=True),
    "activation": "relu",
    "final_conv_mult": None,
}
# timm's arithmetic, where it differs from DeepMind's.
TIMM = {
    "gain_in": "kernel",
    "eps": 1e-5,
    "eps_mode": "add",
    "padding": "symmetric",
    "skip": "gain",
    "channel_multiple": 8,
    "rescale_stochastic_depth": True,
    "head_initializer": "normal",
}
# Ratio of bottleneck, depths times, width of the last convolution,
# attention, train px, test px.
_LIGHT = {
    "nfnet_l0": (1, 1.5, {"attention": "se", "se_ratio": 0.25}, 224, 288),
    "eca_nfnet_l0": (1, 1.5, {"attention": "eca"}, 224, 288),
    "eca_nfnet_l1": (2, 2.0, {"attention": "eca"}, 256, 320),
    "eca_nfnet_l2": (3, 2.0, {"attention": "eca"}, 320, 384),
    "eca_nfnet_l3": (4, 2.0, {"attention": "eca"}, 352, 448),
}
_TIMM_RESNETS = {
    "nf_resnet": {"attention": None},
    "nf_seresnet": {"attention": "se", "se_ratio": 1 / 16},
    "nf_ecaresnet": {"attention": "eca"},
}


def _regnet(n, **settings):
    widths, depths, drop_rate, train_size, test_size = _REGNETS[n]
    row = {
        # Every width is int(w · 0.75), their default.
        "widths": tuple(int(w * 0.75) for w in widths),
        "depths": depths,
        "drop_rate": drop_rate,
        "train_size": train_size,
        "test_size": test_size,
        **_REGNET,
    }
    return NFNetConfig(**row | settings)


def _timm_regnet(n):
    widths = _REGNETS[n][0]
    # Two that timm's settings have otherwise.
    sizes = {0: (192, 256), 1: (256, 288)}.get(n, _REGNETS[n][3:])
    return _regnet(
        n,
        widths=tuple(round_channels(w * 0.75, 8) for w in widths),
        final_filters=round_channels(1280 * widths[-1] // 440 * 0.75, 8),
        train_size=sizes[0],
        test_size=sizes[1],
        crop_fraction=0.9,
        **TIMM,
    )


def _light(times, mult, attention, train_size, test_size):
    return NFNetConfig(
        widths=_NFNET_WIDTHS,
        depths=tuple(depth * times for depth in (1, 2, 6, 3)),
        group_width=64,
        bottleneck_ratio=0.25,
        activation="silu",
        final_conv_mult=mult,
        drop_rate=0.2,
        train_size=train_size,
        test_size=test_size,
        crop_fraction=1.0,
        **attention,
        **TIMM,
    )


def _timm_resnet(size, attention):
    published = attention["attention"] is None and size == "50"
    return NFNetConfig(
        depths=_RESNET_DEPTHS[size],
        train_size=256 if published else 224,
        test_size=288 if published else 224,
        crop_fraction=0.94 if published else 0.9,
        **attention,
        **_RESNET,
        **TIMM,
    )


# NOTE: the paper's F4+ (527M parameters) has a stage-1 bottleneck of 192
# channels in one group; the authors' released code rounds 192 down to 128.
# We build the paper's; `group_width=128` gives the released code's.
VARIANTS: dict[str, NFNetConfig] = {
    **{f"F{n}": _nfnet(n, _NFNET_WIDTHS, 128) for n in range(8)},
    **{
        f"F{n}+": _nfnet(n, (384, 768, 2048, 2048), (192, 128, 128, 128))
        for n in range(8)
    },
    **{f"RegNet-B{n}": _regnet(n, stochastic_depth_rate=0.1) for n in range(6)},
    **{
        f"ResNet-{size}": NFNetConfig(
            depths=_RESNET_DEPTHS[size],
            attention=None,
            se_ratio=0.25,
            shortcut="strided",
            stochastic_depth_rate=0.1,
            train_size=224,
            test_size=224,
            **_RESNET,
        )
        for size in ("50", "101", "152")
    },
    **{name: _light(*row) for name, row in _LIGHT.items()},
    **{f"nf_regnet_b{n}": _timm_regnet(n) for n in range(6)},
    **{
        f"{name}{size}": _timm_resnet(size, attention)
        for name, attention in _TIMM_RESNETS.items()
        for size in ("26", "50", "101")
    },
}
# Top-1 accuracy on ImageNet in %: F0 … F6 of arXiv:2102.06171, table 3; the
# others of timm's results table, at their test size.
PUBLISHED_TOP1 = {
    "F0": 83.6,
    "F1": 84.7,
    "F2": 85.1,
    "F3": 85.7,
    "F4": 85.9,
    "F5": 86.0,
    "F6": 86.5,
    "nfnet_l0": 82.75,
    "eca_nfnet_l0": 82.58,
    "eca_nfnet_l1": 84.01,
    "eca_nfnet_l2": 84.70,
    "nf_regnet_b1": 79.31,
    "nf_resnet50": 80.64,
}


def default_name(variant):
    """Model name of a variant: `"F4+"` → `"nfnet_f4_plus"`.

    Where both exist, timm's networks have the prefix `timm_`.
    """
    name = variant.lower().replace("+", "_plus").replace("-", "")
    if name.startswith("regnet"):
        return f"nf_{name.replace('b', '_b')}"
    if name.startswith("resnet"):
        return f"nf_{name}"
    if "nf" not in name:
        return f"nfnet_{name}"
    return f"timm_{name}" if name.startswith("nf_") else name


def variant_named(name):
    """The name in `VARIANTS` that is `name` but for its case, or `None`."""
    if not isinstance(name, str):
        return None
    names = {variant.lower(): variant for variant in VARIANTS}
    return names.get(name.lower())
