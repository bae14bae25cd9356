"""The training step where variables hold the state: TensorFlow and PyTorch."""

import keras
from keras import ops, tree

from keras_nfnet.models.sam import share_of, uphill


class StatefulStep:
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    def train_step(self, data):
        self._refuse_what_cannot_be()
        if self._sam_rho is None:
            logs = super().train_step(data)
        else:
            logs = self.sam_step(data)
        return self.with_own_logs(logs)

    def sam_step(self, data):
        """Keras's own step, but for where the gradient is taken.

        What it reports and keeps (loss, metrics, statistics, random state)
        is that of the pass over the whole batch: at the weights, or, where
        that one sees a fraction of the batch, uphill.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        values = [variable.value for variable in variables]
        fraction = self._sam_fraction
        kept, gradients = self._gradients_at(
            values, *share_of((x, y, sample_weight), fraction)
        )
        uphill_values = uphill(values, self._summed(gradients), self._sam_rho)
        # The first pass changed no variable, so that both start from the
        # same random state.
        last, gradients = self._gradients_at(uphill_values, x, y, sample_weight)
        if fraction < 1:
            kept = last
        loss, y_pred, updates = kept
        for variable, value in updates:
            variable.assign(value)
        examples = next(v for v in tree.flatten(x) if v is not None)
        # A loss is divided by the replicas for the sum; not for the report.
        self._loss_tracker.update_state(
            loss * self._replicas(), sample_weight=ops.shape(examples)[0]
        )
        self._apply(gradients, variables)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _gradients_at(self, values, x, y, sample_weight):
        """One pass, with `values` in the place of the trainable variables.

        Returns:
            `(loss, predictions, updates of other variables)`, and the
            gradients. No variable changes.
        """

        def scaled_loss(values):
            mapping = list(zip(self.trainable_variables, values, strict=True))
            with keras.StatelessScope(
                state_mapping=mapping, collect_losses=True
            ) as scope:
                y_pred = self(x, training=True)
                loss = self._compute_loss(
                    x=x,
                    y=y,
                    y_pred=y_pred,
                    sample_weight=sample_weight,
                    training=True,
                )
                scaled = self.optimizer.scale_loss(loss)
            others = [*self.non_trainable_variables, *self.metrics_variables]
            updates = [
                (variable, value)
                for variable in others
                if (value := scope.get_current_value(variable)) is not None
            ]
            return scaled, (loss, y_pred, updates)

        return self._differentiate(scaled_loss, values)

    def _summed(self, gradients):
        """Gradients summed over replicas."""
        return gradients

    def _replicas(self):
        return 1
