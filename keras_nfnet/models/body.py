"""Stem, blocks and last convolution, and the feature maps between them.

`body` is a network's one description in layers.

What is counted through a network (expected variances, depth rates,
bottlenecks, dilations) is in `variants.py`; what a block is, in
`nf_block.py`.
"""

import math
from collections.abc import Sequence

import keras

from keras_nfnet.layers import ScaledActivation, ScaledWSConv2D
from keras_nfnet.layers.convolution import convolution_options
from keras_nfnet.layers.pooling import SymmetricMaxPooling
from keras_nfnet.layers.rematerialization import NotRecomputed
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.utils.arguments import refuse


def body(apply, x, architecture, output_stride=32):
    """Applies all layers of a network up to its last activation.

    Args:
        apply: Function of a layer and its input, as for `NFBlock.walk`.
        x: What stands for the image.
        architecture: An `NFNetConfig`.
        output_stride: As for `NFNet`.

    Returns:
        What stands for the feature maps.
    """
    use_gain = architecture.gain_in == "activation"

    def activation(name):
        return ScaledActivation(
            architecture.activation, use_gain=use_gain, name=name
        )

    def convolution(filters, kernel_size, strides, name):
        return ScaledWSConv2D(
            filters,
            kernel_size,
            strides=strides,
            name=name,
            **convolution_options(architecture),
        )

    stem = architecture.stem.resolved(architecture.widths[0])
    for index, (filters, strides) in enumerate(
        zip(stem.filters, stem.strides, strict=True)
    ):
        # Activations between the convolutions, none after.
        if index:
            x = apply(activation(f"stem_act{index - 1}"), x)
        layer = convolution(
            filters, stem.kernel_size, strides, f"stem_conv{index}"
        )
        x = apply(layer, x)
    if stem.max_pool:
        x = apply(_max_pool(architecture.padding), x)
    for spec in architecture.blocks(output_stride):
        x = apply(NFBlock.of(spec, architecture), x)
    if architecture.final_channels is not None:
        layer = convolution(architecture.final_channels, 1, 1, "final_conv")
        x = apply(layer, x)
    return apply(activation("final_act"), x)


def _max_pool(padding):
    if padding == "symmetric":
        return SymmetricMaxPooling(
            3, strides=2, data_format="channels_last", name="stem_pool"
        )
    return keras.layers.MaxPooling2D(
        3,
        strides=2,
        padding="same",
        data_format="channels_last",
        name="stem_pool",
    )


def pyramid(model, by_stride=False):
    """Feature maps of a network by level: `{"P1": …, "P2": …}`.

    Args:
        model: A model that `NFNet` built.
        by_stride: Whether the name always says the stride: of a model that
            was built with `output_stride=16`, `"P4"` is then the last level.

    Returns:
        Keras tensors of the model. Level `n` has the stride `2**n`, or the
        `output_stride` that the model was built with where that is smaller.
    """
    levels, stride = {}, 1

    def keep(layer):
        level = math.log2(stride)
        if level >= 1 and level == int(level):
            levels[f"P{int(level)}"] = layer.output

    for layer in model.layers:
        if isinstance(layer, NFBlock):
            stride *= layer.strides
            if not by_stride:  # A dilated block stands for one of stride 2.
                stride *= layer.dilation_rate // layer.first_dilation
            keep(layer)
        elif isinstance(layer, ScaledWSConv2D):
            stride *= layer.strides[0]
            keep(layer)
        elif layer.name == "stem_pool":
            stride *= layer.strides[0]
    return levels


def channels_of(model):
    """Channels of each of a model's `pyramid_outputs`, in their order."""
    return [level.shape[-1] for level in model.pyramid_outputs.values()]


@keras.saving.register_keras_serializable(package="keras_nfnet")
class FeatureMaps(NotRecomputed, keras.Model):
    """A functional model whose outputs are feature maps by level.

    Build one with `keras_nfnet.features`.
    """

    @property
    def pyramid_outputs(self):
        """The outputs: `{"P2": …, …}`, Keras tensors."""
        return dict(self.output)

    @property
    def hidden_dims(self):
        """Channels of each level, by which keras-hub's SegFormer asks."""
        return channels_of(self)


# Keras's HDF5 files name a model's class without its package.
keras.saving.get_custom_objects()[FeatureMaps.__name__] = FeatureMaps


def features(
    model: keras.Model, levels: Sequence[str] | None = None
) -> keras.Model:
    """A model of the same layers whose outputs are feature maps.

    Args:
        model: A model that `keras_nfnet.NFNet` or a variant's constructor
            built.
        levels: Names of `model.pyramid_outputs`, such as `("P3", "P4",
            "P5")`, or `None` for all.

    Returns:
        A `keras.Model` with a dictionary of outputs, `(batch, height,
        width, channels)` each; level `Pn` has the stride `2**n`, or the
        `output_stride` of the model where that is smaller. It shares its
        layers and values with `model`, and has `pyramid_outputs` too.

    Raises:
        ValueError: If `model` is another model or has no such level.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None)
    >>> backbone = keras_nfnet.features(model, ("P2", "P3"))
    >>> maps = backbone(keras.random.normal((1, 64, 64, 3)))
    >>> {level: keras.ops.shape(map) for level, map in maps.items()}
    {'P2': (1, 16, 16, 32), 'P3': (1, 8, 8, 128)}

    Reference: Lin et al., arXiv:1612.03144, of the levels' names.
    """
    outputs = getattr(model, "pyramid_outputs", None)
    if not outputs:
        raise ValueError(
            "`model` must be a model that `keras_nfnet.NFNet` or a variant's "
            f"constructor built. Received: model={model!r}"
        )
    if levels is None:
        levels = tuple(outputs)
    if isinstance(levels, str):
        levels = (levels,)
    if (
        not isinstance(levels, list | tuple)
        or not levels
        or any(level not in outputs for level in levels)
    ):
        refuse("levels", levels, f"of {', '.join(outputs)}")
    return FeatureMaps(
        model.input,
        {level: outputs[level] for level in levels},
        name=f"{model.name}_features",
    )
