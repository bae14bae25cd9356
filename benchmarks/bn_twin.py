"""The batch-normalized twin of an NFNet, for comparison.

Same widths, depths, groups, strides, squeeze-and-excite and stem as the
`NFNetConfig` it is given, built as ResNets are (arXiv:1512.03385, with the
shortcut's average pool of ResNet-D, as the NFNet has it): a plain
convolution without bias, batch normalization, GELU; the activation of a
block comes after the sum. Weight standardization, the gains of activations,
`alpha`, `beta` and SkipInit are left out, since batch normalization does
what they are for. The last normalization of each block starts at a scale of
0 (arXiv:1706.02677, section 5.1), so that both networks start with blocks
that do nothing.

Every channel has a kernel, a scale and a shift, where the NFNet's has a
kernel, a gain and a bias. So the NFNet has one parameter more per block,
its skip gain.
"""

import keras
from keras import ops

from keras_nfnet.layers import SqueezeExcite
from keras_nfnet.layers.grouped_convolution import convolve
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.models.nf_block import GlobalAveragePooling, bottleneck_groups

# As ResNets have it; Keras's default is 1e-3.
_EPSILON = 1e-5


class PlainConv2D(keras.layers.Layer):
    """A convolution without bias; grouped ones run as the NFNet's do."""

    def __init__(self, filters, kernel_size, strides=1, groups=1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.groups = groups

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(
                self.kernel_size,
                self.kernel_size,
                input_shape[-1] // self.groups,
                self.filters,
            ),
            initializer="he_normal",
        )

    def call(self, inputs):
        return convolve(
            inputs,
            ops.convert_to_tensor(self.kernel),
            strides=self.strides,
            padding="same",
            groups=self.groups,
        )


def bn_twin(config, input_shape, classes):
    """Builds the batch-normalized twin of an NFNet.

    The normalizations keep the statistics of the last training batch (their
    momentum is 0): call `use_statistics_of` before evaluation.

    Args:
        config: A `keras_nfnet.NFNetConfig` without dropout and stochastic
            depth.
        input_shape: `(height, width, 3)` in pixels.
        classes: Number of classes.

    Returns:
        A `keras.Model` that ends in logits.

    Raises:
        ValueError: If `config` asks for what the twin does not have.

    Example:

    >>> config = NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> bn_twin(config, (32, 32, 3), classes=10).output_shape
    (None, 10)
    """
    if config.drop_rate or config.stochastic_depth_rate:
        raise ValueError(
            "`config` must have no dropout and no stochastic depth. "
            f"Received: config={config!r}"
        )
    inputs = keras.Input(input_shape)
    x = inputs
    stem = ((16, 2), (32, 1), (64, 1), (config.widths[0] // 2, 2))
    for index, (filters, strides) in enumerate(stem):
        x = _gelu(_conv_bn(x, f"stem{index}", filters, 3, strides))
    for stage, (filters, depth, strides, group_width) in enumerate(
        zip(
            config.widths,
            config.depths,
            config.strides,
            config.group_widths,
            strict=True,
        ),
        start=1,
    ):
        for block in range(depth):
            x = _block(
                x,
                f"stage{stage}_block{block}",
                config,
                filters,
                strides if block == 0 else 1,
                group_width,
            )
    final = int(config.final_conv_mult * config.widths[-1])
    x = _gelu(_conv_bn(x, "final", final, 1))
    x = GlobalAveragePooling(name="avg_pool")(x)
    # The NFNet's classifier, under the name that AGC leaves out.
    x = keras.layers.Dense(
        classes,
        kernel_initializer=ScaledNormal(stddev=0.01),
        name="predictions",
    )(x)
    return keras.Model(inputs, x, name="bn_twin")


def use_statistics_of(model, images):
    """Takes the normalizations' statistics from these images, as one batch.

    Exact statistics of the training set in place of a moving average
    (arXiv:2105.07576, section 3): a run of few steps would otherwise be
    evaluated with an average that still holds its start.

    Args:
        model: What `bn_twin` returned.
        images: Normalized, `(examples, height, width, 3)`.
    """
    model(images, training=True)


def _block(x, name, config, filters, strides, group_width):
    channels, groups = bottleneck_groups(
        filters, config.bottleneck_ratio, group_width
    )
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        if strides > 1:
            shortcut = keras.layers.AveragePooling2D(
                2, strides, padding="same", name=f"{name}_pool"
            )(shortcut)
        shortcut = _conv_bn(shortcut, f"{name}_shortcut", filters, 1)
    x = _gelu(_conv_bn(x, f"{name}_conv0", channels, 1))
    x = _gelu(_conv_bn(x, f"{name}_conv1", channels, 3, strides, groups))
    if config.use_two_convs:
        x = _gelu(_conv_bn(x, f"{name}_conv1b", channels, 3, 1, groups))
    x = _conv_bn(x, f"{name}_conv2", filters, 1, gamma="zeros")
    # The factor 2 of the NFNet's gate keeps a variance; here nothing has to.
    x = SqueezeExcite(config.se_ratio, scale=1.0, name=f"{name}_se")(x)
    return _gelu(keras.layers.Add(name=f"{name}_add")([shortcut, x]))


def _conv_bn(x, name, filters, size, strides=1, groups=1, gamma="ones"):
    x = PlainConv2D(filters, size, strides, groups, name=f"{name}_conv")(x)
    return keras.layers.BatchNormalization(
        momentum=0.0,
        epsilon=_EPSILON,
        gamma_initializer=gamma,
        name=f"{name}_bn",
    )(x)


def _gelu(x):
    # The tanh form, as in the NFNet, without its gain.
    return ops.gelu(x, approximate=True)
