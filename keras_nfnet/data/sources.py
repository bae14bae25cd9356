"""Where examples come from, and what replaces those that are broken."""

import abc
import os

import numpy as np
import tensorflow as tf

from keras_nfnet.data.data_info import DataInfo
from keras_nfnet.data.folder import find_images
from keras_nfnet.data.preprocessing import sides

# An example and those that may replace it.
CANDIDATES = 16
# For folders, where every image is a file of its own.
_NO_CONTAINER = 0


class Source(abc.ABC):
    """A split whose images are not yet decoded.

    An example is a number in a container: a file's examples, read into
    memory, or for folders nothing.

    Attributes:
        info: Its `DataInfo`.
        examples: `tf.data.Dataset` of `(number, container)` in the order of
            the files.
    """

    @abc.abstractmethod
    def stream(self, seed, batch, first_step, start, count):
        """The endless shuffled stream, or a part of it.

        Args:
            seed: Integer, 0 or more.
            batch: Images that are read in one step.
            first_step: Step to begin at.
            start: First image of each step that is needed.
            count: Images of each step that are needed.

        Returns:
            A dataset of `(position, numbers, container)`. `position` is that
            of the image in the whole stream; `numbers` are its number and those
            of up to fifteen others that may replace it.
        """

    @abc.abstractmethod
    def read(self, number, container):
        """The encoded image and its label."""

    @abc.abstractmethod
    def name(self, number, container):
        """The example's name."""


class FolderSource(Source):
    """A split of a folder of images; see `find_images`."""

    def __init__(self, root, split):
        found = find_images(root, split)
        home = os.path.expanduser(root)
        self.info = DataInfo(
            name=str(root),
            split=split,
            examples=len(found.names),
            classes=len(found.classes),
            label_names=found.classes,
            counts=tuple(
                np.bincount(found.labels, minlength=len(found.classes))
            ),
            left_out=found.left_out,
            files=lambda: [
                (name, os.path.join(home, name)) for name in found.names
            ],
        )
        self.examples = tf.data.Dataset.range(self.info.examples).map(
            lambda number: (number, _NO_CONTAINER)
        )
        # As bytes: names of files need not be UTF-8.
        self._names = tf.constant([os.fsencode(name) for name in found.names])
        self._labels = tf.constant(found.labels, tf.int64)
        self._root = os.fsencode(os.path.join(home, ""))

    def stream(self, seed, batch, first_step, start, count):
        def positions(step):
            return step * batch + start + tf.range(count, dtype=tf.int64)

        def candidates(position):
            each = position + tf.range(CANDIDATES, dtype=tf.int64)
            seeds = [tf.fill([CANDIDATES], tf.constant(seed, tf.int64))]
            seeds += [tf.zeros_like(each), each // self.info.examples]
            # The operation itself: index_shuffle takes no vector of seeds.
            numbers = tf.raw_ops.RandomIndexShuffle(
                index=each % self.info.examples,
                seed=tf.stack(seeds, axis=1),
                max_index=tf.constant(self.info.examples - 1, tf.int64),
            )
            return position, numbers, _NO_CONTAINER

        steps = tf.data.Dataset.range(first_step, 2**62)
        return steps.map(positions).unbatch().map(candidates)

    def read(self, number, container):
        image = tf.io.read_file(self._root + self._names[number])
        return image, self._labels[number]

    def name(self, number, container):
        return self._names[number]


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
