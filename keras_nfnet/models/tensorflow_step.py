"""The training step on the TensorFlow backend, under `tf.distribute` too."""

import contextlib

import keras
import tensorflow as tf

from keras_nfnet.models.train_step import StatefulStep
from keras_nfnet.optimizers.composed import parts_of

# Trainable variables from which a step's graph is not optimized on CPUs. F6's
# first step took 134 s with TensorFlow's graph optimizer, 58 to 65 without
# (47 since).
# Later steps of F0 (256 px, batch 4) and F3 (192 px, batch 4) took as long: the
# operations are written as it would rewrite them. F6's at 64 px took 2.5 to
# 3.7 s for 2.6 to 2.8.
# ECA-NFNet-L0 and NF-ResNet50 lose 3 to 5%, so smaller networks keep it.
_MANY_VARIABLES = 700
_OFF = {"disable_meta_optimizer": True}


def _without_graph_optimizer(function):
    """A function whose calls run with TensorFlow's graph optimizer off."""
    options = tf.config.optimizer

    def call(*args):
        before = options.get_experimental_options()
        is_on = not before.get("disable_meta_optimizer", False)
        options.set_experimental_options(_OFF)
        try:
            return function(*args)
        finally:
            if is_on:
                options.set_experimental_options(
                    {"disable_meta_optimizer": False}
                )

    return call


class TrainingStep(StatefulStep):
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    # A batch, or what its tensors are like.
    _batch_to_come = None

    def _differentiate(self, scaled_loss, values):
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            scaled, aux = scaled_loss(values)
        return aux, tape.gradient(scaled, values)

    def _apply(self, gradients, variables):
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def _replicas(self):
        return tf.distribute.get_replica_context().num_replicas_in_sync

    def _summed(self, gradients):
        if self._replicas() == 1:
            return gradients
        present = [gradient for gradient in gradients if gradient is not None]
        context = tf.distribute.get_replica_context()
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
        return [
            None if gradient is None else next(summed) for gradient in gradients
        ]

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
        if self._distribute_strategy is None:
            self._batch_to_come = data_batch
            if iterator is not None:
                dataset = getattr(iterator, "_distributed_dataset", None)
                self._batch_to_come = getattr(dataset, "element_spec", None)
        super()._maybe_symbolic_build(iterator, data_batch)

    def _build_ahead(self):
        """Builds metrics and optimizer before the step is traced.

        Without a strategy Keras builds them in the step, and TensorFlow traces
        a function that makes variables twice.
        """
        batch, self._batch_to_come = self._batch_to_come, None
        # What no symbolic tensor can stand for is built in the step.
        with contextlib.suppress(Exception):
            self._symbolic_build(data_batch=batch)
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _has_workers(self):
        return isinstance(
            self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
        )

    def make_train_function(self, force=False):
        if self._batch_to_come is not None:
            self._build_ahead()
        before = self.train_function
        self._for_workers("train_step", super().make_train_function, force)
        is_plain = self._distribute_strategy is None and not (
            self.run_eagerly or self.jit_compile
        )
        if (
            self.train_function is not before
            and is_plain
            and len(self.trainable_variables) >= _MANY_VARIABLES
            and not tf.config.list_physical_devices("GPU")
        ):
            self.train_function = _without_graph_optimizer(self.train_function)
        return self.train_function

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
                f"mixed_float16 is not supported under {engine}: Keras checks "
                "only the first replica for infinities. Use mixed_bfloat16. "
                "Received: "
                f"optimizer={type(optimizer).__name__} on {replicas} replicas"
            )
        for part in parts_of(optimizer):
            if part.gradient_accumulation_steps:
                raise ValueError(
                    f"{engine} cannot accumulate gradients. Use more replicas, "
                    "a smaller batch with a smaller learning rate, or one "
                    "device. Received: gradient_accumulation_steps="
                    f"{part.gradient_accumulation_steps}"
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
