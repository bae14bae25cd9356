"""The training step: where the gradient is taken, and which steps count.

A step takes the gradient at the weights, or uphill of them by Sharpness-Aware
Minimization (SAM). An optimizer with AGC skips a step whose gradient is not
finite. The loss of such a step mostly is not finite either, and would make
the mean of its whole epoch so: it is left out.

What only TensorFlow needs is in `tensorflow_step.py`.

Reference: SAM: Foret et al., arXiv:2010.01412.
"""

import keras
import numpy as np
from keras import ops, tree

from keras_nfnet.optimizers.clipped import ClippedOptimizer
from keras_nfnet.optimizers.clipping import power_scale
from keras_nfnet.optimizers.composed import parts_of


class AnyStep:
    """What the training steps of all backends share.

    Loss and metrics stay as they were before a step that was skipped, and
    before one whose loss is not finite. Of a batch that is taken in parts,
    a part whose loss is not finite is left out, and the last part of a step
    that was skipped. A mean of no step is NaN.

    With SAM a step is Keras's own but for where the gradient is taken. What
    it reports and keeps (loss, metrics, statistics, random state) is that of
    the pass over the whole batch: at the weights, or, where that one sees a
    fraction of the batch, uphill.
    """

    def refuse_what_the_engine_cannot(self):
        """Refuses nothing: one device computes all that is asked for."""

    def _with_means(self, logs):
        loss = next(metric for metric in self.metrics if metric.name == "loss")
        nothing = ops.equal(loss.count, 0)
        means = {
            name: ops.where(nothing, float("nan"), value)
            for name, value in self.get_metrics_result().items()
        }
        return {**logs, **means}


class StatefulStep(AnyStep):
    """`train_step` where variables hold the state: TensorFlow and PyTorch."""

    def train_step(self, data):
        self._refuse_what_cannot_be()
        before = _progress(self.optimizer)
        variables = list(self.metrics_variables) if before else []
        values = [ops.copy(variable) for variable in variables]
        if self._sam_rho is None:
            logs = super().train_step(data)
        else:
            logs = self.sam_step(data)
        logs = self.with_own_logs(logs)
        if not before:
            return logs
        counts = _counts(before, _progress(self.optimizer), logs)
        for variable, old in zip(variables, values, strict=True):
            variable.assign(ops.where(counts, variable, old))
        return self._with_means(logs)

    def sam_step(self, data):
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
        """One pass, with `values` in place of the trainable variables.

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


class TorchStep(StatefulStep):
    """`train_step` on the PyTorch backend."""

    def sam_step(self, data):
        # Keras's own step leaves gradients with the weights; this does not.
        self.zero_grad()
        return super().sam_step(data)

    def _differentiate(self, scaled_loss, values):
        import torch

        leaves = [value.detach().requires_grad_() for value in values]
        scaled, (loss, y_pred, updates) = scaled_loss(leaves)
        gradients = torch.autograd.grad(scaled, leaves, allow_unused=True)
        # The predictions as they are: a copy would lose their masks.
        loss, updates = tree.map_structure(
            lambda value: value.detach() if torch.is_tensor(value) else value,
            (loss, updates),
        )
        return (loss, y_pred, updates), list(gradients)

    def _apply(self, gradients, variables):
        import torch

        with torch.no_grad():
            self.optimizer.apply(gradients, variables)


class JaxStep(AnyStep):
    """`train_step` on the JAX backend, under `keras.distribution` too.

    There a batch may be spread over devices, and gradients are those of the
    whole batch all the same: JAX puts the sums in.
    """

    def train_step(self, state, data):
        self._refuse_what_cannot_be()
        with _holding(self.optimizer.variables, state[2]):
            before = _progress(self.optimizer)
        if self._sam_rho is None:
            logs, new = super().train_step(state, data)
        else:
            logs, new = self.sam_step(state, data)
        with _holding(self.optimizer.variables, new[2]):
            logs = self.with_own_logs(logs)
            after = _progress(self.optimizer)
        if not before:
            return logs, new
        counts = _counts(before, after, logs)
        metrics = [
            ops.where(counts, value, old)
            for value, old in zip(new[3], state[3], strict=True)
        ]
        with _holding(self.metrics_variables, metrics):
            return self._with_means(logs), (*new[:3], metrics)

    def sam_step(self, state, data):
        import jax

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


def _holding(variables, values):
    """A scope in which variables have other values."""
    mapping = list(zip(variables, values, strict=True))
    return keras.StatelessScope(state_mapping=mapping)


def _data_shards():
    """Devices, or groups of devices, that a batch is spread over."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    axis = mesh.axis_names.index(distribution.batch_dim_name)
    return mesh.shape[axis]


def uphill(values, gradients, rho):
    """The point `w + rho * g / ‖g‖`, ‖g‖ over all gradients together.

    Args:
        values: The weights w, as tensors.
        gradients: Their gradients g; `None` where there is none.
        rho: SAM's radius.

    Returns:
        A list of tensors like `values`.

    Reference: arXiv:2010.01412, eq. 2.
    """
    full = [None if g is None else ops.cast(g, "float32") for g in gradients]
    present = [g for g in full if g is not None]
    largest = ops.max(ops.stack([ops.max(ops.abs(g)) for g in present]))
    scale, _ = power_scale(largest)
    norm = ops.sqrt(sum(ops.sum(ops.square(g * scale)) for g in present))
    factor = rho / ops.maximum(norm, 1e-30)  # For a gradient of zero.
    return [
        value
        if g is None
        else value + ops.cast(g * scale * factor, value.dtype)
        for value, g in zip(values, full, strict=True)
    ]


def share_of(data, fraction, parts=1):
    """A fraction of the examples of a batch, evenly spread over it.

    Args:
        data: Tensors, in any structure, whose first axis is the batch.
        fraction: The fraction of the examples, in (0, 1]; rounded, and at
            least one.
        parts: Parts of the batch that lie on devices of their own; each
            gives its fraction. A batch that they do not divide is one part.

    Returns:
        `data` with a shorter first axis.
    """
    if fraction == 1:
        return data

    def of(x):
        if x is None:  # No targets, or no weights of examples.
            return None
        size = x.shape[0]
        if size is None:
            size = ops.shape(x)[0]
            return ops.take(x, _spread(size, fraction), axis=0)
        count = parts if size % parts == 0 else 1
        # Taken along an axis that is not spread over the devices.
        x = ops.reshape(x, (count, size // count, *x.shape[1:]))
        x = ops.take(x, _spread(size // count, fraction), axis=1)
        return ops.reshape(x, (-1, *x.shape[2:]))

    return tree.map_structure(of, data)


def _spread(size, fraction):
    """Indices of `round(size * fraction)` of `size` examples."""
    if isinstance(size, int):
        count = max(1, round(size * fraction))
        return np.arange(count) * size // count
    count = ops.round(ops.cast(size, "float32") * fraction)
    count = ops.maximum(ops.cast(count, "int32"), 1)
    return ops.arange(count) * size // count


def skipped_steps(optimizer):
    """Steps skipped since the optimizer was made, as an integer tensor.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        `None` if no part of it skips steps.
    """
    parts = _skipping(optimizer)
    return sum(part.skipped_steps for part in parts) if parts else None


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


# Other backends do not train.
TrainingStep = {"jax": JaxStep, "torch": TorchStep}.get(
    keras.backend.backend(), AnyStep
)
