"""What every optimizer with AGC shares: where it clips and what it counts.

Keras unscales and accumulates the gradients before `_backend_update_step`,
and sums them over replicas there, before it calls `update_step` for each
variable. With one replica there is nothing to sum: all gradients are clipped
at once, which takes fewer passes over them. With several each is clipped in
`update_step`, where alone the gradient of the whole batch is at hand.
"""

import keras
from keras import ops

from keras_nfnet.optimizers.clipping import clip_all, clip_units
from keras_nfnet.optimizers.head import head_kernels
from keras_nfnet.optimizers.owners import (
    axes_of_unit,
    is_vector,
    live_layers,
    owners_of,
)
from keras_nfnet.optimizers.reports import Reports
from keras_nfnet.optimizers.rules import KERAS_CLIPPING, Rule
from keras_nfnet.utils.arguments import number, positive, text

# The default of `exclude_from_clipping`: the classifier's kernel.
CLASSIFIER = "classifier"
# Squares are finite up to 1.8e19 in float32.
_LARGEST_UNCLIPPED = 1e18


class ClippedOptimizer(Reports):
    """Mixin of Keras optimizers: AGC, a guard, and an average of weights.

    One step: the gradient of the whole batch is checked (one that is not
    finite, or beyond 1e18 where it is not clipped, changes nothing), clipped
    unit by unit, and handed to `clipped_step`, where the optimizer itself
    is; then the average of the weights follows, if there is one.
    """

    # Whether the gradient of the step being made is finite, `None` between
    # steps; and numbers that all variables share.
    _finite = None
    _numbers = {}

    def setup_agc(self, clipping, eps, exclude_from_clipping, ema_decay):
        """Checks and stores the arguments; call after `super().__init__`."""
        self.clipping = positive("clipping", clipping, optional=True)
        self.eps = positive("eps", eps)
        self.ema_decay = number(
            "ema_decay", ema_decay, lambda v: 0 < v < 1, "in (0, 1)", True
        )
        if self.use_ema and self.ema_decay:
            raise ValueError(
                "`use_ema` and `ema_decay` are two averages of the weights; "
                "set one. Received: "
                f"use_ema={self.use_ema}, ema_decay={ema_decay!r}"
            )
        # `None` stands for the classifier.
        self._not_clipped = None
        if not _is_classifier(exclude_from_clipping):
            self._not_clipped = Rule(
                "exclude_from_clipping", exclude_from_clipping
            )
        text("name", self.name)

    def build(self, variables):
        if self.built:
            return
        # Inside update_step a variable is the backend's own, without a
        # path: remember by index.
        layers = live_layers()
        owners = owners_of(variables, layers)
        self._is_vector = [
            is_vector(variable, owner)
            for variable, owner in zip(variables, owners, strict=True)
        ]
        self._is_clipped = self._which_are_clipped(variables, layers)
        self._unit_axes = [
            axes_of_unit(variable, owner) if is_clipped else None
            for variable, owner, is_clipped in zip(
                variables, owners, self._is_clipped, strict=True
            )
        ]
        super().build(variables)
        self._paths = [variable.path for variable in variables]
        self._steps_made = self.add_variable((), dtype="int", name="steps_made")
        self._rate_used = self.add_variable(
            (),
            dtype="float32",
            aggregation="only_first_replica",
            name="learning_rate_used",
        )
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

    def _which_are_clipped(self, variables, layers):
        if self.clipping is None:
            return [False] * len(variables)
        if self._not_clipped is None:
            head = {id(v) for v in head_kernels(self, variables, layers)}
            return [id(variable) not in head for variable in variables]
        return [not named for named in self._not_clipped.names(variables)]

    @property
    def learning_rate(self):
        """The rate of the next step; a schedule counts optimizer steps.

        NOTE: Keras's own optimizers hand a schedule the number of batches,
        which counts each part of an accumulated one.
        """
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    @property
    def iterations(self):
        """Optimizer steps; within one, those that were not skipped.

        The optimizers correct the bias of their moments by it, and a
        skipped step leaves the moments alone.
        """
        return super().iterations if self._finite is None else self._steps_made

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        grads = list(map(_like, grads, trainable_variables))
        step = self._poisoned if _replicas() > 1 else self._clipped
        grads, finite = step(grads, trainable_variables)
        self._rate_used.assign(ops.cast(learning_rate, "float32"))
        self._last = self._get_variable_index(trainable_variables[-1])
        self._finite, self._numbers = finite, {}
        try:
            super()._backend_update_step(
                grads, trainable_variables, learning_rate
            )
        finally:
            self._finite, self._numbers = None, {}

    def _poisoned(self, grads, variables):
        """Gradients to be summed over replicas: NaN if one cannot be used.

        The whole step is then skipped, on all replicas: a NaN survives the
        sum.
        """
        finite = ops.all(
            ops.stack(
                [
                    self._can_be_used(gradient, variable)
                    for gradient, variable in zip(grads, variables, strict=True)
                ]
            )
        )
        poison = ops.where(finite, 0.0, float("nan"))
        return [g + ops.cast(poison, g.dtype) for g in grads], finite

    def _clipped(self, grads, variables):
        """Gradients of the whole batch, clipped; all 0 if one is not finite."""
        indices = [self._get_variable_index(variable) for variable in variables]
        chosen = [n for n, i in enumerate(indices) if self._is_clipped[i]]
        others = [n for n in range(len(indices)) if n not in set(chosen)]
        usable = True
        if others:
            usable = ops.all(
                ops.stack(
                    [self._can_be_used(grads[n], variables[n]) for n in others]
                )
            )
        clipped, counts, finite = clip_all(
            [grads[n] for n in chosen],
            [variables[n] for n in chosen],
            self.clipping,
            self.eps,
            [self._unit_axes[indices[n]] for n in chosen],
            usable,
        )
        grads = list(grads)
        for n, gradient, count in zip(chosen, clipped, counts, strict=True):
            grads[n] = gradient
            super().assign(self._clipped_units[indices[n]], count)
        for n in others:
            zero = ops.zeros((), grads[n].dtype)
            grads[n] = ops.where(finite, grads[n], zero)
        return grads, finite

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # One replica has nothing to sum. TensorFlow would register a gradient
        # for the sum, and with it keep the graph of the step for good.
        if _replicas() == 1:
            return list(grads_and_vars)
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _can_be_used(self, gradient, variable):
        """Whether a step can be made of a gradient, as a boolean tensor.

        NOTE: one that is not clipped has a bound as well. The squares that
        most optimizers take are infinite beyond it, and their moments then
        stay so.
        """
        # What has the size on each replica overflows in the sum.
        if _replicas() > 1:
            gradient = gradient * _replicas()
        if self._is_clipped[self._get_variable_index(variable)]:
            return ops.all(ops.isfinite(gradient))
        magnitude = ops.abs(ops.cast(gradient, "float32"))
        return ops.all(magnitude <= _LARGEST_UNCLIPPED)  # False for NaN.

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        outer = self._finite, self._numbers
        # Else the gradient has been summed over replicas since, or this was
        # called by itself.
        if self._finite is None or _replicas() > 1:
            gradient = self._clip(gradient, variable, index)
        try:
            average = self._averages[index] if self._averages else None
            if average is not None:
                before = self._average_before(average, variable)
            self.clipped_step(gradient, variable, learning_rate, index)
            if average is not None:
                self._follow(average, before, variable)
            if index == self._last:
                self.assign_add(self._steps_made, 1)
        finally:
            self._finite, self._numbers = outer

    def _clip(self, gradient, variable, index):
        """Clips one gradient, and finds out whether it is finite."""
        gradient = _like(gradient, variable)
        self._finite, self._numbers = ops.all(ops.isfinite(gradient)), {}
        if self._is_clipped[index]:
            gradient, count = clip_units(
                gradient,
                variable,
                self.clipping,
                self.eps,
                self._unit_axes[index],
            )
            # NaN says that the step was skipped.
            count = ops.where(self._finite, count, float("nan"))
            super().assign(self._clipped_units[index], count)
        zero = ops.zeros((), gradient.dtype)
        return ops.where(self._finite, gradient, zero)

    def clipped_step(self, gradient, variable, learning_rate, index):
        """The optimizer itself, on the clipped gradient of one variable."""
        raise NotImplementedError

    def _average_before(self, average, variable):
        """The average before this step: the weights, if it is the first."""
        is_first = self._once("first", lambda: ops.equal(self._steps_made, 0))
        return ops.where(
            is_first,
            ops.convert_to_tensor(variable),
            ops.convert_to_tensor(average),
        )

    def _follow(self, average, before, variable):
        def factors():
            # min(d, (1 + t) / (10 + t)), t steps made before this one: the
            # authors' ema_update.
            t = ops.cast(self._steps_made, "float32")
            decay = ops.minimum(self.ema_decay, (1.0 + t) / (10.0 + t))
            decay = ops.cast(decay, variable.dtype)
            return decay, 1 - decay

        decay, rest = self._once(("decay", variable.dtype), factors)
        now = ops.convert_to_tensor(variable)
        self.assign(average, decay * before + rest * now)

    # While a step is made, these keep a gradient that is not finite from
    # the weights and from the optimizer's own variables.
    def assign(self, variable, value):
        if self._finite is not None:
            old = ops.convert_to_tensor(variable)
            value = self.if_finite(ops.cast(value, old.dtype), old)
        super().assign(variable, value)

    def assign_add(self, variable, value):
        super().assign_add(variable, self.if_finite(value, 0))

    def assign_sub(self, variable, value):
        super().assign_sub(variable, self.if_finite(value, 0))

    def if_finite(self, value, otherwise):
        """`value`, or `otherwise` where this step is to be skipped."""
        if self._finite is None:
            return value
        value = ops.convert_to_tensor(value)
        return ops.where(self._finite, value, ops.cast(otherwise, value.dtype))

    def number_if_finite(self, name, value, otherwise, dtype):
        """As `if_finite`, of a number that all variables share.

        Args:
            name: What it is, such as `"momentum"`.
            value: The number.
            otherwise: What changes nothing where the step is to be skipped.
            dtype: Of the result.
        """
        dtype = keras.backend.standardize_dtype(dtype)
        return self._once(
            (name, dtype),
            lambda: self.if_finite(ops.cast(value, dtype), otherwise),
        )

    def _once(self, key, make):
        """What `make` returns, made once a step for all variables."""
        if key not in self._numbers:
            self._numbers[key] = make()
        return self._numbers[key]

    def _apply_weight_decay(self, variables):
        """Keras would decay here, before AGC has read the weights."""

    def get_config(self):
        config = super().get_config()
        for argument in KERAS_CLIPPING:
            config.pop(argument, None)
        excluded = CLASSIFIER
        if self._not_clipped is not None:
            excluded = self._not_clipped.config()
        config.update(
            clipping=self.clipping,
            eps=self.eps,
            exclude_from_clipping=excluded,
            ema_decay=self.ema_decay,
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

    def __getattr__(self, name):
        # What Keras's callback SwapEMAWeights looks for.
        if name == "_model_variables_moving_average" and self.__dict__.get(
            "ema_decay"
        ):
            raise ValueError(
                "SwapEMAWeights swaps the average of `use_ema=True`. For the "
                "average of `ema_decay` call `keras_nfnet.ema_model(model)`, "
                "which leaves the model as it is; or compile with "
                "`use_ema=True` in place of `ema_decay`. Received: "
                f"ema_decay={self.ema_decay}"
            )
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )


def _like(gradient, variable):
    """A gradient in its variable's dtype, and of its shape.

    TensorFlow does not know the shape of what a function of one's own
    returned.
    """
    gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
    if gradient.shape == tuple(variable.shape):
        return gradient
    return ops.reshape(gradient, variable.shape)


def _replicas():
    """Replicas whose gradients are summed after they are checked."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _is_classifier(rule):
    return isinstance(rule, str) and rule == CLASSIFIER
