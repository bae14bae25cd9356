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
from keras_nfnet.layers.residual import global_average


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
    """A convolution as one ordinary `Conv2D` per group.

    Keras would run a grouped convolution inside a function of its own that
    needs XLA, and splitting one kernel would copy it in every call.

    Args:
        filters: Output channels.
        kernel_size: A pair.
        strides: A pair.
        padding: `"same"` or `"valid"`.
        groups: Divides input channels and `filters`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="same",
        groups=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.padding = padding
        self.groups = groups
        self.parts = [
            keras.layers.Conv2D(
                filters // groups,
                self.kernel_size,
                strides=self.strides,
                padding=padding,
                data_format="channels_last",
                # Values are assigned; drawing them would cost time.
                kernel_initializer="zeros",
                name="convolution" if groups == 1 else f"group{index}",
                dtype=self.dtype_policy,
            )
            for index in range(groups)
        ]

    def build(self, input_shape):
        shape = (*input_shape[:-1], input_shape[-1] // self.groups)
        for part in self.parts:
            part.build(shape)
        self.built = True

    def set_values(self, kernel, bias):
        """Assigns a kernel `(h, w, channels // groups, filters)` and a bias."""
        width = self.filters // self.groups
        for index, part in enumerate(self.parts):
            units = slice(index * width, (index + 1) * width)
            part.kernel.assign(kernel[..., units])
            part.bias.assign(bias[units])

    def values(self):
        """The kernel and the bias of all groups, as NumPy arrays."""
        return tuple(
            np.concatenate(
                [numpy_value(getattr(part, name)) for part in self.parts],
                axis=-1,
            )
            for name in ("kernel", "bias")
        )

    def call(self, inputs):
        if self.groups == 1:
            return self.parts[0](inputs)
        split = ops.split(inputs, self.groups, axis=-1)
        return ops.concatenate(
            [
                part(group)
                for part, group in zip(self.parts, split, strict=True)
            ],
            axis=-1,
        )

    def compute_output_shape(self, input_shape):
        *sides, _ = self.parts[0].compute_output_shape(
            (*input_shape[:-1], input_shape[-1] // self.groups)
        )
        return (*sides, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "groups": self.groups,
        }


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainGate(keras.layers.Layer):
    """Squeeze-and-excite whose factor lies in the kernels around it.

    Args:
        hidden: Channels between its two dense layers.
        scale: A factor that could not be absorbed, else 1.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, hidden, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.scale = scale

    def build(self, input_shape):
        channels = input_shape[-1]
        self.reduce = self._dense(self.hidden, "relu", "reduce")
        self.reduce.build((input_shape[0], channels))
        self.expand = self._dense(channels, "sigmoid", "expand")
        self.expand.build((input_shape[0], self.hidden))
        self.built = True

    def _dense(self, units, activation, name):
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer="zeros",
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, inputs):
        gate = self.expand(self.reduce(global_average(inputs)))
        if self.scale != 1:
            gate = gate * ops.cast(self.scale, gate.dtype)
        return inputs * gate[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "scale": self.scale,
        }


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainBlock(keras.layers.Layer):
    """A folded `NFBlock`; one node of the graph, as that is.

    Args:
        convolutions: `get_config` of the `PlainConvolution`s of the branch,
            first to last; empty where the branch is zero.
        shortcut: The same of the shortcut's, or `None`.
        pool: Side and stride of the average pooling before the shortcut's
            convolution, or `None`.
        hidden: Hidden channels of the gate.
        gate_scale: As `scale` of `PlainGate`.
        activation: As for `ScaledActivation`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        convolutions,
        shortcut,
        pool,
        hidden,
        gate_scale=1.0,
        activation="gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pool = pool
        self.hidden = hidden
        self.gate_scale = gate_scale
        self.activation = activation
        self.act = PlainActivation(
            activation, name="act", dtype=self.dtype_policy
        )
        self.convolutions = [
            PlainConvolution.from_config(config) for config in convolutions
        ]
        self.shortcut = shortcut and PlainConvolution.from_config(shortcut)
        self.pooling = pool and keras.layers.AveragePooling2D(
            pool,
            padding="same",
            data_format="channels_last",
            name="pool",
            dtype=self.dtype_policy,
        )
        self.gate = None
        if convolutions:
            self.gate = PlainGate(
                hidden, gate_scale, name="gate", dtype=self.dtype_policy
            )

    def build(self, input_shape):
        shape = tuple(input_shape)
        if self.shortcut is not None:
            self.shortcut.build(shape)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        if self.gate is not None:
            self.gate.build(shape)
        self.built = True

    def call(self, inputs):
        outputs = inputs
        activated = None
        if self.shortcut is not None or self.convolutions:
            activated = self.act(inputs)
        if self.shortcut is not None:
            pooled = self.pooling(activated) if self.pooling else activated
            outputs = self.shortcut(pooled)
        if not self.convolutions:
            return outputs
        residual = self.convolutions[0](activated)
        for convolution in self.convolutions[1:]:
            residual = convolution(self.act(residual))
        return outputs + self.gate(residual)

    def compute_output_shape(self, input_shape):
        if self.shortcut is None:
            return input_shape
        if self.pooling is not None:
            input_shape = self.pooling.compute_output_shape(input_shape)
        return self.shortcut.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "convolutions": [c.get_config() for c in self.convolutions],
            "shortcut": self.shortcut and self.shortcut.get_config(),
            "pool": self.pool,
            "hidden": self.hidden,
            "gate_scale": self.gate_scale,
            "activation": self.activation,
        }
