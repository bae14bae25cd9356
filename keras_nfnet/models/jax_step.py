"""The training step on the JAX backend, under `keras.distribution` too.

There a batch may be spread over devices, and gradients are those of the
whole batch all the same: JAX puts the sums in.
"""

import jax
import keras

from keras_nfnet.models.sam import share_of, uphill


class TrainingStep:
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    def train_step(self, state, data):
        self._refuse_what_cannot_be()
        if self._sam_rho is None:
            logs, state = super().train_step(state, data)
        else:
            logs, state = self.sam_step(state, data)
        _, _, optimizer_variables, _ = state
        mapping = list(
            zip(self.optimizer.variables, optimizer_variables, strict=True)
        )
        with keras.StatelessScope(state_mapping=mapping):
            return self.with_own_logs(logs), state

    def sam_step(self, state, data):
        """Keras's own step, but for where the gradient is taken.

        What it reports and keeps (loss, metrics, statistics, random state)
        is that of the pass over the whole batch: at the weights, or, where
        that one sees a fraction of the batch, uphill.
        """
        trainable, non_trainable, optimizer_variables, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradients_of = jax.value_and_grad(
            self.compute_loss_and_updates, has_aux=True
        )

        def gradients_at(values, x, y, sample_weight):
            # Both passes start from the same random state.
            (_, aux), gradients = gradients_of(
                values,
                non_trainable,
                metrics,
                x,
                y,
                sample_weight,
                training=True,
                optimizer_variables=optimizer_variables,
            )
            return aux, gradients

        fraction = self._sam_fraction
        kept, gradients = gradients_at(
            trainable,
            *share_of((x, y, sample_weight), fraction, _data_shards()),
        )
        last, gradients = gradients_at(
            uphill(trainable, gradients, self._sam_rho), x, y, sample_weight
        )
        if fraction < 1:
            kept = last
        loss, y_pred, non_trainable, metrics = kept
        trainable, optimizer_variables = self.optimizer.stateless_apply(
            optimizer_variables, gradients, trainable
        )
        logs, metrics = self._update_metrics_variables(
            metrics, loss, x, y, y_pred, sample_weight
        )
        return logs, (trainable, non_trainable, optimizer_variables, metrics)

    def refuse_what_the_engine_cannot(self):
        """JAX computes what is asked for on one device or many."""


def _data_shards():
    """Devices, or groups of devices, that a batch is spread over."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    axis = mesh.axis_names.index(distribution.batch_dim_name)
    return mesh.shape[axis]
