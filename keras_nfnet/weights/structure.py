"""The parameters of a model by key, and the network that keys belong to.

Inside the package every parameter has one key, which is also its name in
the package's own `.safetensors`: `stem_conv0/kernel`,
`stage2_block0/conv1/gain`, `stage2_block0/skip_gain`,
`stage2_block0/se_reduce/bias`, `final_conv/kernel`, `predictions/kernel`.
"""

import dataclasses
import functools
import operator
import re
import types

from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.block_spec import Stem
from keras_nfnet.variants import VARIANTS

HEAD = "predictions"
FIRST_KERNEL = "stem_conv0/kernel"
BLOCK = re.compile(r"stage([1-9]\d{0,3})_block(0|[1-9]\d{0,3})")
STEM = re.compile(r"stem_conv(0|[1-9]\d?)")

# What a part of a network has.
CONVOLUTION = ("kernel", "gain", "bias")
DENSE = ("kernel", "bias")
ECA = ("kernel",)
SKIP = ("skip_gain",)
BRANCH = ("conv0", "conv1", "conv1b", "conv2", "conv_shortcut")
# Part of a block → the layer there, and what it has. `block` stands for
# `stage1_block0` and so on.
_IN_BLOCK = {
    **{f"block/{name}": (name, CONVOLUTION) for name in BRANCH},
    "block": ("skip_init", SKIP),
    "block/se_reduce": ("squeeze_excite.reduce", DENSE),
    "block/se_expand": ("squeeze_excite.expand", DENSE),
    "block/middle_se_reduce": ("middle_squeeze_excite.reduce", DENSE),
    "block/middle_se_expand": ("middle_squeeze_excite.expand", DENSE),
    "block/eca": ("eca", ECA),
    "block/middle_eca": ("middle_eca", ECA),
}
# Part of a network → what it has.
PARTS = {
    "stem_conv": CONVOLUTION,
    "final_conv": CONVOLUTION,
    HEAD: DENSE,
    **{part: kind for part, (_, kind) in _IN_BLOCK.items()},
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
    elif STEM.fullmatch(layer) and not inner:
        part = "stem_conv"
    else:
        part = "/".join([layer, *inner])
    if parameter not in PARTS.get(part, ()):
        return None, None
    return part, parameter


def parameters(model):
    """The variables of an NFNet by key.

    Args:
        model: An NFNet, or a Keras model built on one.

    Returns:
        A pair: `{key: variable}`, and the names of the other layers that
        have weights (such as a new head).

    Raises:
        ValueError: If the model holds no NFNet, or more than one.
    """
    if not hasattr(model, "layers"):
        raise ValueError(
            "`model` must be a Keras model made by `keras_nfnet`. "
            f"Received: model={model!r}"
        )
    found, others = {}, []
    for layer in _leaves(model):
        own = _layer_parameters(layer)
        if own is None:
            if layer.weights:
                others.append(layer.name)
            continue
        if found.keys() & own.keys():
            raise ValueError(
                "`model` must hold one NFNet. Received: a model with two "
                f"layers named {layer.name!r}"
            )
        found.update(own)
    if not any(BLOCK.match(key) for key in found):
        raise ValueError(
            "`model` must be an NFNet made by `keras_nfnet`, unfolded, or a "
            "model built on one. Received: a model without its blocks, "
            f"name={getattr(model, 'name', None)!r}"
        )
    return found, others


def whole_network(model):
    """As `parameters`, of a model that is an NFNet and nothing more."""
    found, others = parameters(model)
    if others:
        raise ValueError(
            "`model` must be an NFNet made by `keras_nfnet`, without other "
            "layers that have weights. Received: the layers "
            f"{', '.join(map(repr, others[:5]))}"
        )
    return found


def shapes_of(variables):
    """`{key: shape}` of what `parameters` returns."""
    return {key: tuple(value.shape) for key, value in variables.items()}


def _leaves(model):
    for layer in model.layers:
        # A folded block is a model too, and no NFNet's.
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _layer_parameters(layer):
    """`{key: variable}` of a layer of the network, or `None`."""
    name = layer.name
    if BLOCK.fullmatch(name):
        if not hasattr(layer, "conv0"):
            return None
        parts = [
            (part.replace("block", name, 1), _inner(layer, path), kind)
            for part, (path, kind) in _IN_BLOCK.items()
        ]
    else:
        part = "stem_conv" if STEM.fullmatch(name) else name
        parts = [(name, layer, PARTS.get(part))]
    found = {}
    for key, part, kind in parts:
        if part is None:
            continue
        if kind is None or not all(hasattr(part, word) for word in kind):
            return None
        found.update({f"{key}/{word}": getattr(part, word) for word in kind})
    known = {id(variable) for variable in found.values()}
    unknown = [v.path for v in layer.weights if id(v) not in known]
    if unknown:
        raise ValueError(
            f"`model` has weights in its layer {name!r} that have no name in "
            f"a file. Received: {', '.join(unknown[:5])}"
        )
    return found


def _inner(block, path):
    """A layer inside a block, or `None` where this form has none."""
    try:
        return operator.attrgetter(path)(block)
    except AttributeError:
        return None


@functools.lru_cache(maxsize=16)
def expected_shapes(config, classes=None, channels=3):
    """`{key: shape}` of a network, from a model without values.

    Args:
        config: An `NFNetConfig`.
        classes: Classes of the head, or `None` for no head.
        channels: Channels of the images.
    """
    from keras_nfnet.models.nfnet import NFNet, without_values

    model = without_values(
        lambda: NFNet(
            config,
            include_top=classes is not None,
            weights=None,
            input_shape=(None, None, channels),
            classes=classes or 1,
        )
    )
    return types.MappingProxyType(shapes_of(parameters(model)[0]))


def infer(shapes):
    """The configuration that a file's shapes belong to.

    Args:
        shapes: `{key: shape}`, from a file that may be damaged.

    Returns:
        `(config, classes, channels)`, whose `expected_shapes` are the
        nearest to `shapes`; the caller compares them. `classes` is `None`
        for a file without a head.

    Raises:
        ValueError: If the shapes belong to no network of the package.
    """
    try:
        return _infer(shapes)
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise ValueError(
            "the entries do not make up an NFNet: it needs a stem and blocks "
            f"in every stage ({error!r})"
        ) from error


def _infer(shapes):
    depths = {}
    for block in block_order(shapes):
        stage = int(BLOCK.match(block)[1])
        depths[stage] = depths.get(stage, 0) + 1
    head = shapes.get(f"{HEAD}/kernel")
    classes = head and head[1]
    channels = shapes[FIRST_KERNEL][2]
    if sum(depths.values()) > _MOST_BLOCKS or not 0 < channels <= _MOST:
        raise ValueError("more blocks or channels than any network")
    depths = tuple(depths[stage] for stage in sorted(depths))
    config = _by_widths(shapes, depths)
    name = variant_of(shapes)
    if name and expected_shapes(VARIANTS[name], classes, channels) == shapes:
        return VARIANTS[name], classes, channels
    for multiple in (1, 8):
        config = dataclasses.replace(config, channel_multiple=multiple)
        if expected_shapes(config, classes, channels) == shapes:
            break
    return config, classes, channels


@dataclasses.dataclass(frozen=True)
class _Observed(NFNetConfig):
    """A network whose bottlenecks are given.

    They are rounded to whole groups, which hides the ratio they come from.

    Args:
        bottlenecks: `(channels, groups)` of each block.
    """

    bottlenecks: tuple = dataclasses.field(default=(), kw_only=True)

    def blocks(self, output_stride=32):
        return [
            dataclasses.replace(spec, bottleneck=channels, groups=groups)
            for spec, (channels, groups) in zip(
                super().blocks(output_stride), self.bottlenecks, strict=True
            )
        ]


# A file's numbers decide how large a model is built to compare it with.
_MOST_BLOCKS = 200
_MOST = 2**20


def _by_widths(shapes, depths):
    """The configuration but for how hidden channels are rounded."""
    first = [f"stage{stage}_block0" for stage in range(1, len(depths) + 1)]
    kernels = [shapes[f"{b}/conv1/kernel"] for b in block_order(shapes)]
    widths = [shapes[f"{name}/conv2/kernel"][3] for name in first]
    stems = sum(part_of(key) == ("stem_conv", "kernel") for key in shapes)
    stem = [shapes[f"stem_conv{index}/kernel"] for index in range(stems)]
    attention, position, se_ratio = None, "last", 0.5
    for prefix, where in (("", "last"), ("middle_", "middle")):
        reduce = shapes.get(f"{first[0]}/{prefix}se_reduce/kernel")
        if reduce is not None:
            attention, position = "se", where
            se_ratio = _ratio(reduce[1], reduce[0])
        if f"{first[0]}/{prefix}eca/kernel" in shapes:
            attention, position = "eca", where
    final = shapes.get("final_conv/kernel")
    has_shortcut = f"{first[0]}/conv_shortcut/kernel" in shapes
    has_skip = f"{first[0]}/skip_gain" in shapes
    return _Observed(
        widths=tuple(widths),
        depths=depths,
        bottlenecks=tuple((k[3], k[3] // k[2]) for k in kernels),
        use_two_convs=f"{first[0]}/conv1b/kernel" in shapes,
        attention=attention,
        attention_position=position,
        se_ratio=se_ratio,
        skip="skip_init" if has_skip else "gain",
        # Strides are not in the shapes; that a shortcut has a convolution
        # is.
        first_stride=2 if has_shortcut and stem[-1][3] == widths[0] else 1,
        stem=Stem(
            tuple(kernel[3] for kernel in stem),
            (1,) * len(stem),
            kernel_size=stem[0][0],
        ),
        final_conv_mult=None if final is None else 1.0,
        final_filters=final and final[3],
    )


def _ratio(part, whole):
    """A ratio with `int(whole * ratio) == part`."""
    exact = part / whole
    return exact if int(whole * exact) == part else (part + 0.5) / whole


def variant_of(shapes):
    """The variant's name (`"F0"`, `"F4+"`) that has these shapes, or `None`.

    The head and the channels of the images are not compared.
    """
    body = {
        key: shape
        for key, shape in shapes.items()
        if not is_head(key) and key != FIRST_KERNEL
    }
    outputs = [body.get(f"{block}/conv2/bias") for block in block_order(body)]
    for name, config in VARIANTS.items():
        stages = zip(config.widths, config.depths, strict=True)
        if outputs != [
            (width,) for width, depth in stages for _ in range(depth)
        ]:
            continue
        expected = dict(expected_shapes(config))
        del expected[FIRST_KERNEL]
        if expected == body:
            return name
    return None
