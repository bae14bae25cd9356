"""SGD with adaptive gradient clipping, as the paper trains."""

from typing import Any

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import CLASSIFIER, ClippedOptimizer
from keras_nfnet.optimizers.rules import Rule, check_keras_arguments
from keras_nfnet.utils import arguments
from keras_nfnet.utils.arguments import boolean, not_negative, probability
from keras_nfnet.utils.types import Rate, Tensor, Which


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SGDAGC(ClippedOptimizer, keras.optimizers.Optimizer):
    """SGD with AGC, coupled weight decay and Nesterov momentum.

    One step, in this order: sum the gradients over replicas (Keras does),
    clip each unit, add `weight_decay * w`, then `m = momentum * m + g` and
    `w -= learning_rate * (g + momentum * m)`. A step whose gradient holds a
    value that is not finite, or one beyond 1e18 where it is not clipped,
    changes no weight, only the step count.

    NOTE: Keras's own SGD keeps the learning rate inside its velocity and
    decouples weight decay; under a schedule that is another optimizer.

    The units of a kernel are the output channels of the layer that owns it,
    found among the layers that are alive when the optimizer is built: also
    of depthwise, separable and transposed convolutions, `EinsumDense` and
    the attention layers made of it. A layer of your own may say
    `self.unit_axes = {"kernel": (0, 1)}`, the axes summed over in one unit,
    by the name of the variable; otherwise, and where no layer owns a
    variable, the units are the last axis. In an `Embedding` that is a
    column, as in a dense layer on one-hot vectors. A bias, gain or other
    vector is one unit.

    Args:
        learning_rate: A number that is 0 or more, or a Keras schedule of
            the optimizer steps, of which one takes
            `gradient_accumulation_steps` batches.
        momentum: In [0, 1).
        nesterov: Whether momentum looks ahead.
        weight_decay: Coupled decay, 0 or more, added after clipping.
            Vectors and scalars, such as `bias`, `gain`, `gamma` and `beta`,
            never decay.
        clipping: Largest ratio of gradient norm to parameter norm, λ, above
            0; or `None` for no clipping.
        eps: Floor of the parameter norm, above 0.
        exclude_from_clipping: What is not clipped: variables, path endings
            (`"head/kernel"`), a list of these, a registered function from
            variable to bool, or `None`. A rule must name a trainable
            variable. Defaults to `"classifier"`, the kernel of a dense
            layer or 1x1 convolution that is the last layer with a kernel
            before an output of the model, which must be functional or
            sequential.
        exclude_from_decay: What does not decay either, likewise.
        ema_decay: Decay d, in (0, 1), of a moving average of the weights,
            kept beside them and never written over them (see
            `keras_nfnet.ema_model`); after t steps it is
            `min(d, (1 + t) / (10 + t))`. Skipped steps do not count.
            `None` for no average; the paper's is 0.99999.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`, without the clipping
            arguments, which make no sense together with AGC.

    Raises:
        ValueError: On values out of range, `clipnorm` and its like, or
            `use_ema` beside `ema_decay`; when built, on a rule that names
            no variable; when saved, on a rule that could not be loaded.

    Example:

    >>> optimizer = keras_nfnet.SGDAGC(0.1, nesterov=False, weight_decay=0)
    >>> w = keras.Variable([[3.0], [4.0]])  # norm 5
    >>> g = keras.ops.convert_to_tensor([[30.0], [40.0]])  # clipped to 0.05
    >>> optimizer.apply([g], [w])
    >>> print(np.round(w, 4))
    [[2.997]
     [3.996]]

    Reference: arXiv:2102.06171, section 4 and appendix A.
    """

    def __init__(
        self,
        learning_rate: Rate,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float | None = 2e-5,
        clipping: float | None = 0.01,
        eps: float = 1e-3,
        exclude_from_clipping: Which | None = CLASSIFIER,
        exclude_from_decay: Which | None = None,
        ema_decay: float | None = None,
        name: str = "sgd_agc",
        **kwargs: Any,
    ) -> None:
        check_keras_arguments(kwargs)
        rate = arguments.learning_rate(learning_rate)
        super().__init__(rate, name=name, **kwargs)
        self.setup_agc(clipping, eps, exclude_from_clipping, ema_decay)
        self.momentum = probability("momentum", momentum)
        self.nesterov = boolean("nesterov", nesterov)
        self.weight_decay = not_negative(
            "weight_decay", weight_decay, optional=True
        )
        self._not_decayed = Rule("exclude_from_decay", exclude_from_decay)

    def build(self, variables):
        if self.built:
            return
        not_decayed = self._not_decayed.names(variables)
        super().build(variables)
        self._is_decayed = [
            bool(self.weight_decay)
            and self._use_weight_decay(variable)
            and not (is_vector or is_named)
            for variable, is_vector, is_named in zip(
                variables, self._is_vector, not_decayed, strict=True
            )
        ]
        self.momentums = (
            self.add_optimizer_variables(variables, "momentum")
            if self.momentum
            else []
        )

    def clipped_step(
        self,
        gradient: Tensor,
        variable: Any,
        learning_rate: Tensor,
        index: int,
    ) -> None:
        def number(name, value, otherwise):
            # One that changes nothing where the step is to be skipped: the
            # gradient is 0 there. To choose between numbers is cheaper than
            # between the values of every variable, as `assign` does.
            return self.number_if_finite(name, value, otherwise, variable.dtype)

        plain = super(ClippedOptimizer, self)
        rate = number("learning_rate", learning_rate, 0)
        if self._is_decayed[index]:
            decay = number("weight_decay", self.weight_decay, 0)
            gradient = gradient + ops.multiply(variable, decay)
        if not self.momentum:
            plain.assign_sub(variable, gradient * rate)
            return
        momentum = number("momentum", self.momentum, 1)
        velocity = ops.multiply(self.momentums[index], momentum) + gradient
        plain.assign(self.momentums[index], velocity)
        step = gradient + momentum * velocity if self.nesterov else velocity
        plain.assign_sub(variable, step * rate)

    def get_config(self):
        config = super().get_config()
        config.update(
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            exclude_from_decay=self._not_decayed.config(),
        )
        return config
