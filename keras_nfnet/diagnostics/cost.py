"""Parameters and multiply-accumulates, computed from the model."""

import functools
import math
from typing import Any

import keras

from keras_nfnet.export.folded_layers import PlainConvolution
from keras_nfnet.layers import EfficientChannelAttention, SqueezeExcite
from keras_nfnet.models.graphs import (
    first_argument,
    functional_graph,
    is_graph,
    run_graph,
)
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.models.nfnet import NFNet, without_values
from keras_nfnet.utils.arguments import integer
from keras_nfnet.variants import PUBLISHED_TOP1, VARIANTS
from keras_nfnet.weights.published import REPOSITORIES

_TRANSPOSED = tuple(
    getattr(keras.layers, f"Conv{rank}DTranspose") for rank in (1, 2, 3)
)
# Layers that use each of their kernels once per position.
_KERNELS = (
    *(getattr(keras.layers, f"Conv{rank}D") for rank in (1, 2, 3)),
    *(getattr(keras.layers, f"DepthwiseConv{rank}D") for rank in (1, 2)),
    *(getattr(keras.layers, f"SeparableConv{rank}D") for rank in (1, 2)),
    *(*_TRANSPOSED, keras.layers.Dense, PlainConvolution),
)


def count_macs(model: keras.Model, height: int, width: int) -> int:
    """Multiply-accumulates of one image: all convolutions and matrices.

    Args:
        model: A functional or sequential Keras model with one input of
            images, folded or not; other models in it are counted too.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        An integer. Activations, pooling, normalization and standardization
        are not counted, as in the paper.

    Raises:
        ValueError: If the model is of another kind or has a layer with
            kernels whose work is not known.

    Example:

    >>> model = keras_nfnet.NFNetF0(weights=None)
    >>> macs = keras_nfnet.diagnostics.count_macs(model, 256, 256)
    >>> round(macs / 1e9, 2)
    12.38

    Reference: arXiv:2102.06171, table 3, which calls them FLOPs.
    """
    height, width = integer("height", height), integer("width", width)
    graph = functional_graph(model)
    (image,) = graph.inputs
    shape = (1, height, width, image.shape[-1])
    total = 0

    def apply(operation, *args, **kwargs):
        nonlocal total
        x = first_argument(args, kwargs)
        if isinstance(operation, NFBlock):
            return operation.walk(apply, x)
        if isinstance(operation, keras.Model) and is_graph(operation):
            return run_graph(functional_graph(operation), x, apply)
        outputs = operation.compute_output_spec(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer):
            total += _macs(operation, x, outputs)
        return outputs

    run_graph(graph, [keras.KerasTensor(shape, dtype=image.dtype)], apply)
    return total


def _macs(layer, inputs, outputs):
    """Multiply-accumulates of a layer that is no model."""
    kernels = [v for v in layer.weights if len(v.shape) > 1]
    if not kernels:
        return 0
    size = sum(math.prod(kernel.shape) for kernel in kernels)
    if isinstance(layer, SqueezeExcite):
        return size
    if isinstance(layer, EfficientChannelAttention):
        return size * outputs.shape[-1]
    if not isinstance(layer, _KERNELS):
        raise ValueError(
            "`model` must have layers whose multiply-accumulates are known. "
            f"Received: the layer {layer.name!r}, {type(layer).__name__}"
        )
    where = inputs if isinstance(layer, _TRANSPOSED) else outputs
    return size * math.prod(where.shape[1:-1])


def variant_table() -> list[dict[str, Any]]:
    """Parameters and GMACs of every variant, from models without values.

    Returns:
        A list of dicts with `variant`, `parameters`, `train_size`,
        `test_size` (in pixels), `train_gmacs`, `test_gmacs`, `drop_rate`,
        `top1` (published, in %, or `None`) and `weights` (whether they are
        published).

    Example:

    >>> rows = keras_nfnet.diagnostics.variant_table()
    >>> rows[0]["variant"], rows[0]["parameters"], rows[0]["top1"]
    ('F0', 71489284, 83.6)

    Reference: arXiv:2102.06171, tables 1 and 3; timm's results table.
    """
    rows = []
    for variant, config in VARIANTS.items():
        model = without_values(functools.partial(NFNet, variant, weights=None))
        train_macs, test_macs = (
            count_macs(model, side, side)
            for side in (config.train_size, config.test_size)
        )
        rows.append(
            {
                "variant": variant,
                "parameters": model.count_params(),
                "train_size": config.train_size,
                "test_size": config.test_size,
                "train_gmacs": train_macs / 1e9,
                "test_gmacs": test_macs / 1e9,
                "drop_rate": config.drop_rate,
                "top1": PUBLISHED_TOP1.get(variant),
                "weights": variant in REPOSITORIES,
            }
        )
    return rows
