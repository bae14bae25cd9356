"""The parameters of a network under one set of names.

Every file format is translated to and from these keys, which are also the
keys of the package's own `.safetensors`:
`stem_conv0/kernel`, `stage2_block0/conv1/gain`, `stage2_block0/skip_gain`,
`stage2_block0/se_reduce/bias`, `final_conv/kernel`, `predictions/kernel`.
"""

import re

from keras_nfnet.variants import VARIANTS, NFNetConfig

BLOCK = re.compile(r"stage([1-9]\d{0,3})_block(0|[1-9]\d{0,3})")
HEAD = "predictions"
CONVOLUTIONS = ("conv0", "conv1", "conv1b", "conv2", "conv_shortcut")
_OUTER = re.compile(r"stem_conv[0-3]|final_conv")


def is_head(key):
    """Whether a key belongs to the classifier."""
    return key.startswith(f"{HEAD}/")


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
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _layer_parameters(layer):
    """`{key: variable}` of a layer of the network, or `None`."""
    name = layer.name
    if _OUTER.fullmatch(name) and hasattr(layer, "gain"):
        return _named(name, layer, ("kernel", "gain", "bias"))
    if name == HEAD and hasattr(layer, "kernel"):
        return _named(name, layer, ("kernel", "bias"))
    if BLOCK.fullmatch(name) and hasattr(layer, "skip_init"):
        found = {f"{name}/skip_gain": layer.skip_init.skip_gain}
        for part in CONVOLUTIONS:
            convolution = getattr(layer, part)
            if convolution is not None:
                if not hasattr(convolution, "gain"):
                    return None
                found.update(
                    _named(
                        f"{name}/{part}",
                        convolution,
                        ("kernel", "gain", "bias"),
                    )
                )
        for part in ("reduce", "expand"):
            dense = getattr(layer.squeeze_excite, part)
            found.update(_named(f"{name}/se_{part}", dense, ("kernel", "bias")))
        return found
    return None


def _named(prefix, layer, names):
    return {f"{prefix}/{name}": getattr(layer, name) for name in names}


def block_order(keys):
    """The blocks of some keys, first to last: `["stage1_block0", ...]`."""
    blocks = {key.split("/")[0] for key in keys if BLOCK.match(key)}
    return sorted(
        blocks, key=lambda name: tuple(map(int, BLOCK.match(name).groups()))
    )


def stage_names(starts):
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


def expected_shapes(config, classes=None, channels=3):
    """`{key: shape}` of a network, by arithmetic alone.

    Args:
        config: An `NFNetConfig`.
        classes: Classes of the head, or `None` for no head.
        channels: Channels of the images.
    """
    shapes = {}

    def convolution(key, side, fan_in, filters):
        shapes[f"{key}/kernel"] = (side, side, fan_in, filters)
        shapes[f"{key}/gain"] = shapes[f"{key}/bias"] = (filters,)

    def dense(key, fan_in, units):
        shapes[f"{key}/kernel"] = (fan_in, units)
        shapes[f"{key}/bias"] = (units,)

    width = channels
    stem = (16, 32, 64, max(1, config.widths[0] // 2))
    for index, filters in enumerate(stem):
        convolution(f"stem_conv{index}", 3, width, filters)
        width = filters
    for stage, (filters, depth, stride, group_width) in enumerate(
        zip(
            config.widths,
            config.depths,
            config.strides,
            config.group_widths,
            strict=True,
        ),
        start=1,
    ):
        inner = max(1, int(filters * config.bottleneck_ratio))
        groups = max(1, inner // group_width)
        if inner >= group_width:
            inner = groups * group_width
        hidden = int(filters * config.se_ratio)
        for block in range(depth):
            name = f"stage{stage}_block{block}"
            if (block == 0 and stride > 1) or width != filters:
                convolution(f"{name}/conv_shortcut", 1, width, filters)
            convolution(f"{name}/conv0", 1, width, inner)
            convolution(f"{name}/conv1", 3, inner // groups, inner)
            if config.use_two_convs:
                convolution(f"{name}/conv1b", 3, inner // groups, inner)
            convolution(f"{name}/conv2", 1, inner, filters)
            dense(f"{name}/se_reduce", filters, hidden)
            dense(f"{name}/se_expand", hidden, filters)
            shapes[f"{name}/skip_gain"] = ()
            width = filters
    final = int(config.final_conv_mult * config.widths[-1])
    convolution("final_conv", 1, width, final)
    if classes is not None:
        dense(HEAD, final, classes)
    return shapes


def infer(shapes):
    """The configuration that a file's shapes belong to.

    Args:
        shapes: `{key: shape}`, from a file that may be damaged.

    Returns:
        `(config, classes, channels)`, whose `expected_shapes` are the
        nearest to `shapes`; the caller compares them. `classes` is `None`
        for a file without a head.

    Raises:
        ValueError: If the shapes belong to no NFNet.
    """
    try:
        return _infer(shapes)
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise ValueError(
            "the entries do not make up an NFNet: it needs a stem, blocks "
            f"in every stage and a last convolution ({error!r})"
        ) from error


def _infer(shapes):
    depths = {}
    for block in block_order(shapes):
        stage = int(BLOCK.match(block)[1])
        depths[stage] = depths.get(stage, 0) + 1
    first = [f"stage{stage}_block0" for stage in sorted(depths)]
    widths = [shapes[f"{name}/conv2/kernel"][3] for name in first]
    inner = [shapes[f"{name}/conv1/kernel"][3] for name in first]
    hidden = shapes[f"{first[0]}/se_reduce/kernel"][1]
    head = shapes.get(f"{HEAD}/kernel")
    classes = head and head[1]
    channels = shapes["stem_conv0/kernel"][2]
    # Bottlenecks are rounded down to whole groups, which hides the ratio:
    # the usual one is tried first.
    ratios = [0.5] + [
        _ratio(part, whole) for part, whole in zip(inner, widths, strict=True)
    ]
    for ratio in ratios:
        config = NFNetConfig(
            widths=tuple(widths),
            depths=tuple(depths[stage] for stage in sorted(depths)),
            group_width=tuple(
                shapes[f"{name}/conv1/kernel"][2] for name in first
            ),
            use_two_convs=f"{first[0]}/conv1b/kernel" in shapes,
            bottleneck_ratio=ratio,
            se_ratio=_ratio(hidden, widths[0]),
            final_conv_mult=_ratio(shapes["final_conv/kernel"][3], widths[-1]),
        )
        if expected_shapes(config, classes, channels) == shapes:
            return config, classes, channels
    return config, classes, channels


def _ratio(part, whole):
    """A ratio with `int(whole * ratio) == part`."""
    exact = part / whole
    return exact if int(whole * exact) == part else (part + 0.5) / whole


def variant_of(shapes):
    """The variant's name (`"F0"`, `"F4+"`) that has these shapes, or `None`.

    The head is not compared.
    """
    body = {key: shape for key, shape in shapes.items() if not is_head(key)}
    blocks = len(block_order(body))
    for name, config in VARIANTS.items():
        if sum(config.depths) == blocks and expected_shapes(config) == body:
            return name
    return None
