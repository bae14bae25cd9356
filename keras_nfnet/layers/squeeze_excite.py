"""Squeeze-and-excite as the NFNets use it."""

import keras
from keras import ops

from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.residual import global_average


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SqueezeExcite(keras.layers.Layer):
    """Scales channels by `scale * sigmoid(Dense(relu(Dense(mean(x)))))`.

    Args:
        ratio: Hidden channels over input channels, above 0.
        scale: Constant factor of the gate. NFNets use 2, so that a gate of
            1/2 keeps the variance.
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

    def __init__(self, ratio=0.5, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        if ratio <= 0:
            raise ValueError(
                f"`ratio` must be above 0. Received: ratio={ratio!r}"
            )
        self.ratio = ratio
        self.scale = scale
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        hidden = int(channels * self.ratio)
        if hidden < 1:
            raise ValueError(
                "`ratio` leaves no hidden channel. Received: "
                f"ratio={self.ratio}, input_shape={tuple(input_shape)}"
            )
        self.reduce = self._dense(hidden, "relu", "reduce")
        self.reduce.build((input_shape[0], channels))
        self.expand = self._dense(channels, "sigmoid", "expand")
        self.expand.build((input_shape[0], hidden))
        self.built = True

    def _dense(self, units, activation, name):
        # Truncated normal of deviation 1/sqrt(fan-in): haiku's Linear.
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=ScaledNormal(truncated=True),
            name=f"{self.name}_{name}",
            dtype=self.dtype_policy,
        )

    def call(self, inputs):
        gate = self.expand(self.reduce(global_average(inputs)))
        gate = gate * ops.cast(self.scale, gate.dtype)
        return inputs * gate[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(ratio=self.ratio, scale=self.scale)
        return config
