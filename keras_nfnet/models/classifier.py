"""The model class that every builder returns, with its training step."""

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import ClippedOptimizer

if keras.backend.backend() == "tensorflow":
    from keras_nfnet.models.tensorflow_step import TrainingStep
elif keras.backend.backend() == "jax":
    from keras_nfnet.models.jax_step import TrainingStep
else:

    class TrainingStep:
        """Other backends: Keras's own step."""

        sam_step = None

        def refuse_what_the_engine_cannot(self):
            """Nothing is known of other backends."""


# Where a variable of an NFNet belongs in the logs `clipped_…`.
_STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetModel(TrainingStep, keras.Model):
    """A functional Keras model that trains as the papers train.

    Build one with `keras_nfnet.NFNet` or a variant such as
    `keras_nfnet.NFNetF0`. With the loss and the metrics its `train_step`
    reports `learning_rate`, the rate of the step just made, and, with
    `SGDAGC` or an optimizer of `with_agc`, `clipped`, the fraction of units
    that the step clipped (NaN if the gradient was not finite: the step then
    changed nothing).

    Adaptive gradient clipping itself lives in the optimizer, the only place
    that sees the gradient summed over replicas. Sharpness-Aware
    Minimization (SAM) is in the step: the gradient is taken at
    `w + sam_rho * g / ‖g‖`, with g the gradient of the whole batch, summed
    over replicas, at w, and both with the same dropout.

    Reference: arXiv:2102.06171; SAM: Foret et al., arXiv:2010.01412.
    """

    def compile(self, *args, sam_rho=None, clipped_by_stage=False, **kwargs):
        """Configures the model for training, as `keras.Model.compile`.

        Args:
            *args: As for `keras.Model.compile`.
            sam_rho: Radius of SAM, above 0; `None` for no SAM. SAM takes two
                gradients a step, and twice the time.
            clipped_by_stage: Whether to log the fraction of clipped units
                also by stage, as `clipped_stem`, `clipped_stage1`, … and
                `clipped_head`.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If `sam_rho` is not above 0, or the engine that the
                model was built under cannot do what is asked for; the
                message says what to do instead.

        Example:

        >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
        >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
        >>> optimizer = keras_nfnet.SGDAGC(0.1, ema_decay=0.999)
        >>> model.compile(optimizer, "categorical_crossentropy", sam_rho=0.05)
        >>> model.get_compile_config()["sam_rho"]
        0.05

        Reference: SAM: Foret et al., arXiv:2010.01412.
        """
        if sam_rho is not None and not (
            isinstance(sam_rho, int | float) and sam_rho > 0
        ):
            raise ValueError(
                "`sam_rho` must be a number above 0, or `None` for no SAM. "
                f"Received: sam_rho={sam_rho!r}"
            )
        if sam_rho is not None and self.sam_step is None:
            raise ValueError(
                "`sam_rho` needs the TensorFlow or the JAX backend. "
                f"Received: the {keras.backend.backend()} backend"
            )
        super().compile(*args, **kwargs)
        self._sam_rho = sam_rho
        self._clipped_by_stage = bool(clipped_by_stage)
        self.refuse_what_the_engine_cannot()

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self.compiled:
            config["sam_rho"] = self._sam_rho
            config["clipped_by_stage"] = self._clipped_by_stage
        return config

    def compile_from_config(self, config):
        # Keras's own does nothing where `compile` takes more arguments.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def step_logs(self):
        """What the step just made reports beside the loss and the metrics."""
        # mixed_float16 wraps the optimizer, which then holds the schedule.
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        logs = {"learning_rate": _rate_of_last_step(optimizer)}
        if isinstance(optimizer, ClippedOptimizer) and optimizer.clipping:
            logs["clipped"] = optimizer.clipped_fraction()
            if self._clipped_by_stage:
                for stage in (*_STAGES, "head"):
                    logs[f"clipped_{stage}"] = optimizer.clipped_fraction(
                        lambda path, stage=stage: _stage(path) == stage
                    )
        return logs


def _stage(path):
    first = path.split("/")[0].split("_")[0]
    return first if first in _STAGES else "head"


def _rate_of_last_step(optimizer):
    schedule = getattr(optimizer, "_learning_rate", None)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        # Of accumulated gradients only the last makes a step.
        step = ops.maximum(optimizer._iterations - 1, 0)
        step = step // (optimizer.gradient_accumulation_steps or 1)
        return ops.cast(schedule(step), "float32")
    return ops.cast(optimizer.learning_rate, "float32")
