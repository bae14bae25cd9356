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

from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.layers import (
    EfficientChannelAttention,
    ScaledActivation,
    ScaledWSConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
)
from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.pooling import GlobalAveragePooling
from keras_nfnet.models.body import body
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.models.nfnet import check_arguments
from keras_nfnet.utils.types import Shape, Tensor

# As ResNets have it; Keras's default is 1e-3.
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainConv2D(ScaledWSConv2D):
    """A `ScaledWSConv2D` with its kernel as it is, and nothing else."""

    def add_weight(self, *args, **kwargs):
        return keras.layers.Conv2D.add_weight(self, *args, **kwargs)

    def standardized_kernel(self, name="kernel"):
        return ops.convert_to_tensor(self.kernel)


def batch_normalized_twin(
    config: NFNetConfig, input_shape: Shape, classes: int
) -> keras.Model:
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
    x = body(_Twin(config), inputs, config)
    x = GlobalAveragePooling(name="avg_pool")(x)
    # The NFNet's classifier, under the name that AGC leaves out.
    x = keras.layers.Dense(
        classes,
        kernel_initializer=ScaledNormal(stddev=0.01),
        dtype=keras.config.dtype_policy().variable_dtype,
        name="predictions",
    )(x)
    return NFNetModel(inputs, x, name="batch_normalized_twin")


def use_statistics_of(model: keras.Model, images: Tensor) -> None:
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


class _Twin:
    """What each layer of an NFNet becomes, for `body` and its blocks."""

    def __init__(self, config):
        self._activation = config.activation
        self._last_of_stem = f"stem_conv{len(config.stem.filters) - 1}"

    def __call__(self, layer, x):
        if isinstance(layer, NFBlock):
            layer.compose_shortcut(x.shape[-1])
            return layer.walk(self, x)
        if isinstance(layer, ScaledWSConv2D):
            x = self._normalized(layer, x)
            if layer.name == self._last_of_stem:
                # An NFNet's first block begins with the activation.
                x = self._activated(x)
            return x
        if isinstance(layer, ScaledActivation):
            is_first = layer.name.endswith("_preact")
            return x if is_first else self._activated(x)
        if isinstance(
            layer, StochasticDepth | SkipInit | keras.layers.Rescaling
        ):
            return x
        if isinstance(layer, SqueezeExcite | EfficientChannelAttention):
            # The factor 2 of the NFNet's gate keeps a variance; here
            # nothing has to.
            config = {**layer.get_config(), "scale": 1.0}
            return type(layer).from_config(config)(x)
        x = layer(x)
        is_sum = isinstance(layer, keras.layers.Add)
        return self._activated(x) if is_sum else x

    def _activated(self, x):
        return ScaledActivation(self._activation, use_gain=False)(x)

    def _normalized(self, layer, x):
        config = layer.get_config()
        config.update(
            name=f"{layer.name}_conv",
            use_bias=False,
            kernel_initializer="he_normal",
        )
        is_last = layer.name.endswith("_conv2") and "block" in layer.name
        return keras.layers.BatchNormalization(
            momentum=0.0,
            epsilon=_EPSILON,
            gamma_initializer="zeros" if is_last else "ones",
            name=f"{layer.name}_bn",
        )(PlainConv2D.from_config(config)(x))
