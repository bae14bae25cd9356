"""Optimizers that wrap or compose others, and what their parts report."""

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import ClippedOptimizer


def parts_of(optimizer):
    """The optimizers that make the steps, in a list.

    Args:
        optimizer: A Keras optimizer, which may wrap another, as
            `LossScaleOptimizer` does, or several, as `MultiOptimizer`; or
            `None`.
    """
    if optimizer is None:
        return []
    wrapped = getattr(optimizer, "inner_optimizer", None)
    if wrapped is not None:
        return parts_of(wrapped)
    several = getattr(optimizer, "optimizers", None)
    if several is not None:
        return [part for each in several for part in parts_of(each)]
    return [optimizer]


def rate_logs(optimizer):
    """`{"learning_rate": the rate of the last step}`.

    Of several optimizers each has its rate, under `learning_rate_` and its
    name.
    """
    parts = [part for part in parts_of(optimizer) if part.built]
    if len(parts) == 1:
        return {"learning_rate": _rate_used(parts[0])}
    logs = {}
    for part in parts:
        name = f"learning_rate_{part.name}"
        namesakes = sum(log.startswith(name) for log in logs)
        logs[f"{name}_{namesakes}" if namesakes else name] = _rate_used(part)
    return logs


def _rate_used(optimizer):
    if isinstance(optimizer, ClippedOptimizer):
        return optimizer.learning_rate_used
    schedule = optimizer._learning_rate
    if not isinstance(
        schedule, keras.optimizers.schedules.LearningRateSchedule
    ):
        return ops.cast(optimizer.learning_rate, "float32")
    # Keras hands a schedule the number of batches so far, and of those that
    # are accumulated the last makes the step.
    parts = optimizer.gradient_accumulation_steps or 1
    last = optimizer._iterations // parts * parts - 1
    rate = ops.cast(schedule(ops.maximum(last, 0)), "float32")
    return ops.where(last < 0, ops.zeros_like(rate), rate)


def clipped_fraction(optimizer, select=None):
    """Fraction of units that the last step clipped, over all parts.

    Args:
        optimizer: A Keras optimizer.
        select: A function from a variable's path to whether it counts.

    Returns:
        A float32 scalar, NaN if a gradient was not finite; `None` if no
        part clips, or nothing that is selected is clipped at all.
    """
    clipping = [
        part
        for part in parts_of(optimizer)
        if isinstance(part, ClippedOptimizer) and part.built and part.clipping
    ]
    if not clipping:
        return None
    results = [part.clipped_counts(select) for part in clipping]
    counts = [count for counts, _ in results for count in counts]
    units = sum(units for _, units in results)
    if select is not None and not units:
        return None
    total = ops.sum(ops.stack(counts)) if counts else ops.zeros(())
    return total / max(units, 1)
