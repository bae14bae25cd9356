"""The batch-normalized twin of an NFNet, for comparison.

Same widths, depths, groups, strides, squeeze-and-excite and stem as the
`NFNetConfig` it is given, built as ResNets are (arXiv:1512.03385, with the
shortcut's average pool of ResNet-D, as the NFNet has it): a plain
convolution without bias, batch normalization, activation; the activation of
a block comes after the sum. Weight standardization, the gains of
activations, `alpha`, `beta` and SkipInit are left out, since batch
normalization does what they are for. The last normalization of each block
starts at a scale of 0 (arXiv:1706.02677, section 5.1), so that both networks
start with blocks that do nothing.

Every channel has a kernel, a scale and a shift, where the NFNet's has a
kernel, a gain and a bias. So the NFNet has one parameter more per block,
its skip gain.
"""

import keras
from keras import ops

from keras_nfnet.layers import SqueezeExcite
from keras_nfnet.layers.activation import resolve_activation
from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.grouped_convolution import convolve
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.inputs import check_arguments
from keras_nfnet.models.nf_block import GlobalAveragePooling, bottleneck_groups
from keras_nfnet.variants import NFNetConfig

# As ResNets have it; Keras's default is 1e-3.
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainConv2D(keras.layers.Layer):
    """A convolution without bias; grouped ones run as the NFNet's do.

    Args:
        filters: Output channels.
        kernel_size: Side of the kernel in pixels.
        strides: Stride in both directions.
        groups: Divides input channels and `filters`.
        **kwargs: As for `keras.layers.Layer`.
    """

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

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            groups=self.groups,
        )
        return config


def batch_normalized_twin(config, input_shape, classes):
    """Builds the batch-normalized twin of an NFNet, to compare the two.

    Widths, depths, groups, squeeze-and-excite and stem are the NFNet's; each
    of its standardized convolutions is a plain one followed by batch
    normalization, and activation gains, `alpha`, `beta` and SkipInit are
    left out. It trains by the NFNet's own step, with the same logs.

    The normalizations keep the statistics of the last training batch (their
    momentum is 0): call `use_statistics_of` before evaluation.

    Args:
        config: A `keras_nfnet.NFNetConfig` without dropout and stochastic
            depth.
        input_shape: `(height, width, channels)` in pixels; `None` for any
            height or width.
        classes: Number of classes, 1 or more.

    Returns:
        A `keras.Model` that takes normalized images `(batch, height, width,
        channels)` and ends in logits, `(batch, classes)`.

    Raises:
        ValueError: If `config` is no `NFNetConfig` or asks for what the twin
            does not have, or `input_shape` or `classes` is not as above.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> twin = keras_nfnet.diagnostics.batch_normalized_twin(
    ...     config, input_shape=(32, 32, 3), classes=10
    ... )
    >>> twin.output_shape
    (None, 10)

    Reference: batch normalization: Ioffe and Szegedy, arXiv:1502.03167; the
    comparison: arXiv:2102.06171, section 4.
    """
    if not isinstance(config, NFNetConfig):
        raise ValueError(
            f"`config` must be an `NFNetConfig`. Received: config={config!r}"
        )
    if config.drop_rate or config.stochastic_depth_rate:
        raise ValueError(
            "`config` must have no dropout and no stochastic depth. "
            f"Received: config={config!r}"
        )
    if input_shape is None:
        raise ValueError(
            "`input_shape` must be (height, width, channels), with `None` "
            "for any height or width. Received: input_shape=None"
        )
    require_channels_last()
    check_arguments(
        include_top=True,
        weights=None,
        pooling=None,
        classes=classes,
        classifier_activation=None,
        input_shape=input_shape,
        input_tensor=None,
    )
    inputs = keras.Input(tuple(input_shape), name="images")
    x = _body(inputs, config)
    x = GlobalAveragePooling(name="avg_pool")(x)
    # The NFNet's classifier, under the name that AGC leaves out.
    x = keras.layers.Dense(
        classes,
        kernel_initializer=ScaledNormal(stddev=0.01),
        dtype=keras.config.dtype_policy().variable_dtype,
        name="predictions",
    )(x)
    return NFNetModel(inputs, x, name="batch_normalized_twin")


def use_statistics_of(model, images):
    """Takes a twin's statistics from these images, as one batch.

    Exact statistics of the training set in place of a moving average: a run
    of few steps would otherwise be evaluated with an average that still
    holds its start.

    Args:
        model: What `batch_normalized_twin` returned; its normalizations'
            means and variances change, nothing else.
        images: Normalized images, `(examples, height, width, channels)`,
            such as the training set.

    Raises:
        ValueError: If `model` has no batch normalization, or one that keeps
            a moving average.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> twin = keras_nfnet.diagnostics.batch_normalized_twin(
    ...     config, input_shape=(32, 32, 3), classes=10
    ... )
    >>> images = keras.random.normal((64, 32, 32, 3), seed=0)
    >>> keras_nfnet.diagnostics.use_statistics_of(twin, images)
    >>> gap = twin(images, training=False) - twin(images, training=True)
    >>> bool(keras.ops.max(keras.ops.abs(gap)) < 1e-3)
    True

    Reference: arXiv:2105.07576, section 3.
    """
    normalizations = [
        layer
        for layer in getattr(model, "layers", [])
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not normalizations or any(layer.momentum for layer in normalizations):
        raise ValueError(
            "`model` must be what `batch_normalized_twin` returned, with "
            "batch normalizations of momentum 0. "
            f"Received: model={model!r}"
        )
    model(images, training=True)


def _body(x, config):
    """Stem, stages and final activation, on a Keras tensor."""
    activation, _ = resolve_activation(config.activation)
    stem = ((16, 2), (32, 1), (64, 1), (config.widths[0] // 2, 2))
    for index, (filters, strides) in enumerate(stem):
        x = activation(
            _conv_bn(x, f"stem_{index}", max(1, filters), 3, strides)
        )
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
                activation,
            )
    final = int(config.final_conv_mult * config.widths[-1])
    return activation(_conv_bn(x, "final", final, 1))


def _block(x, name, config, filters, strides, group_width, activation):
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
    x = activation(_conv_bn(x, f"{name}_conv0", channels, 1))
    x = activation(_conv_bn(x, f"{name}_conv1", channels, 3, strides, groups))
    if config.use_two_convs:
        x = activation(_conv_bn(x, f"{name}_conv1b", channels, 3, 1, groups))
    x = _conv_bn(x, f"{name}_conv2", filters, 1, gamma="zeros")
    # The factor 2 of the NFNet's gate keeps a variance; here nothing has to.
    x = SqueezeExcite(config.se_ratio, scale=1.0, name=f"{name}_se")(x)
    return activation(keras.layers.Add(name=f"{name}_add")([shortcut, x]))


def _conv_bn(x, name, filters, size, strides=1, groups=1, gamma="ones"):
    x = PlainConv2D(filters, size, strides, groups, name=f"{name}_conv")(x)
    return keras.layers.BatchNormalization(
        momentum=0.0,
        epsilon=_EPSILON,
        gamma_initializer=gamma,
        name=f"{name}_bn",
    )(x)
