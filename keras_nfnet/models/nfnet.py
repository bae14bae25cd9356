"""The builder of all networks: configuration → model.

Its arguments are those of `keras.applications`.

Reference: Brock et al. 2021, arXiv:2102.06171 and arXiv:2101.08692.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import keras

from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.initializers import ScaledNormal, built_while_drawing
from keras_nfnet.layers.pooling import GlobalAveragePooling
from keras_nfnet.layers.sharding import creating
from keras_nfnet.models.body import body
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.nf_block import call_layer
from keras_nfnet.utils.arguments import (
    boolean,
    integer,
    looked_up,
    one_of,
    path,
    positive,
    refuse,
    text,
)
from keras_nfnet.utils.types import Activation, Path, Shape, Tensor
from keras_nfnet.variants import (
    VARIANTS,
    NFNetConfig,
    default_name,
    variant_named,
)


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
    """Builds a Normalizer-Free Network.

    Args:
        config: A name of `keras_nfnet.VARIANTS`, such as `"F0"`,
            `"ResNet-50"` or `"eca_nfnet_l0"`, or a
            `keras_nfnet.NFNetConfig`.
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

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: arXiv:2102.06171, section 5.
    """
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
    image, inputs = _input_for(input_tensor, input_shape)
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


def without_values(build):
    """Builds a model whose variables have shapes and no values.

    Good for counting: F7+ would take 3.3 GB. The model cannot be called.

    It is built in a thread of its own. Keras lists such variables by thread,
    and gives all those of a thread their values when it next leaves a
    stateless scope there: 22 GB for the whole family. A thread starts with
    Keras's defaults, so that names are numbered from the start.

    Args:
        build: Function of no arguments that returns the model.

    Returns:
        What `build` returns.

    Raises:
        As `build` does.
    """
    policy = keras.config.dtype_policy()

    def run():
        keras.config.set_dtype_policy(policy)
        with keras.StatelessScope(initialize_variables=False):
            return build()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def check_arguments(
    *,
    include_top,
    weights,
    pooling,
    classes,
    classifier_activation,
    input_shape,
    input_tensor,
):
    """Refuses arguments that do not fit, each with one clear error."""
    boolean("include_top", include_top)
    integer("classes", classes)
    one_of("pooling", pooling, (None, "avg", "max"))
    if weights is not None and weights != "imagenet":
        expected = '`None`, "imagenet" or the path of a file'
        path("weights", weights, expected)
        if os.path.isdir(weights):
            refuse("weights", weights, "a file; this is a directory")
        if not os.path.exists(weights):
            refuse("weights", weights, f"{expected} that exists")
    if weights == "imagenet" and include_top and classes != 1000:
        raise ValueError(
            'With `weights="imagenet"` and `include_top=True`, `classes` '
            "must be 1000. For another number of classes use "
            "`include_top=False` and add a head, or build with "
            "`weights=None` and call `keras_nfnet.weights.load(model, "
            f'"imagenet", new_head=True)`. Received: classes={classes}'
        )
    if include_top:
        activation = looked_up(
            "classifier_activation",
            classifier_activation,
            keras.activations.get,
            "an activation",
            optional=True,
        )
        allowed = (keras.activations.softmax, keras.activations.linear)
        if weights == "imagenet" and activation not in allowed:
            raise ValueError(
                'With `weights="imagenet"` and `include_top=True`, '
                '`classifier_activation` must be `None` or "softmax". '
                "Received: classifier_activation="
                f"{classifier_activation!r}"
            )
    if input_shape is not None:
        _check_shape("input_shape", input_shape)
    if input_tensor is not None and keras.utils.is_keras_tensor(input_tensor):
        _check_shape("input_tensor", input_tensor.shape[1:])


def _check_shape(name, shape):
    try:
        sides = tuple(
            integer(name, side, optional=True) for side in tuple(shape)
        )
    except (TypeError, ValueError):
        sides = ()
    if len(sides) != 3 or sides[-1] is None:
        refuse(
            name,
            shape,
            "(height, width, channels), channels last, with `None` for any "
            "height or width",
        )


def _input_for(input_tensor, input_shape):
    """The image tensor to build on, and the model's inputs."""
    if input_tensor is None:
        shape = (None, None, 3) if input_shape is None else input_shape
        image = keras.Input(tuple(shape), name="images")
        return image, image
    if not keras.utils.is_keras_tensor(input_tensor):
        refuse(
            "input_tensor",
            input_tensor,
            "a Keras tensor, such as the output of `keras.Input`",
        )
    if input_shape is not None and tuple(input_shape) != tuple(
        input_tensor.shape[1:]
    ):
        raise ValueError(
            "`input_shape` and `input_tensor` disagree. Received: "
            f"input_shape={input_shape}, input_tensor of shape "
            f"{tuple(input_tensor.shape)}"
        )
    inputs = keras.utils.get_source_inputs(input_tensor)
    return input_tensor, inputs[0] if len(inputs) == 1 else inputs
