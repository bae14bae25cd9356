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


@register
class ScaledWSConv1D(Convolution, layers.Conv1D):
    """`keras.layers.Conv1D` with standardized, scaled kernels.

    A unit is a filter.

    Args:
        *args: As for `keras.layers.Conv1D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Conv1D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.Conv1D`.

    Output shape:
        As for `keras.layers.Conv1D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSConv1D(32, 7, strides=2)
    >>> y = layer(keras.random.normal((8, 64, 16), seed=0))
    >>> keras.ops.shape(y)
    (8, 32, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv1D`.
    """

    unit_axes = {"kernel": (0, 1)}


@register
class ScaledWSConv3D(Convolution, layers.Conv3D):
    """`keras.layers.Conv3D` with standardized, scaled kernels.

    A unit is a filter.

    Args:
        *args: As for `keras.layers.Conv3D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Conv3D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.Conv3D`.

    Output shape:
        As for `keras.layers.Conv3D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSConv3D(32, 3, strides=2)
    >>> y = layer(keras.random.normal((2, 8, 8, 8, 16), seed=0))
    >>> keras.ops.shape(y)
    (2, 4, 4, 4, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv3D`.
    """

    unit_axes = {"kernel": (0, 1, 2, 3)}


@register
class ScaledWSDepthwiseConv1D(Depthwise, layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with standardized, scaled kernels.

    A unit is the kernel of one output channel, of the kernel's sides alone.

    Args:
        *args: As for `keras.layers.DepthwiseConv1D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.DepthwiseConv1D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.DepthwiseConv1D`.

    Output shape:
        As for `keras.layers.DepthwiseConv1D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSDepthwiseConv1D(5)
    >>> y = layer(keras.random.normal((8, 64, 16), seed=0))
    >>> keras.ops.shape(y)
    (8, 64, 16)

    Reference: arXiv:2101.08692, section 4; `keras.layers.DepthwiseConv1D`.
    """

    unit_axes = {"kernel": (0,)}


@register
class ScaledWSDepthwiseConv2D(Depthwise, layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with standardized, scaled kernels.

    A unit is the kernel of one output channel, of the kernel's sides alone.

    Args:
        *args: As for `keras.layers.DepthwiseConv2D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.DepthwiseConv2D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.DepthwiseConv2D`.

    Output shape:
        As for `keras.layers.DepthwiseConv2D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSDepthwiseConv2D(3)
    >>> y = layer(keras.random.normal((2, 16, 16, 8), seed=0))
    >>> keras.ops.shape(y)
    (2, 16, 16, 8)

    Reference: arXiv:2101.08692, section 4; `keras.layers.DepthwiseConv2D`.
    """

    unit_axes = {"kernel": (0, 1)}


@register
class ScaledWSSeparableConv1D(Separable, layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` with standardized, scaled kernels.

    Both kernels are standardized, each with a gain.

    Args:
        *args: As for `keras.layers.SeparableConv1D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.SeparableConv1D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.SeparableConv1D`.

    Output shape:
        As for `keras.layers.SeparableConv1D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSSeparableConv1D(32, 5)
    >>> y = layer(keras.random.normal((8, 64, 16), seed=0))
    >>> keras.ops.shape(y)
    (8, 64, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.SeparableConv1D`.
    """

    unit_axes = {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)}


@register
class ScaledWSSeparableConv2D(Separable, layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with standardized, scaled kernels.

    Both kernels are standardized, each with a gain.

    Args:
        *args: As for `keras.layers.SeparableConv2D`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.SeparableConv2D`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.SeparableConv2D`.

    Output shape:
        As for `keras.layers.SeparableConv2D`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSSeparableConv2D(32, 3)
    >>> y = layer(keras.random.normal((2, 16, 16, 8), seed=0))
    >>> keras.ops.shape(y)
    (2, 16, 16, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.SeparableConv2D`.
    """

    unit_axes = {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)}


@register
class ScaledWSConv1DTranspose(Transposed, layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` with standardized, scaled kernels.

    A unit is a filter. The values of it that meet at one output are
    standardized together, so that strides do not change the variance.

    Args:
        *args: As for `keras.layers.Conv1DTranspose`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Conv1DTranspose`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.Conv1DTranspose`.

    Output shape:
        As for `keras.layers.Conv1DTranspose`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSConv1DTranspose(32, 4, strides=2)
    >>> y = layer(keras.random.normal((8, 64, 16), seed=0))
    >>> keras.ops.shape(y)
    (8, 128, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv1DTranspose`.
    """

    unit_axes = {"kernel": (0, 2)}


@register
class ScaledWSConv2DTranspose(Transposed, layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with standardized, scaled kernels.

    A unit is a filter. The values of it that meet at one output are
    standardized together, so that strides do not change the variance.

    Args:
        *args: As for `keras.layers.Conv2DTranspose`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Conv2DTranspose`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.Conv2DTranspose`.

    Output shape:
        As for `keras.layers.Conv2DTranspose`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSConv2DTranspose(32, 4, strides=2)
    >>> y = layer(keras.random.normal((2, 16, 16, 8), seed=0))
    >>> keras.ops.shape(y)
    (2, 32, 32, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv2DTranspose`.
    """

    unit_axes = {"kernel": (0, 1, 3)}


@register
class ScaledWSConv3DTranspose(Transposed, layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` with standardized, scaled kernels.

    A unit is a filter. The values of it that meet at one output are
    standardized together, so that strides do not change the variance.

    Args:
        *args: As for `keras.layers.Conv3DTranspose`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Conv3DTranspose`. `padding`
            defaults to `"same"`.

    Input shape:
        As for `keras.layers.Conv3DTranspose`.

    Output shape:
        As for `keras.layers.Conv3DTranspose`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSConv3DTranspose(4, 4, strides=2)
    >>> y = layer(keras.random.normal((2, 4, 4, 4, 8), seed=0))
    >>> keras.ops.shape(y)
    (2, 8, 8, 8, 4)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv3DTranspose`.
    """

    unit_axes = {"kernel": (0, 1, 2, 4)}


@register
class ScaledWSDense(ScaledWSMixin, layers.Dense):
    """`keras.layers.Dense` with a standardized, scaled kernel.

    A unit is a column of the kernel.

    Args:
        *args: As for `keras.layers.Dense`.
        gain_initializer: As for `ScaledWSMixin`.
        eps: As for `ScaledWSMixin`, above 0.
        **kwargs: As for `keras.layers.Dense`.

    Input shape:
        As for `keras.layers.Dense`.

    Output shape:
        As for `keras.layers.Dense`.

    Raises:
        ValueError: As `ScaledWSMixin`.

    Example:

    >>> layer = keras_nfnet.layers.ScaledWSDense(32, use_bias=False)
    >>> y = layer(keras.random.normal((8, 16), seed=0))
    >>> keras.ops.shape(y)
    (8, 32)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Dense`.
    """

    unit_axes = {"kernel": (0,)}

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """The product of the inputs and the kernel."""
        return ops.matmul(inputs, kernel)
