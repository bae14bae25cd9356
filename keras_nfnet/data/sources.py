"""Where examples come from: TFDS data sets and folders, in a seed's order."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_nfnet.data import folder, stored
from keras_nfnet.data.corrupt import CANDIDATES, CorruptCounter
from keras_nfnet.data.labels import check_names
from keras_nfnet.utils.arguments import path, text

# How many classes `DataInfo.summary` counts one by one.
_COUNTED = 10


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a split of a data set holds.

    Args:
        name: The data set's name and version, or the folder.
        split: The split.
        examples: Number of examples.
        classes: Number of classes.
        label_names: One name per class.
        counts: Number of examples of each class, or `None`: data sets of
            TFDS do not store it.
        left_out: One line on each kind of files that are left out, and why.
        corrupt: The pipeline's `CorruptCounter`; `None` without pipeline.
        files: A function that gives `(name, path)` of each file with
            examples, in their order; `None` where there are no files.
    """

    name: str
    split: str
    examples: int
    classes: int
    label_names: tuple
    counts: tuple | None = None
    left_out: tuple = ()
    corrupt: CorruptCounter | None = dataclasses.field(
        default=None, compare=False
    )
    files: Callable | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def steps(self, batch_size: int) -> int:
        """Full batches in one pass over the split."""
        return self.examples // batch_size

    def summary(self) -> str:
        """A few lines on what was found.

        Returns:
            A string: the split, its numbers of images and classes, the
            images of each class, where they are known, and what was left
            out.
        """
        lines = [
            f"{self.name}, {self.split}: {self.examples:,} images, "
            f"{self.classes:,} classes"
        ]
        if self.counts is not None:
            named = list(zip(self.label_names, self.counts, strict=True))
            if len(named) > _COUNTED:
                named.sort(key=lambda each: each[1])
                few, many = named[0], named[-1]
                lines.append(
                    f"  from {few[1]:,} images ({few[0]}) to {many[1]:,} "
                    f"({many[0]}) a class"
                )
            else:
                counted = (f"{name} {count:,}" for name, count in named)
                lines.append(f"  {', '.join(counted)}")
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Source:
    """A split whose images are not yet decoded.

    An example is a number in a container: a file's examples, read into
    memory, or for folders nothing.

    Args:
        info: Its `DataInfo`.
        examples: `tf.data.Dataset` of `(number, container)` in the order of
            the files.
        stream: A function `(seed, batch, first_step, start, count)` that
            gives the endless shuffled stream of those who need images
            `start` to `start + count` of each batch from `first_step` on,
            where `batch` images are read in a step: a dataset of
            `(place, numbers, container)`. `place` is the image's place in
            the whole stream, and `numbers` are its number and those of up
            to fifteen others that may replace it.
        read: A function `(number, container)` that gives the encoded image
            and its label.
        name: A function `(number, container)` that gives the example's name.
    """

    info: DataInfo
    examples: tf.data.Dataset
    stream: Callable
    read: Callable
    name: Callable


def open_source(name, split, data_dir=None):
    """Opens a split of a TFDS data set or of a folder; see `load_split`."""
    path("name", name, "the name of a data set or the path of a folder")
    text("split", split)
    if data_dir is not None:
        path("data_dir", data_dir, "the path of a folder, or `None`")
    if folder.is_folder(name):
        source = _folder_source(name, split)
    else:
        source = _tfds_source(name, split, data_dir)
    check_names(source.info.label_names, f"The classes of {source.info.name!r}")
    return source


def _folder_source(root, split):
    found = folder.find_images(root, split)
    home = os.path.expanduser(root)
    info = DataInfo(
        name=str(root),
        split=split,
        examples=len(found.names),
        classes=len(found.classes),
        label_names=found.classes,
        counts=tuple(np.bincount(found.labels, minlength=len(found.classes))),
        left_out=found.left_out,
        files=lambda: [
            (name, os.path.join(home, name)) for name in found.names
        ],
    )
    # As bytes: names of files need not be UTF-8.
    names = tf.constant([os.fsencode(name) for name in found.names])
    labels = tf.constant(found.labels, tf.int64)
    root = os.fsencode(os.path.join(home, ""))

    def read(number, _):
        return tf.io.read_file(root + names[number]), labels[number]

    def stream(seed, batch, first_step, start, count):
        def places(step):
            return step * batch + start + tf.range(count, dtype=tf.int64)

        def candidates(place):
            each = place + tf.range(CANDIDATES, dtype=tf.int64)
            seeds = [tf.fill([CANDIDATES], tf.constant(seed, tf.int64))]
            seeds += [tf.zeros_like(each), each // info.examples]
            # The operation itself: index_shuffle takes no vector of seeds.
            numbers = tf.raw_ops.RandomIndexShuffle(
                index=each % info.examples,
                seed=tf.stack(seeds, axis=1),
                max_index=tf.constant(info.examples - 1, tf.int64),
            )
            return place, numbers, _NO_CONTAINER

        steps = tf.data.Dataset.range(first_step, 2**62)
        return steps.map(places).unbatch().map(candidates)

    examples = tf.data.Dataset.range(info.examples)
    examples = examples.map(lambda number: (number, _NO_CONTAINER))
    return Source(info, examples, stream, read, lambda n, _: names[n])


def _tfds_source(name, split, data_dir):
    data = stored.StoredSplit(name, split, data_dir)
    info = DataInfo(
        name=data.name,
        split=split,
        examples=data.examples,
        classes=len(data.label_names),
        label_names=data.label_names,
        files=data.files,
    )
    return Source(info, data.in_order(), data.stream, data.read, data.name_of)


# For folders, where every image is a file of its own.
_NO_CONTAINER = 0
