"""NFNets: table of variants → builder → public constructors.

Reference: Brock et al. 2021, arXiv:2102.06171.
"""

import dataclasses

import keras

from keras_nfnet.layers import ScaledActivation, ScaledWSConv2D
from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.initializers import ScaledNormal, built_while_drawing
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.inputs import check_arguments, input_for
from keras_nfnet.models.nf_block import GlobalAveragePooling, NFBlock
from keras_nfnet.variants import VARIANTS, NFNetConfig

_ARGUMENTS = """
    Args:
        include_top: Whether to end in the classifier. Without it, the model
            ends in the feature maps of the last activation.
        weights: `"imagenet"` (published values from the Hugging Face hub),
            `None` (random), or the path of a file: DeepMind's
            `*_haiku.npz`, timm's `*.safetensors`, or one saved by this
            package. The kind is told from the content.
        input_tensor: Optional Keras tensor to use as the image input.
        input_shape: `(height, width, 3)` in pixels; `None` means any
            resolution.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        classes: Number of classes of the top, 1 or more.
        classifier_activation: Activation of the top; `None` for logits.
        name: Name of the model.
        drop_rate: Dropout before the classifier, in [0, 1); `None` for the
            configuration's, as with the next two.
        stochastic_depth_rate: Rate of stochastic depth, in [0, 1).
        activation: Name of the activation, or a registered function.
        width: Multiplies the widths of all stages, above 0.

    Returns:
        A `keras.Model` on RGB images normalized by
        `keras_nfnet.preprocess_input`, `(batch, height, width, 3)`, with
        outputs `(batch, classes)`. Without the top they are feature maps of
        stride 32, `(batch, height, width, channels)`, or pooled,
        `(batch, channels)`.

    Raises:
        ValueError: If an argument is not as above, or a file does not fit.
        WeightsFileError: If the file cannot be read or fetched; an
            `OSError` and a `ValueError`.
"""


def NFNet(
    config,
    include_top=True,
    weights="imagenet",
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name=None,
    *,
    drop_rate=None,
    stochastic_depth_rate=None,
    activation=None,
    width=1.0,
):
    config, variant = _configuration(config)
    overrides = {
        "drop_rate": drop_rate,
        "stochastic_depth_rate": stochastic_depth_rate,
        "activation": activation,
    }
    config = dataclasses.replace(
        config,
        **{key: value for key, value in overrides.items() if value is not None},
    )
    if (
        isinstance(width, bool)
        or not isinstance(width, int | float)
        or not width > 0
    ):
        raise ValueError(
            f"`width` must be a number above 0. Received: width={width!r}"
        )
    if width != 1:
        config = dataclasses.replace(
            config, widths=tuple(int(w * width) for w in config.widths)
        )
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
        from keras_nfnet.weights.load import load_pretrained, pretrained_path

        # First: a file that cannot be had costs no building.
        weights = pretrained_path(weights, variant)
    if name is None:
        name = default_name(variant) if variant else "nfnet"

    def build():
        x = _body(image, config)
        if include_top:
            x = GlobalAveragePooling(name="avg_pool")(x)
            if config.drop_rate > 0:
                x = keras.layers.Dropout(config.drop_rate, name="dropout")(x)
            x = keras.layers.Dense(
                classes,
                activation=classifier_activation,
                # N(0, 0.01²), arXiv:2102.06171, appendix.
                kernel_initializer=ScaledNormal(stddev=0.01),
                # Probabilities need float32 under mixed precision.
                dtype=keras.config.dtype_policy().variable_dtype,
                name="predictions",
            )(x)
        elif pooling == "avg":
            x = GlobalAveragePooling(name="avg_pool")(x)
        elif pooling == "max":
            x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
        return NFNetModel(inputs, x, name=name)

    model = built_while_drawing(build)
    if weights is not None:
        load_pretrained(model, weights)
    return model


