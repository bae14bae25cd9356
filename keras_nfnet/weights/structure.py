"""The parameters of a model by key, and the network that keys belong to."""

import dataclasses
import functools
import operator

from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.block_spec import Stem
from keras_nfnet.variants import VARIANTS
from keras_nfnet.weights.layout import (
    BLOCK,
    CONVOLUTION,
    HEAD,
    PARTS,
    block_order,
    is_head,
    part_of,
)

# Part of a block → the layer that has its parameters.
_LAYERS = {
    **{
        part: part.removeprefix("block/")
        for part, parameters in PARTS.items()
        if part.startswith("block/") and parameters == CONVOLUTION
    },
    "block": "skip_init",
    "block/se_reduce": "squeeze_excite.reduce",
    "block/se_expand": "squeeze_excite.expand",
    "block/middle_se_reduce": "middle_squeeze_excite.reduce",
    "block/middle_se_expand": "middle_squeeze_excite.expand",
    "block/eca": "eca",
    "block/middle_eca": "middle_eca",
}


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
        layers = {
            part.replace("block", name, 1): _part(layer, path)
            for part, path in _LAYERS.items()
        }
    else:
        layers = {name: layer}
    found = {}
    for key, part in layers.items():
        if part is None:
            continue
        kind = PARTS.get(part_of(f"{key}/kernel")[0])
        kind = kind or PARTS.get(part_of(f"{key}/skip_gain")[0])
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


def _part(block, path):
    """A layer inside a block, or `None` where this form has none."""
    try:
        return operator.attrgetter(path)(block)
    except AttributeError:
        return None


@functools.lru_cache(maxsize=16)
def _expected(config, classes, channels):
    from keras_nfnet.models.nfnet import NFNet
    from keras_nfnet.models.without_values import without_values

    model = without_values(
        lambda: NFNet(
            config,
            include_top=classes is not None,
            weights=None,
            input_shape=(None, None, channels),
            classes=classes or 1,
        )
    )
    return shapes_of(parameters(model)[0])


def expected_shapes(config, classes=None, channels=3):
    """`{key: shape}` of a network, from a model without values.

    Args:
        config: An `NFNetConfig`.
        classes: Classes of the head, or `None` for no head.
        channels: Channels of the images.
    """
    return dict(_expected(config, classes, channels))


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
    channels = shapes["stem_conv0/kernel"][2]
    if sum(depths.values()) > _MOST_BLOCKS or not 0 < channels <= _MOST:
        raise ValueError("more blocks or channels than any network")
    depths = tuple(depths[stage] for stage in sorted(depths))
    config = _by_widths(shapes, depths)
    for variant in VARIANTS.values():
        if (variant.widths, variant.depths) == (config.widths, depths) and (
            expected_shapes(variant, classes, channels) == shapes
        ):
            return variant, classes, channels
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
    stem = [
        shapes[f"stem_conv{index}/kernel"]
        for index in range(_stem_length(shapes))
    ]
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


def _stem_length(shapes):
    return sum(part_of(key) == ("stem_conv", "kernel") for key in shapes)


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
        if not is_head(key) and key != "stem_conv0/kernel"
    }
    blocks = len(block_order(body))
    widths = {
        shape for key, shape in body.items() if key.endswith("/conv2/bias")
    }
    for name, config in VARIANTS.items():
        if (
            sum(config.depths) != blocks
            or {(width,) for width in config.widths} != widths
        ):
            continue
        expected = expected_shapes(config)
        del expected["stem_conv0/kernel"]
        if expected == body:
            return name
    return None
