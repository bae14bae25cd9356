"""The model class that every builder returns, with its training step."""

from typing import Any

import keras

from keras_nfnet.layers.rematerialization import (
    NotRecomputed,
    keep_results_of_others,
)
from keras_nfnet.models.body import channels_of, pyramid
from keras_nfnet.models.train_step import skipped_steps
from keras_nfnet.optimizers.composed import (
    clipped_fraction,
    parts_of,
    rate_logs,
)
from keras_nfnet.utils.arguments import boolean, fraction, positive
from keras_nfnet.utils.types import Tensor

if keras.backend.backend() == "tensorflow":
    from keras_nfnet.models.tensorflow_step import TrainingStep
else:
    from keras_nfnet.models.train_step import TrainingStep

# Where a variable of an NFNet belongs in the logs `clipped_…`.
_STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetModel(NotRecomputed, TrainingStep, keras.Model):
    """A functional Keras model that trains as the papers train.

    Build one with `keras_nfnet.NFNet` or a variant such as
    `keras_nfnet.NFNetF0`. With the loss and the metrics its `train_step`
    reports `learning_rate`, the rate of the step just made, and, with
    `SGDAGC` or an optimizer of `with_agc`, `clipped`, the fraction of units
    that the step clipped (NaN if the gradient was not finite: the step then
    changed nothing), and `skipped_steps`, how many such steps there were.
    They are left out of the means of loss and metrics.

    Adaptive gradient clipping itself lives in the optimizer, the only place
    that sees the gradient summed over replicas. Sharpness-Aware
    Minimization (SAM) is in the step: the gradient is taken at
    `w + sam_rho * g / ‖g‖`, with g the gradient at w of the whole batch or a
    fraction of it, summed over replicas, and both with the same dropout.

    Reference: arXiv:2102.06171; SAM: Foret et al., arXiv:2010.01412.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keep_results_of_others(self._flatten_layers(include_self=False))

    @property
    def pyramid_outputs(self) -> dict[str, Tensor]:
        """Feature maps by level: `{"P1": …, …, "P5": …}`, Keras tensors.

        Level `n` has the stride `2**n`: the last convolution of the stem
        with that stride, the output of each stage before the next, and the
        last convolution where there is one. A model that was built with an
        `output_stride` has that where it is smaller.
        """
        return pyramid(self)

    @property
    def hidden_dims(self) -> list[int]:
        """Channels of each level, by which keras-hub's SegFormer asks."""
        return channels_of(self)

    # Names of the logs that are not Keras's own.
    _own_logs = ()

    def compile(
        self,
        *args: Any,
        sam_rho: float | None = None,
        sam_fraction: float = 1.0,
        clipped_by_stage: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures the model for training, as `keras.Model.compile`.

        Args:
            *args: As for `keras.Model.compile`.
            sam_rho: Radius of SAM, above 0; `None` for no SAM. SAM takes two
                gradients a step, and twice the time.
            sam_fraction: The fraction of each batch, in (0, 1], on which SAM's
                first gradient, the ascent, is taken: evenly spread examples,
                at least one, of each replica's part. The step then takes
                about `1 + sam_fraction` of the time. Below 1 the loss and
                the metrics are those at the point uphill, since only there
                the whole batch is seen.
            clipped_by_stage: Whether to log the fraction of clipped units
                also by stage, as `clipped_stem`, `clipped_stage1`, … and
                `clipped_head`, of the stages that the network has.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If `sam_rho` or `sam_fraction` is out of range, SAM
                is to accumulate gradients, or the engine that the model was
                built under cannot do what is asked for; the message says
                what to do instead.

        Example:

        >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
        >>> model = keras_nfnet.NFNet(
        ...     config, weights=None, classes=10, classifier_activation=None
        ... )
        >>> optimizer = keras_nfnet.SGDAGC(0.1, ema_decay=0.999)
        >>> model.compile(
        ...     optimizer,
        ...     keras.losses.CategoricalCrossentropy(from_logits=True),
        ...     sam_rho=0.05,
        ...     sam_fraction=0.2,
        ... )
        >>> model.get_compile_config()["sam_rho"]
        0.05

        Reference: SAM: Foret et al., arXiv:2010.01412; on a fifth of each
        batch: arXiv:2102.06171, appendix.
        """
        sam_rho = positive("sam_rho", sam_rho, optional=True)
        sam_fraction = fraction("sam_fraction", sam_fraction)
        clipped_by_stage = boolean("clipped_by_stage", clipped_by_stage)
        super().compile(*args, **kwargs)
        self._sam_rho = sam_rho
        self._sam_fraction = sam_fraction
        self._clipped_by_stage = clipped_by_stage
        self._refuse_what_cannot_be()

    def _refuse_what_cannot_be(self):
        """Refuses settings that exclude each other, or that the engine lacks.

        A `MultiOptimizer` made of a function knows its parts only when it is
        built, after `compile`; so the step calls this too.
        """
        for part in parts_of(self.optimizer):
            if self._sam_rho and part.gradient_accumulation_steps:
                raise ValueError(
                    "SAM needs the gradient of the whole batch before it "
                    "takes the second, and so cannot accumulate gradients: "
                    "leave out `sam_rho` or `gradient_accumulation_steps`. "
                    f"Received: sam_rho={self._sam_rho!r}, "
                    "gradient_accumulation_steps="
                    f"{part.gradient_accumulation_steps}"
                )
        self.refuse_what_the_engine_cannot()

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self.compiled:
            config["sam_rho"] = self._sam_rho
            config["sam_fraction"] = self._sam_fraction
            config["clipped_by_stage"] = self._clipped_by_stage
        return config

    def compile_from_config(self, config):
        # Keras's own does nothing where `compile` takes more arguments.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def save(self, filepath, *args, **kwargs):
        """Saves the model to a `.keras` file, as `keras.Model.save`.

        Args:
            filepath: Path of the file, which ends in `.keras`.
            *args: As for `keras.Model.save`.
            **kwargs: As for `keras.Model.save`.

        Raises:
            ValueError: If the path ends in `.h5` or `.hdf5`: that format
                has no place for SAM's settings.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "A model of this package cannot be saved in Keras's legacy "
                "HDF5 format. Use a path that ends in `.keras`, or "
                "`save_weights` with one that ends in `.weights.h5`. "
                f"Received: filepath={str(filepath)!r}"
            )
        return super().save(filepath, *args, **kwargs)

    def get_config(self):
        config = super().get_config()
        # Only Keras's HDF5 format has layers without their module. A model
        # gets there by `keras.saving.save_model`, or inside another.
        if (
            self.compiled
            and self._sam_rho
            and "module" not in config["layers"][0]
        ):
            raise ValueError(
                "A model that is compiled with SAM cannot be saved in Keras's "
                "legacy HDF5 format, which has no place for SAM's settings. "
                "Use a path that ends in `.keras`. "
                f"Received: sam_rho={self._sam_rho!r}"
            )
        return config

    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        return_dict=False,
    ):
        """Runs one step on one batch, as `keras.Model.train_on_batch`.

        Args:
            x: As for `keras.Model.train_on_batch`, as all that follow.
            y: Targets.
            sample_weight: Weights of the examples, or `None`.
            class_weight: Weights of the classes, or `None`.
            return_dict: Whether to return a dictionary, with the model's
                own logs, or as Keras does the loss and the metrics alone.
        """
        logs = super().train_on_batch(
            x,
            y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            return_dict=True,
        )
        if return_dict:
            return logs
        for name in self._own_logs:
            logs.pop(name, None)
        return self._flatten_metrics_in_order(logs)

    def with_own_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Adds what the step just made reports beside loss and metrics."""
        own = rate_logs(self.optimizer)
        skipped = skipped_steps(self.optimizer)
        if skipped is not None:
            own["skipped_steps"] = skipped
        clipped = clipped_fraction(self.optimizer)
        if clipped is not None:
            own["clipped"] = clipped
            if self._clipped_by_stage:
                own.update(clipped_by_stage(self.optimizer))
        # A metric of the user's keeps its name.
        own = {name: log for name, log in own.items() if name not in logs}
        self._own_logs = tuple(own)
        return {**logs, **own}


# Keras's HDF5 files name a model's class without its package.
keras.saving.get_custom_objects()[NFNetModel.__name__] = NFNetModel


def clipped_by_stage(optimizer):
    """`{"clipped_stem": fraction of units, …}` of the step just made.

    Args:
        optimizer: Of an NFNet. Stages that the network lacks are left out,
            all of them where the optimizer does not clip.
    """
    fractions = {
        f"clipped_{stage}": clipped_fraction(
            optimizer, lambda path, stage=stage: _stage(path) == stage
        )
        for stage in (*_STAGES, "head")
    }
    return {k: v for k, v in fractions.items() if v is not None}


def _stage(path):
    for part in path.split("/"):
        first = part.split("_")[0]
        if first in _STAGES:
            return first
    return "head"
