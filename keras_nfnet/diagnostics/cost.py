"""Parameters and multiply-accumulates, computed from the model."""

import keras

from keras_nfnet.layers import ScaledWSConv2D
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.models.without_values import without_values
from keras_nfnet.variants import VARIANTS

# Top-1 accuracy on ImageNet in %, arXiv:2102.06171, table 3.
PUBLISHED_TOP1 = {
    "F0": 83.6,
    "F1": 84.7,
    "F2": 85.1,
    "F3": 85.7,
    "F4": 85.9,
    "F5": 86.0,
    "F6": 86.5,
}


def count_macs(model, height, width):
    """Multiply-accumulates of one image: all convolutions and matrices.

    Args:
        model: A model of this package, a chain of its layers.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        An integer. Activations, pooling and standardization are not
        counted, as in the paper.

    Example:

    >>> model = keras_nfnet.NFNetF0(weights=None)
    >>> macs = keras_nfnet.diagnostics.count_macs(model, 256, 256)
    >>> round(macs / 1e9, 2)
    12.38

    Reference: arXiv:2102.06171, table 3, which calls them FLOPs.
    """
    shape = (1, height, width, model.inputs[0].shape[-1])
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        total += _layer_macs(layer, shape)
        shape = layer.compute_output_shape(shape)
    return total


def _layer_macs(layer, shape):
    if isinstance(layer, NFBlock):
        return _block_macs(layer, shape)
    if isinstance(layer, ScaledWSConv2D):
        _, height, width, _ = layer.compute_output_shape(shape)
        return height * width * _size(layer.kernel)
    if isinstance(layer, keras.layers.Dense):
        return _size(layer.kernel)
    return 0


def _block_macs(block, shape):
    total = 0
    if block.conv_shortcut is not None:
        pooled = block.pool.compute_output_shape(shape) if block.pool else shape
        total += _layer_macs(block.conv_shortcut, pooled)
    for conv in (block.conv0, block.conv1, block.conv1b, block.conv2):
        if conv is not None:
            total += _layer_macs(conv, shape)
            shape = conv.compute_output_shape(shape)
    gate = block.squeeze_excite
    return total + _size(gate.reduce.kernel) + _size(gate.expand.kernel)


def _size(variable):
    size = 1
    for side in variable.shape:
        size *= side
    return size


def variant_table():
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

    Reference: arXiv:2102.06171, tables 1 and 3.
    """
    rows = []
    for variant, config in VARIANTS.items():
        with without_values():
            model = NFNet(variant, weights=None)
        rows.append(
            {
                "variant": variant,
                "parameters": model.count_params(),
                "train_size": config.train_size,
                "test_size": config.test_size,
                "train_gmacs": _gmacs(model, config.train_size),
                "test_gmacs": _gmacs(model, config.test_size),
                "drop_rate": config.drop_rate,
                "top1": PUBLISHED_TOP1.get(variant),
                "weights": variant in PUBLISHED_TOP1,
            }
        )
    return rows


def _gmacs(model, size):
    return count_macs(model, size, size) / 1e9
