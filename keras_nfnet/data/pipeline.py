"""Training and evaluation batches of TFDS data sets and folders."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from keras_nfnet.data import augmentation
from keras_nfnet.data import graph_preprocessing as graph
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.data_info import CorruptCounter, DataInfo
from keras_nfnet.data.folder import is_folder
from keras_nfnet.data.labels import check_names
from keras_nfnet.data.preprocessing import EVALUATION_MARGIN, sides
from keras_nfnet.data.sources import FolderSource, first_good, report
from keras_nfnet.data.stored import StoredSource
from keras_nfnet.data.training_image import (
    mixed_and_augmented,
    normalized,
    random_crop,
)
from keras_nfnet.utils.arguments import (
    count,
    integer,
    path,
    refuse,
    sequence,
    text,
)
from keras_nfnet.utils.types import Path, Size

__all__ = ["DataInfo", "evaluation_dataset", "load_split", "training_dataset"]


def load_split(
    name: Path, split: str, data_dir: Path | None = None
) -> tuple[Any, DataInfo]:
    """A split of a TFDS data set or of a folder, its images still encoded.

    Args:
        name: A TFDS name, such as `"nf_digits"`, `"imagenet2012"` or
            `"cifar10:3.0.2"`, with the features `image` and `label`.
            `"nf_digits"` is written at its first use; others must have been
            prepared. Or a path to a folder of images, `split/class/image`
            or `class/image`; of the latter a tenth, chosen by a hash of
            its name, is `"test"` and the rest `"train"`. A folder that
            exists comes before a data set of that name.
        split: Such as `"train"`, or for TFDS also `"test[:10%]"`.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Returns:
        A `tf.data.Dataset` of `(encoded image, label)`, always in the same
        order, and its `DataInfo`, whose `summary()` says what was found.

    Raises:
        ValueError: If the data set or the split is not there, has other
            features, or the folder is empty or has fewer than two classes.

    Example:

    >>> images, info = load_split("nf_digits", "test")
    >>> print(info.summary())
    nf_digits/1.0.0, test: 360 images, 10 classes
    """
    source = _opened(name, split, data_dir)
    return source.examples.map(source.read), source.info


def training_dataset(
    name: Path,
    split: str = "train",
    *,
    size: Size,
    batch_size: int,
    seed: int = 0,
    augment: Any = None,
    data_dir: Path | None = None,
    first_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    max_corrupt: float = 0.1,
) -> tuple[Any, DataInfo]:
    """Endless shuffled and augmented batches.

    What a batch holds is a function of `seed` and its step alone: the order
    of a pass over the data follows from the seed and the number of the pass,
    an example's augmentation from the seed and its position in the stream. So a
    run that resumes with `first_step` goes on as if it had not stopped. Of
    what it skips nothing is decoded; of a folder nothing is read, and of a
    TFDS data set at most what comes before in the files that are then read.
    Passes follow each other without a gap: a batch may hold the end of one
    and the start of the next.

    A folder is shuffled as a whole. Of a TFDS data set the files are
    shuffled, and the examples of each file: see `data/stored.py` for how
    random that is. The parts of a batch come from different files where
    there are many, so with `shard` one of several workers reads only its
    part.

    With MixUp or CutMix two images go into each one of the batch, and no
    image is used twice in a pass: a step reads two images for each example,
    so that in the steps of one epoch each image is read twice, as with the
    authors.

    An image that cannot be decoded is replaced by the next good one, of the
    fifteen that follow in the stream or in its file, under its own
    augmentation: so all others keep their position.

    Args:
        name: A TFDS name or a folder, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one global batch.
        seed: Integer, 0 or more.
        augment: An `Augmentation`; a function `(image, seed) -> image` on
            float32 images of `size` with pixels 0–255; a name in
            `augmentation.AUGMENTATIONS`; or `None`.
        data_dir: Where TFDS keeps data sets.
        first_step: Steps to skip.
        shard: `(index, count)`: give the `index`th of `count` equal parts of
            every global batch.
        max_corrupt: Fraction of broken images in [0, 1] beyond which the
            batches end in an error.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, normalized float32
        `(batch_size / count, size, size, 3)` and float32 labels, one-hot or
        mixed, `(batch_size / count, classes)`; and the split's `DataInfo`,
        whose `corrupt` counts broken images.

    Raises:
        ValueError: On bad arguments, or see `load_split`.

    Example:

    >>> batches, info = training_dataset(
    ...     "imagenet2012", size=192, batch_size=4096, augment=Augmentation()
    ... )

    Reference: arXiv:2102.06171, section 5.
    """
    batch_size = _checked_batch(batch_size, size)
    seed = count("seed", seed)
    first_step = count("first_step", first_step)
    augment = augmentation.get(augment)
    augments = isinstance(augment, Augmentation)
    index, parts = _checked_shard(shard, batch_size)
    source = _opened(name, split, data_dir)
    info = source.info
    counter = CorruptCounter(max_corrupt, info.examples)

    # Images that one example is made of, and that one step reads: first
    # those that come first in their mixture, then the others.
    unit = 2 if augments and augment.mixes else 1
    read = unit * batch_size
    part = batch_size // parts
    streams = tuple(
        source.stream(
            seed, read, first_step, batch_size * first + part * index, part
        )
        for first in range(unit)
    )

    def decoded(position, candidates, container):
        seeds = tf.stack([tf.cast(seed, tf.int64), position])

        def view(candidate):
            encoded, label = source.read(candidate, container)
            if augments:
                return random_crop(encoded, size, augment, seeds), label
            return graph.resize(graph.decode(encoded), size), label

        name = source.name(candidates[0], container)
        return *first_good(view, candidates, size), name

    @tf.autograph.experimental.do_not_convert
    def prepared(*examples):
        images, labels, skipped, names = (
            list(each)
            for each in zip(*(decoded(*e) for e in examples), strict=True)
        )
        position = examples[0][0]
        seeds = tf.stack([tf.cast(seed, tf.int64), position])
        one_hot = tf.one_hot(labels, info.classes)
        image, label = images[0], one_hot[0]
        if augments:
            image, label = mixed_and_augmented(
                images,
                one_hot,
                augment,
                position % read * 2 < batch_size,
                # `random_crop` draws from the seeds themselves.
                tf.random.fold_in(seeds, 1),
            )
        elif augment is not None:
            image = augment(image, seeds)
        image = normalized(tf.ensure_shape(image, (*sides(size), 3)))
        return image, label, skipped, names, labels

    # Goes on reading while images are decoded. Holds no image itself.
    examples = tf.data.Dataset.zip(streams).prefetch(part)
    dataset = _batches(examples, prepared, part, counter, replaces=True).apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    )
    return dataset, dataclasses.replace(info, corrupt=counter)


def evaluation_dataset(
    name: Path,
    split: str = "test",
    *,
    size: Size,
    batch_size: int,
    data_dir: Path | None = None,
    margin: int = EVALUATION_MARGIN,
    max_corrupt: float = 0.1,
) -> tuple[Any, DataInfo]:
    """One pass in order, with the paper's evaluation preprocessing.

    Images that cannot be decoded are left out of their batch and counted.

    Args:
        name: A TFDS name or a folder, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one batch; the last may hold fewer.
        data_dir: Where TFDS keeps data sets.
        margin: Pixels to resize beyond `size` before the centre crop; 0 for
            images that are framed tightly, such as the digits.
        max_corrupt: Fraction of broken images in [0, 1] beyond which the
            batches end in an error.

    Returns:
        As `training_dataset`; the number of batches is known.

    Raises:
        ValueError: On bad arguments, or see `load_split`.
    """
    batch_size = _checked_batch(batch_size, size)
    margin = count("margin", margin)
    source = _opened(name, split, data_dir)
    info = source.info
    counter = CorruptCounter(max_corrupt, info.examples)

    def prepared(number, container):
        def view(number):
            encoded, label = source.read(number, container)
            image = graph.decode(encoded)
            return graph.evaluation_view(image, size, margin), label

        image, label, skipped = first_good(view, number[None], size)
        image = normalized(tf.ensure_shape(image, (*sides(size), 3)))
        name = source.name(number, container)
        return image, tf.one_hot(label, info.classes), skipped, name, label

    dataset = _batches(
        source.examples, prepared, batch_size, counter, replaces=False
    )
    return dataset, dataclasses.replace(info, corrupt=counter)


def _opened(name, split, data_dir):
    """A `Source`; see `load_split`."""
    path("name", name, "the name of a data set or the path of a folder")
    text("split", split)
    if data_dir is not None:
        path("data_dir", data_dir, "the path of a folder, or `None`")
    if is_folder(name):
        source = FolderSource(name, split)
    else:
        source = StoredSource(name, split, data_dir)
    check_names(source.info.label_names, f"The classes of {source.info.name!r}")
    return source


def _batches(examples, prepared, size, counter, replaces):
    """Prepares examples in parallel, counts the broken ones and batches them.

    Args:
        examples: What a `Source` gives.
        prepared: A function of an example that gives image, label, and what
            `report` counts.
        size: Examples of a batch.
        counter: A `CorruptCounter`.
        replaces: Whether others replace broken images; else these leave the
            batch.
    """

    def batched(images, labels, *counted):
        reported = report(counter, *counted, replaced=replaces)
        with tf.control_dependencies([reported]):
            if replaces:
                return tf.identity(images), labels
            good = counted[0] == 0
            return tf.boolean_mask(images, good), tf.boolean_mask(labels, good)

    options = tf.data.Options()
    options.deterministic = True
    # Examples are what runs in parallel, not the operations on one of them.
    options.threading.max_intra_op_parallelism = 1
    return (
        examples.map(
            prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        .batch(size, drop_remainder=replaces)
        .map(batched)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def _checked_batch(batch_size, size):
    """Refuses a batch whose images alone are larger than the memory."""
    height, width = sides(size)
    batch_size = integer("batch_size", batch_size)
    needed = batch_size * height * width * 3 * 4
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        refuse(
            "batch_size",
            batch_size,
            f"small enough that its images, {needed / 2**30:,.0f} GiB, fit "
            f"into the memory of {memory / 2**30:,.0f} GiB",
        )
    return batch_size


def _checked_shard(shard, batch_size):
    expected = "(index, count), integers with 0 <= index < count"
    try:
        index, parts = (count("shard", n) for n in sequence("shard", shard))
        if index >= parts:
            raise ValueError
    except ValueError:
        refuse("shard", shard, expected)
    if batch_size % parts:
        raise ValueError(
            f"`batch_size` must be a multiple of {parts}, for as many equal "
            f"parts. Received: batch_size={batch_size}, shard={(index, parts)}"
        )
    return index, parts
