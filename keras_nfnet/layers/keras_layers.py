"""Keras's convolutions and dense layer with standardized, scaled kernels."""

import keras
from keras import layers, ops

from keras_nfnet.layers.standardized import (
    Convolution,
    Depthwise,
    ScaledWSMixin,
    Separable,
    Transposed,
)
from keras_nfnet.utils.types import Tensor

register = keras.saving.register_keras_serializable(package="keras_nfnet")

# The layer of Keras, its units, and an example: the layer's arguments, and
# the shapes of its inputs and outputs.
_DOCSTRING = """`keras.layers.{0}` with standardized, scaled kernels.

{1}

Args:
    *args: As for `keras.layers.{0}`.
    gain_initializer: As for `ScaledWSMixin`.
    eps: As for `ScaledWSMixin`, above 0.
    **kwargs: As for `keras.layers.{0}`. `padding`
        defaults to `"same"`, where the layer has one.

Input shape:
    As for `keras.layers.{0}`.

Output shape:
    As for `keras.layers.{0}`.

Raises:
    ValueError: As `ScaledWSMixin`.

Example:

>>> layer = keras_nfnet.layers.ScaledWS{0}({2})
>>> y = layer(keras.random.normal({3}, seed=0))
>>> keras.ops.shape(y)
{4}

Reference: arXiv:2101.08692, section 4; `keras.layers.{0}`.
"""
_FILTER = "A unit is a filter."
_CHANNEL = """A unit is the kernel of one output channel, of the kernel's sides
alone."""
_BOTH = "Both kernels are standardized, each with a gain."
_PHASES = """A unit is a filter. The values of it that meet at one output are
standardized together, so that strides do not change the variance."""


@register
class ScaledWSConv1D(Convolution, layers.Conv1D):
    __doc__ = _DOCSTRING.format(
        "Conv1D", _FILTER, "32, 7, strides=2", "(8, 64, 16)", "(8, 32, 32)"
    )
    unit_axes = {"kernel": (0, 1)}


@register
class ScaledWSConv3D(Convolution, layers.Conv3D):
    __doc__ = _DOCSTRING.format(
        "Conv3D",
        _FILTER,
        "32, 3, strides=2",
        "(2, 8, 8, 8, 16)",
        "(2, 4, 4, 4, 32)",
    )
    unit_axes = {"kernel": (0, 1, 2, 3)}


@register
class ScaledWSDepthwiseConv1D(Depthwise, layers.DepthwiseConv1D):
    __doc__ = _DOCSTRING.format(
        "DepthwiseConv1D", _CHANNEL, "5", "(8, 64, 16)", "(8, 64, 16)"
    )
    unit_axes = {"kernel": (0,)}


@register
class ScaledWSDepthwiseConv2D(Depthwise, layers.DepthwiseConv2D):
    __doc__ = _DOCSTRING.format(
        "DepthwiseConv2D", _CHANNEL, "3", "(2, 16, 16, 8)", "(2, 16, 16, 8)"
    )
    unit_axes = {"kernel": (0, 1)}


@register
class ScaledWSSeparableConv1D(Separable, layers.SeparableConv1D):
    __doc__ = _DOCSTRING.format(
        "SeparableConv1D", _BOTH, "32, 5", "(8, 64, 16)", "(8, 64, 32)"
    )
    unit_axes = {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)}


@register
class ScaledWSSeparableConv2D(Separable, layers.SeparableConv2D):
    __doc__ = _DOCSTRING.format(
        "SeparableConv2D", _BOTH, "32, 3", "(2, 16, 16, 8)", "(2, 16, 16, 32)"
    )
    unit_axes = {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)}


@register
class ScaledWSConv1DTranspose(Transposed, layers.Conv1DTranspose):
    __doc__ = _DOCSTRING.format(
        "Conv1DTranspose",
        _PHASES,
        "32, 4, strides=2",
        "(8, 64, 16)",
        "(8, 128, 32)",
    )
    unit_axes = {"kernel": (0, 2)}


@register
class ScaledWSConv2DTranspose(Transposed, layers.Conv2DTranspose):
    __doc__ = _DOCSTRING.format(
        "Conv2DTranspose",
        _PHASES,
        "32, 4, strides=2",
        "(2, 16, 16, 8)",
        "(2, 32, 32, 32)",
    )
    unit_axes = {"kernel": (0, 1, 3)}


@register
class ScaledWSConv3DTranspose(Transposed, layers.Conv3DTranspose):
    __doc__ = _DOCSTRING.format(
        "Conv3DTranspose",
        _PHASES,
        "4, 4, strides=2",
        "(2, 4, 4, 4, 8)",
        "(2, 8, 8, 8, 4)",
    )
    unit_axes = {"kernel": (0, 1, 2, 4)}


@register
class ScaledWSDense(ScaledWSMixin, layers.Dense):
    __doc__ = _DOCSTRING.format(
        "Dense",
        "A unit is a column of the kernel.",
        "32, use_bias=False",
        "(8, 16)",
        "(8, 32)",
    )
    unit_axes = {"kernel": (0,)}

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """The product of the inputs and the kernel."""
        return ops.matmul(inputs, kernel)
