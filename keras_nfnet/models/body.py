"""Stem, blocks and last convolution: a network's one description in layers.

What is counted through a network (expected variances, depth rates,
bottlenecks, dilations) is in `variants.py`; what a block is, in
`nf_block.py`.
"""

import math

import keras

from keras_nfnet.layers import ScaledActivation, ScaledWSConv2D
from keras_nfnet.layers.convolution import convolution_options
from keras_nfnet.layers.pooling import SymmetricMaxPooling
from keras_nfnet.models.nf_block import NFBlock


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
