"""The training step on the TensorFlow backend, under `tf.distribute` too."""

import keras
import tensorflow as tf
from keras import ops

from keras_nfnet.models.sam import sam_perturbation


class TrainingStep:
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    def train_step(self, data):
        if self._sam_rho is None:
            logs = super().train_step(data)
        else:
            logs = self.sam_step(data)
        return {**logs, **self.step_logs()}

    def sam_step(self, data):
        """One step whose gradient is taken uphill."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        values = [
            tf.convert_to_tensor(variable.value) for variable in variables
        ]
        # Both passes start from the same random state; the second's is kept.
        loss, y_pred, gradients, _ = self._gradients_at(
            values, x, y, sample_weight
        )
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            gradients = _all_reduce(context, gradients)
        uphill = [
            value if step is None else value + step
            for value, step in zip(
                values,
                sam_perturbation(gradients, self._sam_rho),
                strict=True,
            )
        ]
        _, _, gradients, updates = self._gradients_at(
            uphill, x, y, sample_weight
        )
        for variable, value in updates:
            variable.assign(value)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        # A loss is divided by the replicas for the sum; not for the report.
        replicas = context.num_replicas_in_sync
        self._loss_tracker.update_state(
            loss * replicas, sample_weight=ops.shape(y_pred)[0]
        )
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _gradients_at(self, values, x, y, sample_weight):
        """Loss, predictions, gradients and updates of other variables.

        No variable changes: `values` stand in for the trainable ones.
        """
        mapping = list(zip(self.trainable_variables, values, strict=True))
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope(state_mapping=mapping) as scope:
                y_pred = self(x, training=True)
                loss = self.compute_loss(
                    x=x,
                    y=y,
                    y_pred=y_pred,
                    sample_weight=sample_weight,
                    training=True,
                )
            scaled = self.optimizer.scale_loss(loss)
        updates = []
        for variable in self.non_trainable_variables:
            value = scope.get_current_value(variable)
            if value is not None:
                updates.append((variable, value))
        return loss, y_pred, tape.gradient(scaled, values), updates

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras would take the mean of a pair of images and labels over the
        # workers, which fails; it needs no more than shapes.
        if iterator is not None and self._has_workers():
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda value: (
                        self.distribute_strategy.experimental_local_results(
                            value
                        )[0]
                    ),
                    next(batches),
                )
                break
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _has_workers(self):
        return isinstance(
            self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
        )

    def make_train_function(self, force=False):
        return self._for_workers(
            "train_step", super().make_train_function, force
        )

    def make_test_function(self, force=False):
        return self._for_workers("test_step", super().make_test_function, force)

    def _for_workers(self, name, make, force):
        """Lets `fit` and `evaluate` run under several workers.

        NOTE: Keras 3 averages a step's logs over the workers along axis 0,
        which scalars do not have, and fails. Here they get one.
        """
        if not self._has_workers():
            return make(force)
        step = getattr(self, name)

        def with_axis(data):
            return {key: value[None] for key, value in step(data).items()}

        # Keras reads the step from the attribute.
        setattr(self, name, with_axis)
        try:
            return make(force)
        finally:
            delattr(self, name)

    def refuse_what_the_engine_cannot(self):
        strategy = tf.distribute.get_strategy()
        if not tf.distribute.has_strategy():
            strategy = self.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if replicas < 2:
            return
        engine = type(strategy).__name__
        optimizer = self.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"{engine} with mixed_float16 cannot be: Keras looks for "
                "infinities on the first replica only, and another's would "
                "reach the weights. Use mixed_bfloat16. Received: "
                f"optimizer={type(optimizer).__name__} on {replicas} replicas"
            )
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                f"{engine} cannot accumulate gradients. Use more replicas, a "
                "smaller batch with a smaller learning rate, or one device. "
                "Received: gradient_accumulation_steps="
                f"{optimizer.gradient_accumulation_steps}"
            )
        if isinstance(strategy, tf.distribute.TPUStrategy):
            return
        if self.steps_per_execution > 1:
            raise ValueError(
                f"{engine} cannot run several steps at once. Use "
                "`steps_per_execution=1`. Received: "
                f"steps_per_execution={self.steps_per_execution}"
            )
        if self.jit_compile:
            raise ValueError(
                f"{engine} cannot compile with XLA. Use `jit_compile=False`. "
                f"Received: jit_compile={self.jit_compile!r}"
            )


def _all_reduce(context, gradients):
    present = [gradient for gradient in gradients if gradient is not None]
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [
        None if gradient is None else next(summed) for gradient in gradients
    ]
