"""SGD with adaptive gradient clipping, as the paper trains."""

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import (
    NOT_CLIPPED,
    ClippedOptimizer,
    as_rule,
    matches,
    refuse_keras_clipping,
    rule_config,
)

# Gains and biases never decay; arXiv:2102.06171, appendix A.
NOT_DECAYED = ("bias", "gain", "skip_gain")


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SGDAGC(ClippedOptimizer, keras.optimizers.Optimizer):
    """SGD with AGC, coupled weight decay and Nesterov momentum.

    One step, in this order: sum the gradients over replicas (Keras does),
    clip each unit, add `weight_decay * w`, then `m = momentum * m + g` and
    `w -= learning_rate * (g + momentum * m)`. A step whose gradient holds a
    value that is not finite changes no weight, only the step count.

    NOTE: Keras's own SGD keeps the learning rate inside its velocity and
    decouples weight decay; under a schedule that is another optimizer.

    Args:
        learning_rate: A float, or a Keras schedule of the steps made.
        momentum: In [0, 1).
        nesterov: Whether momentum looks ahead.
        weight_decay: Coupled decay, 0 or more, added after clipping.
        clipping: Largest ratio of gradient norm to parameter norm, λ, above
            0; or `None` for no clipping.
        eps: Floor of the parameter norm, above 0.
        exclude_from_clipping: What is not clipped: a list of variables or
            of path endings (`"predictions/kernel"`, `"bias"`), or a
            registered function from variable to bool. Defaults to the
            kernel of the layer `predictions`, the classifier of the models
            of this package.
        exclude_from_decay: What does not decay, likewise. Defaults to
            every `bias`, `gain` and `skip_gain`.
        ema_decay: Decay d, in (0, 1), of a moving average of the weights,
            kept beside them and never written over them (see
            `keras_nfnet.ema_model`); after t steps it is
            `min(d, (1 + t) / (10 + t))`. `None` for no average; the paper's
            is 0.99999.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`, without the clipping
            arguments, which make no sense together with AGC.

    Raises:
        ValueError: On values out of range, or `clipnorm` and its like.

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
        learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=2e-5,
        clipping=0.01,
        eps=1e-3,
        exclude_from_clipping=NOT_CLIPPED,
        exclude_from_decay=NOT_DECAYED,
        ema_decay=None,
        name="sgd_agc",
        **kwargs,
    ):
        refuse_keras_clipping(kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must be in [0, 1). Received: momentum={momentum!r}"
            )
        if weight_decay is not None and not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must not be negative. Received: "
                f"weight_decay={weight_decay!r}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.setup_agc(clipping, eps, exclude_from_clipping, ema_decay)
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.exclude_from_decay = as_rule(exclude_from_decay)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._is_decayed = [
            bool(self.weight_decay)
            and self._use_weight_decay(variable)
            and not matches(self.exclude_from_decay, variable)
            for variable in variables
        ]
        self.momentums = (
            self.add_optimizer_variables(variables, "momentum")
            if self.momentum
            else []
        )

    def clipped_step(self, gradient, variable, learning_rate, index):
        rate = ops.cast(learning_rate, variable.dtype)
        if self._is_decayed[index]:
            gradient = gradient + ops.multiply(
                variable, ops.cast(self.weight_decay, variable.dtype)
            )
        if not self.momentum:
            self.assign_sub(variable, gradient * rate)
            return
        momentum = ops.cast(self.momentum, variable.dtype)
        velocity = self.momentums[index]
        new_velocity = ops.add(ops.multiply(velocity, momentum), gradient)
        self.assign(velocity, new_velocity)
        step = (
            gradient + momentum * new_velocity
            if self.nesterov
            else new_velocity
        )
        self.assign_sub(variable, step * rate)

    def get_config(self):
        config = super().get_config()
        config.update(
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            exclude_from_decay=rule_config(self.exclude_from_decay),
        )
        return config
