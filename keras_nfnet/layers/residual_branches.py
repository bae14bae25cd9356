"""Residual branches of a normalizer-free network of one's own."""

import keras

from keras_nfnet.layers.activation import ScaledActivation
from keras_nfnet.layers.residual import SkipInit, StochasticDepth
from keras_nfnet.utils.arguments import positive, probability, refuse, text
from keras_nfnet.utils.types import Activation, Tensor


class Residual:
    """Adds residual branches and carries the variance expected of their sum.

    A branch starts with the activation of the inputs divided by their
    expected standard deviation: `activation(beta * x)` times its gain, with
    `beta = 1 / sqrt(expected_variance)`. So each branch has inputs of
    variance 1, keeps it if its layers do, and adds `alpha²` to the variance
    of the sum. A layer on the shortcut starts again from variance 1.

    Args:
        activation: As for `ScaledActivation`.
        alpha: Factor of each branch, above 0.
        expected_variance: Of the first inputs, above 0; 1 after a
            standardized convolution.
        name: Prefix of the layers' names: `residual0_add`, …

    Raises:
        ValueError: If `alpha` or `expected_variance` is not above 0, or
            `activation` is unknown.

    Example:

    >>> nf = keras_nfnet.layers
    >>> act = nf.ScaledActivation("silu")
    >>> residual = nf.Residual("silu", alpha=0.2)
    >>> signal = keras.Input((256, 2))
    >>> x = nf.ScaledWSConv1D(32, 7, strides=2)(signal)
    >>> x = residual(x, [nf.ScaledWSConv1D(32, 5), act,
    ...                  nf.ScaledWSConv1D(32, 5)])
    >>> x = residual(x, [nf.ScaledWSConv1D(64, 5, strides=2), act,
    ...                  nf.ScaledWSConv1D(64, 5)],
    ...              shortcut=nf.ScaledWSConv1D(64, 1, strides=2))
    >>> x = keras.layers.GlobalAveragePooling1D()(residual.activate(x))
    >>> model = keras.Model(signal, keras.layers.Dense(3)(x))
    >>> round(residual.expected_variance, 2)
    1.04
    >>> print(keras_nfnet.check_normalizer_free(model))
    All 8 variances are within 10% of those expected.

    Reference: arXiv:2101.08692, section 4; arXiv:2102.06171, section 2.2.
    """

    def __init__(
        self,
        activation: Activation = "gelu",
        alpha: float = 0.2,
        expected_variance: float = 1.0,
        name: str = "residual",
    ) -> None:
        ScaledActivation(activation)  # Refuses an unknown one here.
        self.activation = activation
        self.alpha = positive("alpha", alpha)
        self.expected_variance = positive(
            "expected_variance", expected_variance
        )
        self.name = text("name", name)
        self._count = 0

    @property
    def beta(self) -> float:
        """1 / the expected standard deviation of what comes next."""
        return self.expected_variance**-0.5

    def activate(self, x: Tensor, name: str | None = None) -> Tensor:
        """The activation of `beta * x`, of variance 1.

        Args:
            x: A tensor of the expected variance, of any shape.
            name: Of the layer.
        """
        return ScaledActivation(self.activation, scale=self.beta, name=name)(x)

    def __call__(
        self,
        x: Tensor,
        branch: Tensor,
        shortcut: Tensor | None = None,
        stochastic_depth_rate: float = 0.0,
        alpha: float | None = None,
    ) -> Tensor:
        """Adds a residual branch to `x`.

        Args:
            x: A tensor of the expected variance, of any shape.
            branch: A list of layers, or a function of a tensor, that keeps
                a variance of 1.
            shortcut: A layer, or a list or function as for `branch`, applied
                to the activated `x`; or `None` for `x` as it is.
            stochastic_depth_rate: As for `StochasticDepth`, in [0, 1).
            alpha: In place of that of all branches, above 0.

        Returns:
            The sum, a tensor of the new `expected_variance`.
        """
        for argument, value in (("branch", branch), ("shortcut", shortcut)):
            _check_layers(argument, value)
        prefix = f"{self.name}{self._count}"
        alpha = positive("alpha", alpha, optional=True) or self.alpha
        stochastic_depth_rate = probability(
            "stochastic_depth_rate", stochastic_depth_rate
        )
        activated = self.activate(x, f"{prefix}_preact")
        variance = self.expected_variance
        if shortcut is not None:
            x, variance = _applied(shortcut, activated), 1.0
        y = _applied(branch, activated)
        if stochastic_depth_rate:
            y = StochasticDepth(stochastic_depth_rate, name=f"{prefix}_drop")(y)
        y = SkipInit(alpha, name=f"{prefix}_skip")(y)
        y = keras.layers.Add(name=f"{prefix}_add")([x, y])
        self._count += 1
        self.expected_variance = variance + alpha**2
        return y


def _check_layers(name, value):
    parts = value if isinstance(value, list | tuple) else [value]
    if value is None and name == "shortcut":
        return
    if not parts or not all(map(callable, parts)):
        refuse(name, value, "a layer, a list of layers, or a function")


def _applied(layers, x):
    for layer in layers if isinstance(layers, list | tuple) else [layers]:
        x = layer(x)
    return x
