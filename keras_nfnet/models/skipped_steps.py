"""Steps that the optimizer skipped are left out of the means.

An optimizer with AGC skips a step whose gradient is not finite. The loss of
such a step mostly is not finite either, and would make the mean of its whole
epoch so.
"""

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import ClippedOptimizer
from keras_nfnet.optimizers.composed import parts_of


def skipped_steps(optimizer):
    """Steps skipped since the optimizer was made, as an integer tensor.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        `None` if no part of it skips steps.
    """
    parts = _skipping(optimizer)
    return sum(part.skipped_steps for part in parts) if parts else None


class LeavesOutSkippedSteps:
    """Mixin of a training model, before the class with its `train_step`.

    Loss and metrics stay as they were before a step that was skipped, and
    before one whose loss is not finite. Of a batch that is taken in parts,
    a part whose loss is not finite is left out, and the last part of a step
    that was skipped. A mean of no step is NaN.
    """

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            if not _skipping(self.optimizer):
                return super().train_step(state, data)
            before = self._progress_in(state[2])
            logs, new = super().train_step(state, data)
            counts = _counts(before, self._progress_in(new[2]), logs)
            metrics = [
                ops.where(counts, value, old)
                for value, old in zip(new[3], state[3], strict=True)
            ]
            mapping = zip(self.metrics_variables, metrics, strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)):
                logs = self._with_means(logs)
            return logs, (*new[:3], metrics)

        def _progress_in(self, optimizer_variables):
            mapping = zip(
                self.optimizer.variables, optimizer_variables, strict=True
            )
            with keras.StatelessScope(state_mapping=list(mapping)):
                return _progress(self.optimizer)

    else:

        def train_step(self, data):
            if not _skipping(self.optimizer):
                return super().train_step(data)
            before = _progress(self.optimizer)
            variables = list(self.metrics_variables)
            values = [ops.copy(variable) for variable in variables]
            logs = super().train_step(data)
            counts = _counts(before, _progress(self.optimizer), logs)
            for variable, old in zip(variables, values, strict=True):
                variable.assign(ops.where(counts, variable, old))
            return self._with_means(logs)

    def _with_means(self, logs):
        loss = next(metric for metric in self.metrics if metric.name == "loss")
        nothing = ops.equal(loss.count, 0)
        means = {
            name: ops.where(nothing, float("nan"), value)
            for name, value in self.get_metrics_result().items()
        }
        return {**logs, **means}


def _skipping(optimizer):
    return [
        part
        for part in parts_of(optimizer)
        if isinstance(part, ClippedOptimizer)
    ]


def _progress(optimizer):
    """`(parts of batches, steps)` that each optimizer has made."""
    return [
        (
            ops.copy(part._iterations),
            ops.subtract(part.iterations, part.skipped_steps),
            part.gradient_accumulation_steps or 1,
        )
        for part in _skipping(optimizer)
    ]


def _counts(before, after, logs):
    """Whether the step between two states of progress counts."""
    counts = ops.all(ops.isfinite(logs["loss"]))
    for (old_part, old_step, _), (part, step, parts) in zip(
        before, after, strict=True
    ):
        # A loss scale that is too high leaves out the whole optimizer.
        made = part > old_part
        ends = ops.equal(part % parts, 0)
        made = ops.logical_and(
            made, ops.logical_or(ops.logical_not(ends), step > old_step)
        )
        counts = ops.logical_and(counts, made)
    return counts
