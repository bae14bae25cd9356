"""Pooling as the normalizer-free networks have it."""

import keras
from keras import ops

from keras_nfnet.layers.convolution import output_sides
from keras_nfnet.layers.grouped_convolution import symmetric_padding
from keras_nfnet.layers.residual import global_average


@keras.saving.register_keras_serializable(package="keras_nfnet")
class GlobalAveragePooling(keras.layers.GlobalAveragePooling2D):
    """Global average pooling that sums in float32 under mixed precision."""

    def call(self, inputs):
        average = global_average(inputs)
        if self.keepdims:
            return ops.expand_dims(average, (1, 2))
        return average


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SymmetricMaxPooling(keras.layers.MaxPooling2D):
    """Max pooling with `(pool_size - 1) // 2` pixels around the image.

    The pixels around are those at the edge, mirrored. They lie in the same
    windows, so that no maximum changes.

    Args:
        pool_size: Odd side of the window in pixels.
        strides: Stride in pixels.
        **kwargs: As for `keras.layers.MaxPooling2D`.
    """

    def call(self, inputs):
        high, wide = map(symmetric_padding, self.pool_size)
        pads = [(0, 0), (high, high), (wide, wide), (0, 0)]
        return super().call(ops.pad(inputs, pads, mode="symmetric"))

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        sides = output_sides(sides, self.pool_size, self.strides, "symmetric")
        return (batch, *sides, channels)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )
