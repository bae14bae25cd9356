"""Channel attention as the normalizer-free networks use it."""

import math
from typing import Any

import keras
from keras import ops

from keras_nfnet.block_spec import round_channels
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.residual import global_average
from keras_nfnet.layers.sharding import creating
from keras_nfnet.utils.arguments import integer, number, positive


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SqueezeExcite(keras.layers.Layer):
    """Scales channels by `scale * sigmoid(Dense(relu(Dense(mean(x)))))`.

    Args:
        ratio: Hidden channels over input channels, above 0.
        scale: Constant factor of the gate. NFNets use 2, so that a gate of
            1/2 keeps the variance.
        multiple: The hidden channels are rounded to a multiple of it; 1
            rounds down to an integer.
        dense_dtypes: Dtypes or policies of the two dense layers, such as
            those of quantized ones; `None` for the layer's.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `ratio` is not above 0 or leaves no hidden channel.

    Example:

    >>> x = keras.random.normal((2, 7, 7, 32))
    >>> layer = keras_nfnet.layers.SqueezeExcite(ratio=0.5)
    >>> keras.ops.shape(layer(x)), layer.reduce.units
    ((2, 7, 7, 32), 16)

    Reference: arXiv:2102.06171, section 5.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        scale: float = 2.0,
        multiple: int = 1,
        dense_dtypes: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ratio = positive("ratio", ratio)
        self.scale = number("scale", scale)
        self.multiple = integer("multiple", multiple)
        self.dense_dtypes = dense_dtypes
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        hidden = int(channels * self.ratio)
        if self.multiple > 1:
            hidden = round_channels(
                channels * self.ratio, self.multiple, may_lose=None
            )
        if hidden < 1:
            raise ValueError(
                "`ratio` leaves no hidden channel. Received: "
                f"ratio={self.ratio}, input_shape={tuple(input_shape)}"
            )
        self.reduce = self._dense(0, hidden, "relu", "reduce")
        with creating("kernel", (channels, hidden), (0,)):
            self.reduce.build((input_shape[0], channels))
        self.expand = self._dense(1, channels, "sigmoid", "expand")
        with creating("kernel", (hidden, channels), (0,)):
            self.expand.build((input_shape[0], hidden))
        self.built = True

    def _dense(self, index, units, activation, name):
        # Truncated normal of variance 1 / fan-in: haiku's Linear.
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=ScaledNormal(truncated=True),
            name=f"{self.name}_{name}",
            dtype=(self.dense_dtypes or [self.dtype_policy] * 2)[index],
        )

    def call(self, inputs):
        gate = self.expand(self.reduce(global_average(inputs)))
        if self.scale != 1:
            gate = gate * ops.cast(self.scale, gate.dtype)
        return inputs * gate[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(
            ratio=self.ratio, scale=self.scale, multiple=self.multiple
        )
        if self.built:
            # Keras quantizes the two, and the layer itself stays as it is.
            dtypes = [self.reduce.dtype_policy, self.expand.dtype_policy]
            if any(policy.quantization_mode for policy in dtypes):
                config["dense_dtypes"] = [policy.name for policy in dtypes]
        return config


@keras.saving.register_keras_serializable(package="keras_nfnet")
class EfficientChannelAttention(keras.layers.Layer):
    """Scales channels by `scale * sigmoid(conv(mean(x)))` along the channels.

    The kernel of the 1D convolution is `|log2(channels) + 1| / 2` long,
    rounded down, plus 1 where that is even, and at least 3. It has no bias.

    Args:
        scale: Constant factor of the gate, as for `SqueezeExcite`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        As the input.

    Raises:
        ValueError: If the number of channels is unknown.

    Example:

    >>> x = keras.random.normal((2, 7, 7, 256))
    >>> layer = keras_nfnet.layers.EfficientChannelAttention()
    >>> keras.ops.shape(layer(x)), keras.ops.shape(layer.kernel)
    ((2, 7, 7, 256), (5, 1, 1))

    Reference: Wang et al., arXiv:1910.03151.
    """

    def __init__(self, scale: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = number("scale", scale)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of channels must be known. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        size = int(abs(math.log2(channels) + 1) / 2)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(max(size if size % 2 else size + 1, 3), 1, 1),
            initializer=ScaledNormal(),
        )
        self.built = True

    def call(self, inputs):
        mean = global_average(inputs)[..., None]
        kernel = ops.cast(self.kernel, mean.dtype)
        gate = ops.sigmoid(ops.conv(mean, kernel, padding="same"))[..., 0]
        if self.scale != 1:
            gate = gate * ops.cast(self.scale, gate.dtype)
        return inputs * gate[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
