"""What every optimizer with AGC shares: where it clips and what it counts.

Keras sums the gradients over replicas, unscales and accumulates them before
it calls `update_step`, and nowhere else is the gradient of the whole batch
at hand. So everything here happens in `update_step`.
"""

import keras
from keras import ops

from keras_nfnet.optimizers.clipping import (
    check_clipping,
    clip_units,
    units_of,
)

# The classifier's kernel is never clipped; arXiv:2102.06171, section 4.1.
NOT_CLIPPED = ("predictions/kernel",)
KERAS_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


class ClippedOptimizer:
    """Mixin of Keras optimizers: AGC, a guard, and an average of weights.

    One step: the gradient of the whole batch is checked (one that is not
    finite changes nothing), clipped unit by unit, and handed to
    `clipped_step`, where the optimizer itself is; then the average of the
    weights follows, if there is one.
    """

    def setup_agc(
        self,
        clipping,
        eps,
        exclude_from_clipping,
        ema_decay,
    ):
        """Checks and stores the arguments; call after `super().__init__`."""
        if clipping is not None:
            check_clipping(clipping, eps)
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(
                "`ema_decay` must be in (0, 1), or `None` for no average. "
                f"Received: ema_decay={ema_decay!r}"
            )
        self.clipping = clipping
        self.eps = eps
        self.exclude_from_clipping = as_rule(exclude_from_clipping)
        self.ema_decay = ema_decay
        self._finite = None

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # Inside update_step a variable is the backend's own, without a
        # path: remember by index.
        self._is_clipped = [
            self.clipping is not None
            and not matches(self.exclude_from_clipping, variable)
            for variable in variables
        ]
        self._paths = [variable.path for variable in variables]
        self._units = [units_of(variable.shape) for variable in variables]
        self._clipped_units = [
            self.add_variable((), dtype="float32", name=f"clipped_units_{i}")
            if is_clipped
            else None
            for i, is_clipped in enumerate(self._is_clipped)
        ]
        self._averages = (
            self.add_optimizer_variables(variables, "ema")
            if self.ema_decay
            else []
        )

    def apply(self, grads, trainable_variables=None):
        super().apply(_spread_non_finite(grads), trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        # A sum is finite only if all its terms are.
        finite = ops.isfinite(ops.sum(ops.cast(gradient, "float32")))
        before = ops.copy(variable) if self._averages else None
        if self._is_clipped[index]:
            gradient, count = clip_units(
                gradient, variable, self.clipping, self.eps
            )
            # NaN says that the step was skipped.
            count = ops.where(finite, count, ops.full_like(count, float("nan")))
            self.assign(self._clipped_units[index], count)
        self._finite = finite
        try:
            self.clipped_step(gradient, variable, learning_rate, index)
            if self._averages:
                self._average(variable, before, index)
        finally:
            self._finite = None

    def clipped_step(self, gradient, variable, learning_rate, index):
        """The optimizer itself, on the clipped gradient of one variable."""
        raise NotImplementedError

    def _average(self, variable, before, index):
        # t counts from 0; the average starts as the weights before the
        # first step. min(d, (1 + t) / (10 + t)): the authors' ema_update.
        t = ops.cast(self.iterations, "float32")
        decay = ops.minimum(self.ema_decay, (1.0 + t) / (10.0 + t))
        decay = ops.cast(decay, variable.dtype)
        average = self._averages[index]
        previous = ops.where(t == 0, before, ops.convert_to_tensor(average))
        value = decay * previous + (1 - decay) * ops.convert_to_tensor(variable)
        self.assign(average, value)

    # While a step is made, these keep a gradient that is not finite from
    # the weights and from the optimizer's own variables.
    def assign(self, variable, value):
        if self._finite is not None:
            old = ops.convert_to_tensor(variable)
            value = ops.where(self._finite, ops.cast(value, old.dtype), old)
        super().assign(variable, value)

    def assign_add(self, variable, value):
        super().assign_add(variable, self._or_zero(value))

    def assign_sub(self, variable, value):
        super().assign_sub(variable, self._or_zero(value))

    def _or_zero(self, value):
        if self._finite is None:
            return value
        value = ops.convert_to_tensor(value)
        return ops.where(self._finite, value, ops.zeros_like(value))

    def _apply_weight_decay(self, variables):
        """Keras would decay here, before AGC has read the weights."""

    @property
    def averages(self):
        """Moving averages by the path of the variable they follow."""
        if not self.built or not self._averages:
            return {}
        return dict(zip(self._paths, self._averages, strict=True))

    def clipped_fraction(self, select=None):
        """Fraction of units that the last step clipped.

        Args:
            select: A function from a variable's path to whether it counts;
                `None` for all that are clipped at all.

        Returns:
            A float32 scalar; NaN if the gradient was not finite, in which
            case the step changed nothing.
        """
        chosen = [
            (count, units)
            for count, units, path in zip(
                self._clipped_units, self._units, self._paths, strict=True
            )
            if count is not None and (select is None or select(path))
        ]
        if not chosen:
            return ops.zeros((), "float32")
        total = sum(ops.convert_to_tensor(count) for count, _ in chosen)
        return total / sum(units for _, units in chosen)

    def agc_config(self):
        """This mixin's part of `get_config`."""
        return {
            "clipping": self.clipping,
            "eps": self.eps,
            "exclude_from_clipping": rule_config(self.exclude_from_clipping),
            "ema_decay": self.ema_decay,
        }

    def get_config(self):
        config = super().get_config()
        for argument in KERAS_CLIPPING:
            config.pop(argument, None)
        return {**config, **self.agc_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("exclude_from_clipping", "exclude_from_decay"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects)


def refuse_keras_clipping(arguments):
    """Refuses Keras's own clipping arguments."""
    for argument in KERAS_CLIPPING:
        if arguments.get(argument) is not None:
            raise ValueError(
                f"`{argument}` makes no sense together with adaptive "
                "gradient clipping; leave it out, or set `clipping`. "
                f"Received: {argument}={arguments[argument]!r}"
            )


def as_rule(rule):
    """A rule that names variables, in a form that can be saved."""
    if rule is None:
        return []
    if callable(rule):
        return rule
    if isinstance(rule, str) or hasattr(rule, "path"):
        rule = [rule]
    return [entry if isinstance(entry, str) else entry.path for entry in rule]


def rule_config(rule):
    if callable(rule):
        return keras.saving.serialize_keras_object(rule)
    return list(rule)


def matches(rule, variable):
    """Whether a rule names a variable: by function, or end of its path."""
    if callable(rule):
        return bool(rule(variable))
    return any(
        variable.path == entry or variable.path.endswith(f"/{entry}")
        for entry in rule
    )


def _spread_non_finite(grads):
    """Makes all gradients NaN if one value of one is not finite.

    So the step is skipped as a whole, and on all replicas, since the sum
    over replicas keeps a NaN.
    """
    grads = [
        gradient if gradient is None else ops.convert_to_tensor(gradient)
        for gradient in grads
    ]
    present = [gradient for gradient in grads if gradient is not None]
    if not present:
        return grads
    total = sum(ops.sum(ops.cast(g, "float32")) for g in present)
    poison = total * 0.0
    return [
        None
        if gradient is None
        else gradient + ops.cast(poison, gradient.dtype)
        for gradient in grads
    ]
