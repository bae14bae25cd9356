"""Training and evaluation batches of TFDS data sets and folders."""

import dataclasses

import tensorflow as tf

from keras_nfnet.data import augmentation
from keras_nfnet.data import graph_preprocessing as graph
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.corrupt import CorruptCounter, first_good, report
from keras_nfnet.data.preprocessing import EVALUATION_MARGIN, sides
from keras_nfnet.data.sources import DataInfo, open_source
from keras_nfnet.data.training_view import mixed_and_augmented, random_view

__all__ = ["DataInfo", "evaluation_dataset", "load_split", "training_dataset"]

# Neighbours in the stream that may stand in for a broken picture.
_WINDOW = 16


def load_split(name, split, data_dir=None):
    """A split of a TFDS data set or of a folder, its pictures still encoded.

    Args:
        name: A TFDS name, such as `"nf_digits"`, `"imagenet2012"` or
            `"cifar10:3.0.2"`, with the features `image` and `label`.
            `"nf_digits"` is written at its first use; others must have been
            prepared. Or a path to a folder of pictures, `split/class/picture`
            or `class/picture`; of the latter a tenth, chosen by a hash of
            its name, is `"test"` and the rest `"train"`. A folder that
            exists comes before a data set of that name.
        split: Such as `"train"`, or for TFDS also `"test[:10%]"`.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Returns:
        A `tf.data.Dataset` of `(encoded picture, label)`, always in the same
        order, and its `DataInfo`.

    Raises:
        ValueError: If the data set or the split is not there, has other
            features, or the folder is empty or has fewer than two classes.

    Example:

    >>> pictures, info = load_split("nf_digits", "test")
    """
    source = open_source(name, split, data_dir)
    dataset = source.examples.map(
        lambda reference, label, _: (source.read(reference), label)
    )
    return dataset, source.info


