"""The learning-rate schedule of the paper."""

import math

import keras
from keras import ops

from keras_nfnet.utils.arguments import (
    not_negative,
    number,
    positive,
    text,
)


@keras.saving.register_keras_serializable(package="keras_nfnet")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then a cosine to 0.

    Args:
        peak: The rate after the warm-up, 0 or more. The paper's is
            0.1 · global batch / 256.
        total_steps: Optimizer steps of the whole run.
        warmup_steps: Steps of the warm-up, below `total_steps`; 0 for none.
        name: Name of the schedule.

    Returns:
        Called with a step, a float32 scalar.

    Raises:
        ValueError: If `warmup_steps` is negative or not below
            `total_steps`, or `peak` is negative.

    Example:

    >>> rate = keras_nfnet.WarmupCosine(1.0, total_steps=10, warmup_steps=2)
    >>> [round(float(rate(step)), 4) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]

    Reference: arXiv:2102.06171, section 6 and appendix A.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        warmup_steps: int,
        name: str = "warmup_cosine",
    ) -> None:
        super().__init__()
        total_steps = positive("total_steps", total_steps)
        warmup_steps = number(
            "warmup_steps",
            warmup_steps,
            lambda v: 0 <= v < total_steps,
            f"in [0, total_steps), with total_steps={total_steps}",
        )
        peak = not_negative("peak", peak)
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.name = text("name", name)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = step / max(self.warmup_steps, 1)
        progress = (step - self.warmup_steps) / (
            self.total_steps - self.warmup_steps
        )
        cosine = 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0.0, 1.0)))
        return self.peak * ops.where(step < self.warmup_steps, warmup, cosine)

    def get_config(self):
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "name": self.name,
        }
