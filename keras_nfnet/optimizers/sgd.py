"""SGD with adaptive gradient clipping, as the paper trains."""

import keras
from keras import ops

from keras_nfnet.optimizers.clipping import adaptive_clip, check_clipping

# The classifier's kernel is never clipped; gains and biases never decay.
# arXiv:2102.06171, section 4.1.
NOT_CLIPPED = ("predictions/kernel",)
NOT_DECAYED = ("bias", "gain", "skip_gain")


@keras.saving.register_keras_serializable(package="keras_nfnet")
class SGDAGC(keras.optimizers.Optimizer):
    """SGD with AGC, coupled weight decay and Nesterov momentum.

    One step, in this order: sum the gradients over replicas (Keras does),
    clip each unit, add `weight_decay * w`, then `m = momentum * m + g` and
    `w -= learning_rate * (g + momentum * m)`.

    NOTE: Keras's own SGD keeps the learning rate inside its velocity and
    decouples weight decay; under a schedule that is another optimizer.

    Args:
        learning_rate: A float or a schedule.
        momentum: In [0, 1).
        nesterov: Whether momentum looks ahead.
        weight_decay: Coupled decay, added after clipping; 0 for none.
        clipping: Largest ratio of gradient norm to parameter norm, λ; or
            `None` for no clipping.
        eps: Floor of the parameter norm.
        exclude_from_clipping: What is not clipped: a list of variables or
            of path endings (`"predictions/kernel"`, `"bias"`), or a
            registered function from variable to bool. Defaults to the
            kernel of the layer `predictions`, the classifier of the models
            of this package.
        exclude_from_decay: What does not decay, likewise. Defaults to
            every `bias`, `gain` and `skip_gain`.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`, without the clipping
            arguments, which make no sense together with AGC.

    Raises:
        ValueError: On values out of range, or `clipnorm` and its like.

    Example:

    >>> optimizer = SGDAGC(learning_rate=0.1, clipping=0.01)

    Reference: arXiv:2102.06171, sections 3 and 4.
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
        name="sgd_agc",
        **kwargs,
    ):
        for argument in ("clipnorm", "clipvalue", "global_clipnorm"):
            if kwargs.get(argument) is not None:
                raise ValueError(
                    f"`{argument}` makes no sense together with adaptive "
                    "gradient clipping; leave it out, or set `clipping`. "
                    f"Received: {argument}={kwargs[argument]!r}"
                )
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must be in [0, 1). Received: momentum={momentum!r}"
            )
        if weight_decay is not None and not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must not be negative. Received: "
                f"weight_decay={weight_decay!r}"
            )
        if clipping is not None:
            check_clipping(clipping, eps)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.clipping = clipping
        self.eps = eps
        self.exclude_from_clipping = _serializable(exclude_from_clipping)
        self.exclude_from_decay = _serializable(exclude_from_decay)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # Inside update_step a variable is the backend's own, without a
        # path: remember by index.
        self._is_clipped = [
            self.clipping is not None
            and not _matches(self.exclude_from_clipping, variable)
            for variable in variables
        ]
        self._is_decayed = [
            bool(self.weight_decay)
            and self._use_weight_decay(variable)
            and not _matches(self.exclude_from_decay, variable)
            for variable in variables
        ]
        self.momentums = (
            self.add_optimizer_variables(variables, "momentum")
            if self.momentum
            else []
        )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self._is_clipped[index]:
            gradient = adaptive_clip(
                gradient, variable, self.clipping, self.eps
            )
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

    def _apply_weight_decay(self, variables):
        """Keras would decay here, before the gradients are summed."""

    def get_config(self):
        config = super().get_config()
        for argument in ("clipnorm", "clipvalue", "global_clipnorm"):
            config.pop(argument, None)
        config.update(
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            clipping=self.clipping,
            eps=self.eps,
            exclude_from_clipping=_config(self.exclude_from_clipping),
            exclude_from_decay=_config(self.exclude_from_decay),
        )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("exclude_from_clipping", "exclude_from_decay"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects)


def _serializable(rule):
    if rule is None:
        return []
    if callable(rule):
        return rule
    if isinstance(rule, str):
        rule = [rule]
    return [entry if isinstance(entry, str) else entry.path for entry in rule]


def _config(rule):
    if callable(rule):
        return keras.saving.serialize_keras_object(rule)
    return list(rule)


def _matches(rule, variable):
    """Whether a rule names a variable: by function, or end of its path."""
    if callable(rule):
        return bool(rule(variable))
    return any(
        variable.path == entry or variable.path.endswith(f"/{entry}")
        for entry in rule
    )