def training_dataset(
    name,
    split="train",
    *,
    size,
    batch_size,
    seed=0,
    augment=None,
    data_dir=None,
    first_step=0,
    shard=(0, 1),
    max_corrupt=0.1,
):
    """Endless shuffled and augmented batches.

    What a batch holds is a function of `seed` and its step alone: an epoch's
    order follows from the seed and the epoch, an example's augmentation from
    the seed and its place in the stream. So a run that resumes with
    `first_step` goes on as if it had not stopped; of what it skips nothing is
    decoded, and of a folder nothing read. Epochs follow each other without a
    gap: a batch may hold the end of one and the start of the next.

    With MixUp or CutMix two neighbours of the batch are mixed, each with the
    other (the first with the second, the third with the fourth, and so on):
    so a part of a batch needs no picture of another part, and its content
    does not depend on how many parts there are.

    A picture that cannot be decoded is replaced by the next good one of the
    sixteen it stands among in the stream, under its own augmentation: so
    what follows keeps its place.

    Args:
        name: A TFDS name or a folder, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one global batch.
        seed: A whole number, 0 or more.
        augment: An `Augmentation`; a function `(image, seed) -> image` on
            float32 images of `size` with pixels 0–255; a name in
            `augmentation.AUGMENTATIONS`; or `None`.
        data_dir: Where TFDS keeps data sets.
        first_step: Steps to skip.
        shard: `(index, count)`: give the `index`th of `count` equal parts of
            every global batch.
        max_corrupt: Share of broken pictures in [0, 1] beyond which the
            batches end in an error.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, normalized float32
        `(batch_size / count, size, size, 3)` and float32 labels, one-hot or
        mixed, `(batch_size / count, classes)`; and the split's `DataInfo`,
        whose `corrupt` counts broken pictures.

    Raises:
        ValueError: On bad arguments, or see `load_split`.

    Example:

    >>> batches, info = training_dataset(
    ...     "imagenet2012", size=192, batch_size=4096, augment=Augmentation()
    ... )

    Reference: arXiv:2102.06171, section 5.
    """
    sides(size)
    _whole("batch_size", batch_size, 1)
    _whole("seed", seed, 0)
    _whole("first_step", first_step, 0)
    augment = augmentation.get(augment)
    unit = 2 if isinstance(augment, Augmentation) and augment.mixes else 1
    _check_shard(shard, batch_size, unit)
    index, count = shard
    source = open_source(name, split, data_dir)
    info = source.info
    counter = CorruptCounter(max_corrupt, info.examples)

    first = first_step * batch_size
    start = first - first % _WINDOW
    part = batch_size // count

    def units(start, window):
        # The windows' own grid starts at the stream's first example.
        units = tf.data.Dataset.range(0, _WINDOW, unit)
        return units.map(lambda offset: (start + offset, offset, window))

    def is_wanted(place, offset, window):
        return (place >= first) & (place % batch_size // part == index)

    @tf.autograph.experimental.do_not_convert
    def prepared(place, offset, window):
        references, labels, names = window
        views = []
        for each in range(unit):
            own_seed = tf.stack([tf.cast(seed, tf.int64), place + each])

            def view(reference, own_seed=own_seed):
                encoded = source.read(reference)
                if isinstance(augment, Augmentation):
                    return random_view(encoded, size, augment, own_seed)
                return graph.resize(graph.decode(encoded), size)

            own = offset + each
            image, skipped = first_good(view, references, own, size)
            label = labels[(own + skipped) % _WINDOW]
            views.append((image, label, skipped, names[own]))
        images, *others = zip(*views, strict=True)
        labels, skipped, names = map(tf.stack, others)
        labels = tf.one_hot(labels, info.classes)
        if isinstance(augment, Augmentation):
            images, labels = mixed_and_augmented(
                images, labels, augment, batch_size, seed, place
            )
        elif augment is not None:
            images = [augment(images[0], own_seed)]
        return graph.normalize(tf.stack(images)), labels, skipped, names

    def batched(images, labels, skipped, names):
        images = tf.reshape(images, (part, *sides(size), 3))
        labels = tf.reshape(labels, (part, info.classes))
        reported = report(counter, skipped, names, _WINDOW)
        with tf.control_dependencies([reported]):
            return tf.identity(images), labels

    windows = source.windows(seed, start, _WINDOW)
    places = tf.data.Dataset.range(start, 2**62, _WINDOW)
    dataset = (
        tf.data.Dataset.zip(places, windows)
        .flat_map(lambda start, window: units(start, window))
        .filter(is_wanted)
        .map(prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(part // unit, drop_remainder=True)
        .map(batched)
        .prefetch(tf.data.AUTOTUNE)
        .apply(
            tf.data.experimental.assert_cardinality(
                tf.data.INFINITE_CARDINALITY
            )
        )
        .with_options(_options())
    )
    return dataset, dataclasses.replace(info, corrupt=counter)


def evaluation_dataset(
    name,
    split="test",
    *,
    size,
    batch_size,
    data_dir=None,
    margin=EVALUATION_MARGIN,
    max_corrupt=0.1,
):
    """One pass in order, with the paper's evaluation preprocessing.

    Pictures that cannot be decoded are left out of their batch and counted.

    Args:
        name: A TFDS name or a folder, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one batch; the last may hold fewer.
        data_dir: Where TFDS keeps data sets.
        margin: Pixels to resize beyond `size` before the centre crop; 0 for
            pictures that are framed tightly, such as the digits.
        max_corrupt: Share of broken pictures in [0, 1] beyond which the
            batches end in an error.

    Returns:
        As `training_dataset`; the number of batches is known.

    Raises:
        ValueError: On bad arguments, or see `load_split`.
    """
    sides(size)
    _whole("batch_size", batch_size, 1)
    _whole("margin", margin, 0)
    source = open_source(name, split, data_dir)
    info = source.info
    counter = CorruptCounter(max_corrupt, info.examples)

    def prepared(reference, label, name):
        def view(reference):
            image = graph.decode(source.read(reference))
            return graph.evaluation_view(image, size, margin)

        image, skipped = first_good(view, reference[None], 0, size)
        label = tf.one_hot(label, info.classes)
        return graph.normalize(image), label, skipped, name

    def batched(images, labels, skipped, names):
        reported = report(counter, skipped, names)
        with tf.control_dependencies([reported]):
            good = skipped == 0
            return tf.boolean_mask(images, good), tf.boolean_mask(labels, good)

    dataset = (
        source.examples.map(
            prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        .batch(batch_size)
        .map(batched)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )
    return dataset, dataclasses.replace(info, corrupt=counter)


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # Examples are what runs in parallel, not the operations on one of them.
    options.threading.max_intra_op_parallelism = 1
    return options


def _check_shard(shard, batch_size, unit):
    is_pair = isinstance(shard, list | tuple) and len(shard) == 2
    if (
        not is_pair
        or any(isinstance(n, bool) or not isinstance(n, int) for n in shard)
        or not 0 <= shard[0] < shard[1]
    ):
        raise ValueError(
            "`shard` must be (index, count), whole numbers with 0 <= index < "
            f"count. Received: shard={shard!r}"
        )
    if batch_size % (shard[1] * unit):
        pairs = " of an even number, since images are mixed in pairs"
        raise ValueError(
            f"`batch_size` must be a multiple of {shard[1] * unit}, for "
            f"{shard[1]} equal part(s){pairs if unit == 2 else ''}. "
            f"Received: batch_size={batch_size}, shard={tuple(shard)!r}"
        )


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be a whole number, {least} or more. "
            f"Received: {name}={value!r}"
        )
