"""Pictures that cannot be decoded: replaced, counted, too many an error."""

import threading

import numpy as np
import tensorflow as tf

from keras_nfnet.data.preprocessing import sides

# Pictures seen before a share means something.
_LEAST_SEEN = 100
_NAMES = 5


class CorruptCounter:
    """Counts the pictures of one pipeline that could not be decoded.

    A pipeline counts a batch when it makes it, which is a few batches before
    it is used.

    Args:
        max_share: Largest share of broken pictures in [0, 1]; with more, the
            pipeline fails.
        examples: Examples of the split. The share is checked once 100
            pictures, or the split, have been seen.

    Attributes:
        seen: Pictures seen, broken ones included.
        broken: How many of them could not be decoded.
        names: The first few of them: paths within the folder, or TFDS ids.

    Raises:
        ValueError: If `max_share` is not in [0, 1].

    Example:

    >>> counter = CorruptCounter(max_share=0.5, examples=1000)
    >>> counter.count(seen=8, names=["cat/3.jpg"])
    >>> print(counter.summary())
    1 of 8 pictures (12.5%) could not be decoded: cat/3.jpg
    """

    def __init__(self, max_share, examples):
        if isinstance(max_share, bool) or not (
            isinstance(max_share, int | float) and 0 <= max_share <= 1
        ):
            raise ValueError(
                "`max_corrupt` must be a share in [0, 1], such as 0.1. "
                f"Received: max_corrupt={max_share!r}"
            )
        self.max_share = max_share
        self.seen = self.broken = 0
        self.names = []
        self._least_seen = min(_LEAST_SEEN, examples)
        self._lock = threading.Lock()

    def count(self, seen, names):
        """Adds `seen` pictures, of which those in `names` are broken."""
        with self._lock:
            self.seen += seen
            self.broken += len(names)
            for name in names:
                if len(self.names) < _NAMES and name not in self.names:
                    self.names.append(name)

    def summary(self):
        """One line on what was seen; empty if nothing was broken."""
        if not self.broken:
            return ""
        names = ", ".join(self.names)
        more = ", …" if self.broken > len(self.names) else ""
        return (
            f"{self.broken:,} of {self.seen:,} pictures "
            f"({self.broken / self.seen:.1%}) could not be decoded: "
            f"{names}{more}"
        )

    def check(self):
        """Raises if more than `max_share` was broken.

        Raises:
            ValueError: Saying how many, some of them by name.
        """
        if self.seen >= self._least_seen and (
            self.broken > self.max_share * self.seen
        ):
            raise ValueError(
                f"{self.summary()}. Mend or remove them, or allow more than "
                f"{self.max_share:.1%} by `max_corrupt`"
            )


def first_good(view, references, start, size):
    """The view of the first picture from `start` on that can be decoded.

    Args:
        view: A function of a reference that gives a float32 image of `size`,
            or fails.
        references: Vector of references, gone through once around.
        start: Where to begin in it.
        size: Side of the view in pixels, or `(height, width)`.

    Returns:
        The view and the number of pictures before it that could not be
        decoded; a black one and the number of all if none could.
    """
    count = tf.shape(references, tf.int64)[0]
    skips = tf.data.Dataset.range(count)
    candidates = skips.map(
        lambda skipped: (view(references[(start + skipped) % count]), skipped)
    )
    none = (tf.zeros((*sides(size), 3)), count)
    # Of these the first alone is decoded where it is good.
    return (
        candidates.ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(none))
        .take(1)
        .get_single_element()
    )


def report(counter, skipped, names, window=None):
    """Counts one batch, and fails if there was too much broken.

    Args:
        counter: A `CorruptCounter`.
        skipped: For each example how many pictures `first_good` passed over.
        names: Their names.
        window: How many `first_good` had to choose from; `None` where broken
            pictures leave the batch.

    Returns:
        A scalar tensor to depend on.
    """

    @tf.autograph.experimental.do_not_convert
    def count(skipped, names):
        broken = skipped > 0
        counter.count(len(names), [name.decode() for name in names[broken]])
        counter.check()
        if window is not None and (skipped >= window).any():
            raise ValueError(
                f"{window} neighbours of the stream are all broken: no good "
                f"one can stand in. {counter.summary()}"
            )
        if window is None and broken.all():
            raise ValueError(
                "All pictures of a batch are broken: make `batch_size` "
                f"larger, or remove them. {counter.summary()}"
            )
        return np.int64(0)

    return tf.numpy_function(
        count, [tf.reshape(skipped, [-1]), tf.reshape(names, [-1])], tf.int64
    )
