"""The builder of all networks: configuration → model.

Reference: Brock et al. 2021, arXiv:2102.06171 and arXiv:2101.08692.
"""

import dataclasses
from typing import Literal, NamedTuple

import keras

from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.initializers import ScaledNormal, built_while_drawing
from keras_nfnet.layers.pooling import GlobalAveragePooling
from keras_nfnet.layers.sharding import creating
from keras_nfnet.models.body import body
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.inputs import check_arguments, input_for
from keras_nfnet.models.nf_block import call_layer
from keras_nfnet.utils.arguments import one_of, positive, text
from keras_nfnet.utils.types import Activation, Path, Shape, Tensor
from keras_nfnet.variants import (
    VARIANTS,
    NFNetConfig,
    default_name,
    variant_named,
)

ARGUMENTS = """
    Args:
        include_top: Whether to end in the classifier. Without it, the model
            ends in the feature maps of the last activation.
        weights: `"imagenet"` (published values from the Hugging Face hub),
            `None` (random), or the path of a file: DeepMind's
            `*_haiku.npz`, timm's `*.safetensors`, or one saved by this
            package. The kind is told from the content.
        input_tensor: Optional Keras tensor to use as the image input.
        input_shape: `(height, width, channels)` in pixels; `None` for any
            height or width. `None` alone means RGB of any resolution. With
            other than 3 channels the first kernel of published values, or
            of a file of RGB networks, is adapted: summed over RGB for one
            channel, else RGB repeated, cut and scaled by 3 / channels.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        classes: Number of classes of the top, 1 or more.
        classifier_activation: Activation of the top; `None` for logits.
        name: Name of the model.
        drop_rate: Dropout before the classifier, in [0, 1); `None` for the
            configuration's, as with the next two.
        stochastic_depth_rate: Rate of stochastic depth, in [0, 1).
        activation: Name of the activation, or a registered function.
        width: Multiplies the widths of all stages, above 0.
        output_stride: Stride of the last feature maps: 32, or 16 or 8 for
            dense predictions such as segmentation. Later stages then have
            dilated convolutions in place of strides, with the same kernels.

    Returns:
        A `keras.Model` on images normalized by
        `keras_nfnet.preprocess_input`, `(batch, height, width, channels)`,
        with outputs `(batch, classes)`. Without the top they are feature
        maps, `(batch, height, width, channels)`, or pooled, `(batch,
        channels)`. Its `pyramid_outputs` are the feature maps at all
        strides.

    Raises:
        ValueError: If an argument is not as above, or a file does not fit.
        WeightsFileError: If the file cannot be read or fetched; an
            `OSError` and a `ValueError`.
"""


def NFNet(
    config: str | NFNetConfig,
    include_top: bool = True,
    weights: Path | None = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: Activation | None = "softmax",
    name: str | None = None,
    *,
    drop_rate: float | None = None,
    stochastic_depth_rate: float | None = None,
    activation: Activation | None = None,
    width: float = 1.0,
    output_stride: int = 32,
) -> NFNetModel:
    config, variant = configuration(config)
    overrides = {
        "drop_rate": drop_rate,
        "stochastic_depth_rate": stochastic_depth_rate,
        "activation": activation,
    }
    config = dataclasses.replace(
        config,
        **{key: value for key, value in overrides.items() if value is not None},
    )
    config = config.scaled(positive("width", width))
    one_of("output_stride", output_stride, (8, 16, 32))
    require_channels_last()
    check_arguments(
        include_top=include_top,
        weights=weights,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        input_shape=input_shape,
        input_tensor=input_tensor,
    )
    if weights == "imagenet" and variant is None:
        raise ValueError(
            '`weights="imagenet"` needs a published variant: give its name, '
            f"one of {', '.join(VARIANTS)}. Received: config={config!r}"
        )
    image, inputs = input_for(input_tensor, input_shape)
    if weights is not None:
        from keras_nfnet.weights.load import load_into, published_weights
        from keras_nfnet.weights.structure import parameters

        # First: a file that cannot be downloaded costs no building.
        if weights == "imagenet":
            weights = published_weights(variant)
    if text("name", name, optional=True) is None:
        name = default_name(variant) if variant else "nfnet"

    def construct():
        x = body(call_layer, image, config, output_stride)
        if include_top:
            x = GlobalAveragePooling(name="avg_pool")(x)
            if config.drop_rate > 0:
                x = keras.layers.Dropout(config.drop_rate, name="dropout")(x)
            head = keras.layers.Dense(
                classes,
                activation=classifier_activation,
                # N(0, 0.01²), arXiv:2102.06171, appendix.
                kernel_initializer=(
                    "zeros"
                    if config.head_initializer == "zeros"
                    else ScaledNormal(stddev=0.01)
                ),
                # Probabilities need float32 under mixed precision.
                dtype=keras.config.dtype_policy().variable_dtype,
                name="predictions",
            )
            shape = (x.shape[-1], classes)
            with creating("kernel", shape, (0,), ours=False):
                x = head(x)
        elif pooling == "avg":
            x = GlobalAveragePooling(name="avg_pool")(x)
        elif pooling == "max":
            x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
        return NFNetModel(inputs, x, name=name)

    model = built_while_drawing(construct)
    if weights is not None:
        load_into(parameters(model)[0], weights)
    return model


NFNet.__doc__ = (
    """Builds a Normalizer-Free Network.

    Args:
        config: A name of `keras_nfnet.VARIANTS`, such as `"F0"`,
            `"ResNet-50"` or `"eca_nfnet_l0"`, or a
            `keras_nfnet.NFNetConfig`."""
    + ARGUMENTS.replace("\n    Args:", "", 1)
    + """
    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: arXiv:2102.06171, section 5.
    """
)


class ChangedVariant(NamedTuple):
    """A variant whose configuration a constructor's own argument changed."""

    config: NFNetConfig
    variant: str


def configuration(config):
    """Returns the configuration and its variant's name, or `None`."""
    if isinstance(config, ChangedVariant):
        return config
    if isinstance(config, NFNetConfig):
        return config, None
    variant = variant_named(config)
    if variant is None:
        raise ValueError(
            "`config` must be an `NFNetConfig` or the name of a variant, one "
            f"of {', '.join(VARIANTS)}. Received: config={config!r}"
        )
    return VARIANTS[variant], variant
