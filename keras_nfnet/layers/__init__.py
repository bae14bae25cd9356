"""Keras layers of Normalizer-Free Networks.

`ACTIVATIONS` maps an activation's name to its function and its gain.
"""

from keras_nfnet.layers.activation import (
    ACTIVATIONS,
    ScaledActivation,
    activation_gain,
)
from keras_nfnet.layers.attention import (
    EfficientChannelAttention,
    SqueezeExcite,
)
from keras_nfnet.layers.convolution import ScaledWSConv2D
from keras_nfnet.layers.keras_layers import (
    ScaledWSConv1D,
    ScaledWSConv1DTranspose,
    ScaledWSConv2DTranspose,
    ScaledWSConv3D,
    ScaledWSConv3DTranspose,
    ScaledWSDense,
    ScaledWSDepthwiseConv1D,
    ScaledWSDepthwiseConv2D,
    ScaledWSSeparableConv1D,
    ScaledWSSeparableConv2D,
)
from keras_nfnet.layers.kernels import standardize
from keras_nfnet.layers.residual import SkipInit, StochasticDepth
from keras_nfnet.layers.residual_branches import Residual
from keras_nfnet.layers.standardized import ScaledWSMixin

__all__ = [
    "ACTIVATIONS",
    "EfficientChannelAttention",
    "Residual",
    "ScaledActivation",
    "ScaledWSConv1D",
    "ScaledWSConv1DTranspose",
    "ScaledWSConv2D",
    "ScaledWSConv2DTranspose",
    "ScaledWSConv3D",
    "ScaledWSConv3DTranspose",
    "ScaledWSDense",
    "ScaledWSDepthwiseConv1D",
    "ScaledWSDepthwiseConv2D",
    "ScaledWSMixin",
    "ScaledWSSeparableConv1D",
    "ScaledWSSeparableConv2D",
    "SkipInit",
    "SqueezeExcite",
    "StochasticDepth",
    "activation_gain",
    "standardize",
]
