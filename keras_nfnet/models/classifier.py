"""The model class that every builder returns, with its training step."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetModel(keras.Model):
    """A functional Keras model that trains as the papers train.

    Build one with `keras_nfnet.NFNet` or a variant such as
    `keras_nfnet.NFNetF0`. Its `train_step` differs from Keras's own in what
    it reports: with the loss and the metrics comes `learning_rate`, the
    rate of the step just made. Adaptive gradient clipping lives in the
    optimizer (`keras_nfnet.SGDAGC`), which is the only place that sees the
    gradient summed over replicas.

    Reference: arXiv:2102.06171.
    """

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            logs, state = super().train_step(state, data)
            # The optimizer's variables come second from the end of the
            # state; its first is the step count.
            optimizer_variables = state[2]
            mapping = list(
                zip(self.optimizer.variables, optimizer_variables, strict=True)
            )
            with keras.StatelessScope(state_mapping=mapping):
                rate = self._learning_rate_of_last_step()
            return {**logs, "learning_rate": rate}, state

    else:

        def train_step(self, data):
            logs = super().train_step(data)
            return {**logs, "learning_rate": self._learning_rate_of_last_step()}

    def _learning_rate_of_last_step(self):
        optimizer = self.optimizer
        # mixed_float16 wraps the optimizer, which then holds the schedule.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        schedule = getattr(optimizer, "_learning_rate", None)
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            step = ops.maximum(optimizer.iterations - 1, 0)
            return ops.cast(schedule(step), "float32")
        return ops.cast(optimizer.learning_rate, "float32")
