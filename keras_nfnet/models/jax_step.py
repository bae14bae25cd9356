"""The training step on the JAX backend, under `keras.distribution` too.

There a batch may be spread over devices, and gradients are those of the
whole batch all the same: JAX puts the sums in.
"""

import jax
import keras

from keras_nfnet.models.sam import sam_perturbation


class TrainingStep:
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    def train_step(self, state, data):
        if self._sam_rho is None:
            logs, state = super().train_step(state, data)
        else:
            logs, state = self.sam_step(state, data)
        _, _, optimizer_variables, _ = state
        mapping = list(
            zip(self.optimizer.variables, optimizer_variables, strict=True)
        )
        with keras.StatelessScope(state_mapping=mapping):
            return {**logs, **self.step_logs()}, state

    def sam_step(self, state, data):
        """One step whose gradient is taken uphill."""
        trainable, non_trainable, optimizer_variables, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def gradients_at(values):
            # Both passes start from the same random state.
            return jax.value_and_grad(
                self.compute_loss_and_updates, has_aux=True
            )(
                values,
                non_trainable,
                metrics,
                x,
                y,
                sample_weight,
                training=True,
                optimizer_variables=optimizer_variables,
            )

        (_, (loss, y_pred, new_non_trainable, new_metrics)), gradients = (
            gradients_at(trainable)
        )
        uphill = [
            value + step
            for value, step in zip(
                trainable,
                sam_perturbation(gradients, self._sam_rho),
                strict=True,
            )
        ]
        _, gradients = gradients_at(uphill)
        trainable, optimizer_variables = self.optimizer.stateless_apply(
            optimizer_variables, gradients, trainable
        )
        logs, new_metrics = self._update_metrics_variables(
            new_metrics, loss, x, y, y_pred, sample_weight
        )
        return logs, (
            trainable,
            new_non_trainable,
            optimizer_variables,
            new_metrics,
        )

    def refuse_what_the_engine_cannot(self):
        """JAX computes what is asked for on one device or many."""
