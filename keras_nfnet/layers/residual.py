"""What a residual branch passes through before it joins the shortcut."""

from typing import Any

import keras
from keras import ops

from keras_nfnet.layers.rematerialization import NotRecomputed
from keras_nfnet.utils import arguments
from keras_nfnet.utils.arguments import (
    boolean,
    count,
    number,
    probability,
)
from keras_nfnet.utils.types import Tensor


def global_average(inputs):
    """Mean over height and width, summed in float32 at least.

    Args:
        inputs: `(batch, height, width, channels)`.

    Returns:
        `(batch, channels)` in the inputs' dtype.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if dtype in ("float16", "bfloat16"):
        mean = ops.mean(ops.cast(inputs, "float32"), axis=(1, 2))
        return ops.cast(mean, dtype)
    return ops.mean(inputs, axis=(1, 2))


@keras.saving.register_keras_serializable(package="keras_nfnet")
class StochasticDepth(NotRecomputed, keras.layers.Layer):
    """Drops a residual branch for whole samples while training.

    NOTE: what survives is not rescaled by `1 / (1 - rate)`, as in the
    authors' code; Keras's dropout layers and timm's networks do rescale.

    Args:
        rate: Probability to drop, in [0, 1).
        seed: Integer seed, or `None`.
        rescale: Whether to divide what survives by `1 - rate`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, ...)`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `rate` is not in [0, 1).

    Example:

    >>> layer = keras_nfnet.layers.StochasticDepth(0.5, seed=0)
    >>> y = layer(keras.ops.ones((100, 4)), training=True)
    >>> sorted({tuple(row.tolist()) for row in np.asarray(y)})
    [(0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)]

    Reference: arXiv:1603.09382; arXiv:2102.06171, appendix A.
    """

    def __init__(
        self,
        rate: float,
        seed: Any = None,
        rescale: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate = rate = probability("rate", rate)
        self.seed = seed = count("seed", seed, optional=True)
        self.rescale = boolean("rescale", rescale)
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        return inputs * self.survivors(inputs)

    def survivors(self, inputs: Tensor) -> Tensor:
        """Draws what the samples of a batch are multiplied by.

        Args:
            inputs: `(batch, ...)`.

        Returns:
            `(batch, 1, ...)` in the inputs' dtype: 0 for each sample that is
            dropped.
        """
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        draw = keras.random.uniform(
            shape, dtype="float32", seed=self.seed_generator
        )
        survives = ops.cast(draw >= self.rate, inputs.dtype)
        if self.rescale:
            survives = survives / ops.cast(1 - self.rate, inputs.dtype)
        return survives

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(rate=self.rate, seed=self.seed, rescale=self.rescale)
        return config


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SkipInit(keras.layers.Layer):
    """Multiplies by one learnable scalar, `skip_gain`, and a constant.

    Args:
        scale: Constant factor, such as a block's `alpha`.
        initializer: Of `skip_gain`; zeros, so that a block starts as the
            identity.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        Any.

    Output shape:
        As the input.

    Raises:
        ValueError: If `initializer` is unknown.

    Example:

    >>> layer = keras_nfnet.layers.SkipInit(scale=0.25, initializer="ones")
    >>> print(np.asarray(layer(keras.ops.ones((3,)))))
    [0.25 0.25 0.25]

    Reference: De and Smith, arXiv:2002.10444; arXiv:2101.08692, section 4.
    """

    def __init__(
        self, scale: float = 1.0, initializer: Any = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scale = number("scale", scale)
        self.initializer = arguments.initializer("initializer", initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.skip_gain = self.add_weight(
            name="skip_gain", shape=(), initializer=self.initializer
        )
        self.built = True

    def call(self, inputs):
        factor = ops.cast(self.skip_gain, inputs.dtype) * ops.cast(
            self.scale, inputs.dtype
        )
        return inputs * factor

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(
            scale=self.scale,
            initializer=keras.initializers.serialize(self.initializer),
        )
        return config
