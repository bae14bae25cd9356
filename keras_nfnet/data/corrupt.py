"""Images that cannot be decoded: replaced, counted, too many an error."""

import threading

import numpy as np
import tensorflow as tf

from keras_nfnet.data.preprocessing import sides
from keras_nfnet.utils.arguments import number

# An example and those that may replace it.
CANDIDATES = 16
# Images seen before a fraction of them means something.
_LEAST_SEEN = 100
_NAMES = 5


class CorruptCounter:
    """Counts the images of one pipeline that could not be decoded.

    A pipeline counts a batch when it makes it, which is a few batches before
    it is used.

    Args:
        max_share: Largest fraction of broken images in [0, 1]; with more,
            the pipeline fails.
        examples: Examples of the split. The fraction is checked once 100
            images, or the split, have been seen.

    Attributes:
        seen: Images seen, broken ones included.
        broken: How many of them could not be decoded.
        names: The first few of them: paths within the folder, or TFDS ids.

    Raises:
        ValueError: If `max_share` is not in [0, 1].

    Example:

    >>> counter = CorruptCounter(max_share=0.5, examples=1000)
    >>> counter.count(seen=8, names=["cat/3.jpg"])
    >>> print(counter.summary())
    1 of 8 images (12.5%) could not be decoded: cat/3.jpg
    """

    def __init__(self, max_share, examples):
        self.max_share = number(
            "max_corrupt", max_share, lambda v: 0 <= v <= 1, "in [0, 1]"
        )
        self.seen = self.broken = 0
        self.names = []
        self._unlabelled = ""
        self._least_seen = min(_LEAST_SEEN, examples)
        self._lock = threading.Lock()

    def count(self, seen, names, unlabelled=()):
        """Adds images.

        Args:
            seen: Number of images.
            names: Names of those that are broken.
            unlabelled: Names of those that have no class.
        """
        with self._lock:
            self._unlabelled = self._unlabelled or next(iter(unlabelled), "")
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
            f"{self.broken:,} of {self.seen:,} images "
            f"({self.broken / self.seen:.1%}) could not be decoded: "
            f"{names}{more}"
        )

    def check(self):
        """Raises if more than `max_share` was broken, or one has no class.

        Raises:
            ValueError: Saying how many, some of them by name.
        """
        if self._unlabelled:
            raise ValueError(
                "Every example must have a label of 0 or more. Received: "
                f"{self._unlabelled} without a class, as in test splits "
                "whose labels are not published"
            )
        if self.seen >= self._least_seen and (
            self.broken > self.max_share * self.seen
        ):
            raise ValueError(
                f"{self.summary()}. Mend or remove them, or allow more than "
                f"{self.max_share:.1%} by `max_corrupt`"
            )


def first_good(view, candidates, size):
    """The first of several examples that can be decoded.

    Args:
        view: A function of a candidate that gives a float32 image of `size`
            and a label, or fails.
        candidates: int64 vector.
        size: Side of the image in pixels, or `(height, width)`.

    Returns:
        Image, label and the number of candidates before it that could not
        be decoded; a black image and the number of all if none could.
    """
    count = tf.size(candidates, tf.int64)
    views = tf.data.Dataset.range(count).map(
        lambda skipped: (*view(candidates[skipped]), skipped)
    )
    none = (tf.zeros((*sides(size), 3)), tf.constant(0, tf.int64), count)
    # Decodes only the first candidate, if it is good.
    return (
        views.ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(none))
        .take(1)
        .get_single_element()
    )


def report(counter, skipped, names, labels, replaced):
    """Counts one batch, and fails if it cannot be used.

    Args:
        counter: A `CorruptCounter`.
        skipped: For each example how many candidates `first_good` passed
            over.
        names: Their names.
        labels: Their labels before they are mixed.
        replaced: Whether others replace broken images; else these leave the
            batch.

    Returns:
        A scalar tensor to depend on.
    """

    @tf.autograph.experimental.do_not_convert
    def count(skipped, names, labels):
        # File names need not be UTF-8.
        names = np.array(
            [name.decode("utf-8", "backslashreplace") for name in names],
            object,
        )
        broken = skipped > 0
        counter.count(len(names), names[broken], names[labels < 0])
        counter.check()
        if replaced and (skipped >= CANDIDATES).any():
            raise ValueError(
                f"{CANDIDATES} neighbors of the stream are all broken: no "
                f"good one can replace them. {counter.summary()}"
            )
        if not replaced and broken.all():
            raise ValueError(
                "All images of a batch are broken: make `batch_size` "
                f"larger, or remove them. {counter.summary()}"
            )
        return np.int64(0)

    vectors = [tf.reshape(each, [-1]) for each in (skipped, names, labels)]
    return tf.numpy_function(count, vectors, tf.int64)
