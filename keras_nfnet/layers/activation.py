"""Activations scaled to keep the variance of a standard normal.

Reference: arXiv:2101.08692, section 4: the gain is 1/std(act(x)) for x a
standard normal.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nfnet.layers import tensorflow_graphs
from keras_nfnet.utils.arguments import boolean, number, refuse
from keras_nfnet.utils.types import Activation, Tensor


def _gelu(x):
    # NOTE: the tanh form, as `jax.nn.gelu` in the authors' code.
    # `keras.activations.gelu` defaults to the exact one.
    return ops.gelu(x, approximate=True)


def _exact_gelu(x):
    return ops.gelu(x, approximate=False)


def _silu(x):
    if tensorflow_graphs.takes(x):
        return tensorflow_graphs.silu(x)
    return ops.silu(x)


def _leaky_relu(x):
    # NOTE: slope 0.01, as in the authors' code; Keras's default is 0.2.
    return ops.leaky_relu(x, negative_slope=0.01)


def _identity(x):
    return x


# Name -> (function, gain). The gains are the authors' constants.
ACTIVATIONS = {
    "gelu": (_gelu, 1.7015043497085571),
    # timm's; its constant is that of the tanh form.
    "exact_gelu": (_exact_gelu, 1.7015043497085571),
    "relu": (ops.relu, 1.7139588594436646),
    "silu": (_silu, 1.7881293296813965),
    "elu": (ops.elu, 1.2716004848480225),
    "celu": (ops.celu, 1.270926833152771),
    "leaky_relu": (_leaky_relu, 1.70590341091156),
    "relu6": (ops.relu6, 1.7131484746932983),
    "selu": (ops.selu, 1.0008515119552612),
    "sigmoid": (ops.sigmoid, 4.803835391998291),
    "softplus": (ops.softplus, 1.9203323125839233),
    "soft_sign": (ops.softsign, 2.338853120803833),
    "tanh": (ops.tanh, 1.5939117670059204),
    "log_sigmoid": (ops.log_sigmoid, 1.9193484783172607),
    "identity": (_identity, 1.0),
}
# What computes them, and times a factor, in graphs of TensorFlow.
_GRAPHS = {_gelu: tensorflow_graphs.gelu, _silu: tensorflow_graphs.silu}
# Other spellings in Keras and in the authors' code.
_SYNONYMS = {
    "swish": "silu",
    "softsign": "soft_sign",
    "linear": "identity",
}


def activation_gain(activation: Activation) -> float:
    """The gain of an activation: 1/std(activation(x)), x ~ N(0, 1).

    Args:
        activation: A name of `ACTIVATIONS`, any name that
            `keras.activations.get` knows, or a callable on tensors.

    Returns:
        A float: the authors' constant where there is one, else computed by
        numerical integration.

    Raises:
        ValueError: If the activation is unknown, or constant.

    Example:

    >>> round(keras_nfnet.layers.activation_gain("relu"), 4)
    1.714
    >>> round(keras_nfnet.layers.activation_gain("mish"), 2)
    1.59

    Reference: arXiv:2101.08692, section 4.
    """
    return resolve_activation(activation)[1]


def resolve_activation(activation, argument="activation"):
    """Returns `(function, gain)` of an activation's name or function.

    Args:
        activation: As for `activation_gain`.
        argument: Name of the caller's argument, for errors.
    """
    if isinstance(activation, str):
        name = _SYNONYMS.get(activation, activation)
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
    try:
        function = keras.activations.get(activation)
    except (ValueError, TypeError) as error:
        refuse(
            argument,
            activation,
            f"one of {', '.join(ACTIVATIONS)}, another name that Keras knows, "
            "or a function",
            error,
        )
    return function, _computed_gain(function, activation)


def _computed_gain(function, activation):
    variance = output_variance(function)
    if not np.isfinite(variance) or variance < 1e-12:
        raise ValueError(
            "`activation` must have a finite variance above 0 on a standard "
            f"normal. Received: activation={activation!r}, variance {variance}"
        )
    return float(1.0 / np.sqrt(variance))


def output_variance(function, input_variance=1.0):
    """Variance of a function of a normal of mean 0, by integration.

    Args:
        function: A function of a tensor.
        input_variance: Variance of the normal, 0 or more.
    """
    # Trapezoid rule against the normal density; the tails beyond 10 weigh
    # less than 1e-22.
    x = np.linspace(-10.0, 10.0, 20001)
    density = np.exp(-0.5 * x**2)
    density /= density.sum()
    x = x * np.sqrt(input_variance)
    with keras.device("cpu:0"):
        y = ops.convert_to_numpy(function(ops.convert_to_tensor(x, "float32")))
    y = np.asarray(y, np.float64)
    return np.sum(density * y**2) - np.sum(density * y) ** 2


def serialize_activation(activation):
    """What `get_config` stores: a name, or Keras's description."""
    if isinstance(activation, str | dict):
        return activation
    return keras.activations.serialize(activation)


@keras.saving.register_keras_serializable(package="keras_nfnet")
class ScaledActivation(keras.layers.Layer):
    """An activation times its gain.

    Args:
        activation: A name of `keras_nfnet.layers.ACTIVATIONS`, any other
            name that Keras knows, or a registered function.
        scale: A further constant factor, such as a block's `beta`.
        use_gain: Whether to multiply by the gain. Not where the gain is in
            the kernels, as in timm's networks.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        Any.

    Output shape:
        As the input.

    Raises:
        ValueError: If the activation is unknown or constant.

    Example:

    >>> x = keras.random.normal((100_000,), seed=0)
    >>> y = keras_nfnet.layers.ScaledActivation("silu")(x)
    >>> round(float(keras.ops.std(y)), 1)
    1.0

    Reference: arXiv:2101.08692, section 4.
    """

    def __init__(
        self,
        activation: Activation = "gelu",
        scale: float = 1.0,
        use_gain: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.function, gain = resolve_activation(activation)
        self.use_gain = boolean("use_gain", use_gain)
        self.gain = gain if use_gain else 1.0
        self.activation = serialize_activation(activation)
        self.scale = number("scale", scale)
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        function = _GRAPHS.get(self.function)
        if function and tensorflow_graphs.takes(inputs):
            return function(inputs, self.gain * self.scale)
        outputs = self.function(inputs)
        if self.gain * self.scale == 1:
            return outputs
        return outputs * self.gain_and_scale(inputs.dtype)

    def rematerialized_call(
        self, layer_call: Any, *args: Any, **kwargs: Any
    ) -> Any:
        # In Keras's mode "activations" only `self.activation` is recomputed,
        # which is a name here.
        if self._remat_mode and self._remat_mode.mode == "activations":
            return keras.remat(layer_call)
        return super().rematerialized_call(layer_call, *args, **kwargs)

    def gain_and_scale(self, dtype: Any) -> Tensor:
        """The gain times `scale`, as a scalar of a dtype."""
        return ops.cast(self.gain * self.scale, dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(
            activation=self.activation,
            scale=self.scale,
            use_gain=self.use_gain,
        )
        return config
