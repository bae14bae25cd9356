"""Exact evaluation on any number of devices."""

import functools

import numpy as np
from keras import ops

from keras_nfnet.models.output import logits_model


class Evaluation:
    """Evaluates one model, as often as needed.

    What is reported is of every picture exactly once, on however many
    devices: batches are filled up with pictures that are not counted, and
    sums are divided, not means averaged. The loss is computed from logits,
    without label smoothing.

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
            self._summed = engine.summed(
                functools.partial(_by_row, batch_size), logits_model(model)
            )

    def __call__(self, dataset, progress=None, each=None):
        """Evaluates on `(images, labels)`.

        Args:
            dataset: Batches of at most `batch_size`, labels one-hot.
            progress: A function that wraps the batches, such as `tqdm`.
            each: A function of the images and labels of a batch and of a
                float64 array `(pictures, 5)`: loss, top-1 and top-5 hit (0
                or 1), the predicted class and its probability. It is called
                for every batch, in order.

        Returns:
            `{"loss", "accuracy", "top5"}`; top-1 and top-5 accuracy in
            [0, 1].

        Raises:
            ValueError: If there are no pictures.
        """
        rows = np.arange(self.batch_size, dtype="int32")
        total, count = np.zeros(3), 0
        for images, labels in progress(dataset) if progress else dataset:
            images, labels = np.asarray(images), np.asarray(labels)
            values = self._summed(
                _filled(images, self.batch_size),
                _filled(labels, self.batch_size),
                rows,
            )
            values = np.asarray(values, "float64")[: len(images)]
            if each is not None:
                each(images, labels, values)
            total += values[:, :3].sum(axis=0)
            count += len(images)
        if not count:
            raise ValueError(
                "The data must hold pictures that can be decoded. "
                "Received: none"
            )
        loss, top1, top5 = (float(each) for each in total / count)
        return {"loss": loss, "accuracy": top1, "top5": top5}


def _by_row(batch_size, logits, labels, rows):
    """What is known of each picture, in its row of the global batch.

    A device that has other pictures of the batch leaves their rows 0, so
    that the sum over devices is the whole.

    Args:
        batch_size: Pictures of the global batch.
        logits: Tensor `(pictures, classes)` of one device.
        labels: Their labels, one-hot.
        rows: Where they are in the global batch.

    Returns:
        A float32 tensor `(batch_size, 5)`, see `Evaluation.__call__`.
    """
    logits = ops.cast(logits, "float32")
    is_true = labels > 0.5
    true = ops.sum(ops.where(is_true, logits, 0.0), axis=-1)
    total = ops.logsumexp(logits, axis=-1)
    loss = total - true
    # Classes before the true one; a tie, as between NaNs, is no hit.
    others = ops.where(is_true, -np.inf, logits)
    before = ops.cast(others >= true[:, None], "float32")
    above = ops.sum(ops.where(is_true, 0.0, before), axis=-1)
    finite = ops.isfinite(loss)
    top1, top5 = (ops.logical_and(finite, above < top) for top in (1, 5))
    # The class of a tie is the wrong one: what is no hit is no hit.
    predicted = ops.where(
        top1, ops.argmax(ops.cast(is_true, "int32"), -1), ops.argmax(others, -1)
    )
    best = ops.where(top1, true, ops.max(others, axis=-1))
    values = (loss, top1, top5, predicted, ops.exp(best - total))
    values = ops.stack([ops.cast(v, "float32") for v in values], axis=-1)
    return ops.segment_sum(values, rows, num_segments=batch_size)


def _filled(array, size):
    padding = [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding)
