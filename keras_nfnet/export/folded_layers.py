"""The layers of a folded network: plain convolutions, no gains.

They hold no standardization and no scale of their own, and every kernel is
a constant of the graph, so that each runtime can run them at full speed.
"""

import keras
import numpy as np
from keras import ops

from keras_nfnet.layers.activation import (
    resolve_activation,
    serialize_activation,
)
from keras_nfnet.layers.convolution import output_sides
from keras_nfnet.layers.grouped_convolution import WIDE, convolve


def numpy_value(variable):
    """The values of a variable, also while TensorFlow traces a function."""
    if keras.backend.backend() != "tensorflow":
        return ops.convert_to_numpy(variable)
    import tensorflow as tf

    with tf.init_scope():
        return ops.convert_to_numpy(variable)


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainActivation(keras.layers.Layer):
    """An activation of `ScaledActivation` without its gain.

    Args:
        activation: As for `ScaledActivation`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, activation="gelu", **kwargs):
        super().__init__(**kwargs)
        self.function, _ = resolve_activation(activation)
        self.activation = serialize_activation(activation)
        self.built = True

    def call(self, inputs):
        return self.function(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainConvolution(keras.layers.Layer):
    """A convolution with a kernel per group, so that none is split.

    Narrow groups share a kernel where they run as one convolution, see
    `grouped_convolution.py`.

    Args:
        filters: Output channels.
        kernel_size: A tuple, one entry for each of 1 to 3 axes.
        strides: Likewise.
        padding: `"same"`, `"valid"` or `"symmetric"`.
        groups: Divides input channels and `filters`.
        dilation_rate: As `kernel_size`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="same",
        groups=1,
        dilation_rate=(1, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.padding = padding
        self.groups = groups
        self.dilation_rate = tuple(dilation_rate)

    def build(self, input_shape):
        width = input_shape[-1] // self.groups
        parts = self.groups if width >= WIDE else 1
        # Values are assigned; drawing them would cost time.
        self.kernels = [
            self.add_weight(
                name=f"kernel{index}",
                shape=(*self.kernel_size, width, self.filters // parts),
                initializer="zeros",
            )
            for index in range(parts)
        ]
        self.bias = self.add_weight(
            name="bias", shape=(self.filters,), initializer="zeros"
        )
        self.built = True

    def set_values(self, kernel, bias):
        """Assigns a kernel `(..., channels // groups, filters)` and a bias."""
        parts = np.split(kernel, len(self.kernels), axis=-1)
        for variable, part in zip(self.kernels, parts, strict=True):
            variable.assign(part)
        self.bias.assign(bias)

    def values(self):
        """The kernel and the bias of all groups, as NumPy arrays."""
        kernels = [numpy_value(kernel) for kernel in self.kernels]
        return np.concatenate(kernels, axis=-1), numpy_value(self.bias)

    def call(self, inputs):
        parts = len(self.kernels)
        outputs = [
            convolve(
                part,
                ops.cast(kernel, self.compute_dtype),
                strides=self.strides,
                padding=self.padding,
                groups=self.groups // parts,
                dilation_rate=self.dilation_rate,
            )
            for part, kernel in zip(
                ops.split(inputs, parts, axis=-1) if parts > 1 else [inputs],
                self.kernels,
                strict=True,
            )
        ]
        if parts > 1:
            outputs = [ops.concatenate(outputs, axis=-1)]
        return outputs[0] + ops.cast(self.bias, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        sides = output_sides(
            sides,
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation_rate,
        )
        return (batch, *sides, self.filters)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "groups": self.groups,
            "dilation_rate": self.dilation_rate,
        }