NFNet.__doc__ = (
    """Builds a Normalizer-Free Network.

    Args:
        config: A variant's name (`"F0"` … `"F7"`, `"F0+"` … `"F7+"`) or a
            `keras_nfnet.NFNetConfig`."""
    + _ARGUMENTS.replace("\n    Args:", "", 1)
    + """
    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: arXiv:2102.06171, section 5.
    """
)


def default_name(variant):
    """Model name of a variant: `"F4+"` → `"nfnet_f4_plus"`."""
    return f"nfnet_{variant.lower().replace('+', '_plus')}"


def _configuration(config):
    """Returns the configuration and its variant's name, or `None`."""
    if isinstance(config, NFNetConfig):
        return config, None
    if isinstance(config, str) and config.upper() in VARIANTS:
        return VARIANTS[config.upper()], config.upper()
    raise ValueError(
        "`config` must be an `NFNetConfig` or the name of a variant, one of "
        f"{', '.join(VARIANTS)}. Received: config={config!r}"
    )


def _body(x, config):
    """Stem, stages and final activation, on a Keras tensor."""
    # Stem: stride 4; activations between the convolutions, none after.
    stem = ((16, 2), (32, 1), (64, 1), (config.widths[0] // 2, 2))
    for index, (filters, strides) in enumerate(stem):
        x = ScaledWSConv2D(
            max(1, filters), 3, strides=strides, name=f"stem_conv{index}"
        )(x)
        if index < len(stem) - 1:
            x = ScaledActivation(config.activation, name=f"stem_act{index}")(x)

    block_index = 0
    expected_variance = 1.0
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
            x = NFBlock(
                filters,
                strides=strides if block == 0 else 1,
                # A stage's first block sees the grown variance of the
                # stage before; 1 for the first stage.
                beta=expected_variance**-0.5,
                alpha=config.alpha,
                bottleneck_ratio=config.bottleneck_ratio,
                group_width=group_width,
                se_ratio=config.se_ratio,
                stochastic_depth_rate=(
                    config.stochastic_depth_rate
                    * block_index
                    / sum(config.depths)
                ),
                use_two_convs=config.use_two_convs,
                activation=config.activation,
                name=f"stage{stage}_block{block}",
            )(x)
            block_index += 1
            if block == 0:
                expected_variance = 1.0
            expected_variance += config.alpha**2
    x = ScaledWSConv2D(
        int(config.final_conv_mult * config.widths[-1]), 1, name="final_conv"
    )(x)
    return ScaledActivation(config.activation, name="final_act")(x)


def _constructor(variant):
    default = default_name(variant)

    def construct(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=default,
        *,
        drop_rate=None,
        stochastic_depth_rate=None,
        activation=None,
        width=1.0,
    ):
        return NFNet(
            variant,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name,
            drop_rate=drop_rate,
            stochastic_depth_rate=stochastic_depth_rate,
            activation=activation,
            width=width,
        )

    row = VARIANTS[variant]
    construct.__name__ = construct.__qualname__ = "NFNet" + variant.replace(
        "+", "Plus"
    )
    construct.__doc__ = (
        f"Builds NFNet-{variant}.\n\n    Trained at {row.train_size} px, "
        f"evaluated at {row.test_size} px.\n"
        + _ARGUMENTS
        + f"""
    Example:

    >>> model = keras_nfnet.{construct.__name__}(weights=None, classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: arXiv:2102.06171, table 1.
    """
    )
    return construct


NFNetF0 = _constructor("F0")
NFNetF1 = _constructor("F1")
NFNetF2 = _constructor("F2")
NFNetF3 = _constructor("F3")
NFNetF4 = _constructor("F4")
NFNetF5 = _constructor("F5")
NFNetF6 = _constructor("F6")
NFNetF7 = _constructor("F7")
NFNetF0Plus = _constructor("F0+")
NFNetF1Plus = _constructor("F1+")
NFNetF2Plus = _constructor("F2+")
NFNetF3Plus = _constructor("F3+")
NFNetF4Plus = _constructor("F4+")
NFNetF5Plus = _constructor("F5+")
NFNetF6Plus = _constructor("F6+")
NFNetF7Plus = _constructor("F7+")
