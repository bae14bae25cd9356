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
from keras_nfnet.layers.convolution import ScaledWSConv2D, standardize
from keras_nfnet.layers.residual import SkipInit, StochasticDepth

__all__ = [
    "ACTIVATIONS",
    "EfficientChannelAttention",
    "ScaledActivation",
    "ScaledWSConv2D",
    "SkipInit",
    "SqueezeExcite",
    "StochasticDepth",
    "activation_gain",
    "standardize",
]
