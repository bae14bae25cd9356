"""Exact evaluation on any number of devices."""

import numpy as np
from keras import ops

from keras_nfnet.models.output import logits_model


class Evaluation:
    """Evaluates one model, as often as needed.

    What is reported is of every picture exactly once, on however many
    devices: batches are filled up with pictures of no weight, and sums are
    divided, not means averaged. The loss is computed from logits, without
    label smoothing.

    Args:
        model: A classifier that ends in a softmax, in logits, or in one
            sigmoid unit.
        engine: An engine, see `distribution.py`.
        batch_size: Pictures of one global batch.

    Example:

    >>> Evaluation(model, engine_for("one"), 64)(dataset)
    {'loss': 0.04, 'accuracy': 0.994, 'top5': 1.0}
    """

    def __init__(self, model, engine, batch_size):
        self.batch_size = batch_size
        with engine.scope():
            self._summed = engine.summed(_sums, logits_model(model))

    def __call__(self, dataset, progress=None):
        """Evaluates on `(images, labels)`.

        Args:
            dataset: Batches of at most `batch_size`, labels one-hot.
            progress: A function that wraps the batches, such as `tqdm`.

        Returns:
            `{"loss", "accuracy", "top5"}`; top-1 and top-5 accuracy in
            [0, 1].

        Raises:
            ValueError: If there are no pictures.
        """
        total = np.zeros(4)
        for images, labels in progress(dataset) if progress else dataset:
            images, labels = np.asarray(images), np.asarray(labels)
            weights = np.zeros(self.batch_size, "float32")
            weights[: len(images)] = 1
            sums = self._summed(
                _filled(images, self.batch_size),
                _filled(labels, self.batch_size),
                weights,
            )
            total += np.asarray(sums, "float64")
        count, loss, top1, top5 = total
        if not count:
            raise ValueError(
                "The data must hold pictures that can be decoded. "
                "Received: none"
            )
        return {
            "loss": float(loss / count),
            "accuracy": float(top1 / count),
            "top5": float(top5 / count),
        }


def _sums(logits, labels, weights):
    """Number of pictures, and sums of loss, top-1 and top-5 hits."""
    logits = ops.cast(logits, "float32")
    true = ops.sum(ops.where(labels > 0.5, logits, 0.0), axis=-1)
    loss = ops.logsumexp(logits, axis=-1) - true
    # Classes before the true one; a tie, as between NaNs, is no hit.
    others = ops.cast(labels < 0.5, "float32")
    above = ops.sum(
        others * ops.cast(logits >= true[:, None], "float32"), axis=-1
    )
    finite = ops.cast(ops.isfinite(loss), "float32")
    hits = [
        finite * ops.cast(above < top, "float32") * weights for top in (1, 5)
    ]
    loss = ops.where(weights > 0, loss, ops.zeros_like(loss))
    return ops.stack([ops.sum(v) for v in (weights, loss, *hits)])


def _filled(array, size):
    padding = [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding)
