"""Training and evaluation batches from any TFDS data set, with `tf.data`."""

import dataclasses

import tensorflow as tf

from keras_nfnet.data import augmentation
from keras_nfnet.data import graph_preprocessing as graph
from keras_nfnet.data.preprocessing import EVALUATION_MARGIN, sides

# Encoded pictures held to shuffle from: 1.8 GB at ImageNet's 110 kB each.
_SHUFFLE_BUFFER = 16_384


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a split of a data set holds.

    Args:
        name: The data set's name and version.
        split: The split.
        examples: Number of examples.
        classes: Number of classes.
        label_names: One name per class.
    """

    name: str
    split: str
    examples: int
    classes: int
    label_names: tuple

    def steps(self, batch_size):
        """Full batches in one pass over the split."""
        return self.examples // batch_size


def load_split(name, split, data_dir=None):
    """A split of a TFDS data set, its pictures still encoded.

    Args:
        name: A TFDS name, such as `"nf_digits"`, `"imagenet2012"` or
            `"cifar10:3.0.2"`, with the features `image` and `label`.
            `"nf_digits"` is written at its first use; others must have been
            prepared.
        split: Such as `"train"` or `"test[:10%]"`.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Returns:
        A `tf.data.Dataset` of `(encoded picture, label)`, always in the same
        order, and its `DataInfo`.

    Raises:
        ValueError: If the data set or the split is not there, or has other
            features.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features or ()) or not isinstance(
        features["label"], tfds.features.ClassLabel
    ):
        raise ValueError(
            "The data set must have the features `image` and `label`, a "
            f"class. Received: name={name!r} with the features "
            f"{sorted(features or ())}"
        )
    try:
        examples = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(builder.info.splits)}, or a "
            f'part such as "train[:10%]". Received: split={split!r}'
        ) from error
    if not examples:
        raise ValueError(
            f"The split must have examples. Received: split={split!r} of "
            f"name={name!r}, which is empty"
        )
    dataset = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        shuffle_files=False,
    )
    dataset = dataset.map(lambda example: (example["image"], example["label"]))
    info = DataInfo(
        name=builder.info.full_name,
        split=split,
        examples=examples,
        classes=features["label"].num_classes,
        label_names=tuple(features["label"].names),
    )
    return dataset, info


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
):
    """Endless shuffled and augmented batches.

    What a batch holds is a function of `seed` and its step alone: an epoch's
    order follows from the seed and the epoch, an example's augmentation from
    the seed and its place in the stream. So a run that resumes with
    `first_step` goes on as if it had not stopped. Epochs follow each other
    without a gap: a batch may hold the end of one and the start of the next.

    Args:
        name: A TFDS name, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one (global) batch.
        seed: A whole number, 0 or more.
        augment: A function `(image, seed) -> image` on float32 images of
            `size` with pixels 0–255, a name in
            `augmentation.AUGMENTATIONS`, or `None`.
        data_dir: Where TFDS keeps data sets.
        first_step: Steps to skip.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, normalized float32
        `(batch_size, size, size, 3)` and one-hot float32
        `(batch_size, classes)`, and the split's `DataInfo`.

    Raises:
        ValueError: On bad arguments, or see `load_split`.
    """
    sides(size)
    _whole("batch_size", batch_size, 1)
    _whole("seed", seed, 0)
    _whole("first_step", first_step, 0)
    augment = augmentation.get(augment)
    examples, info = load_split(name, split, data_dir)
    first_epoch, skipped = divmod(first_step * batch_size, info.examples)
    buffer_size = min(info.examples, _SHUFFLE_BUFFER)

    def shuffled(epoch):
        # NOTE: with more examples than the buffer holds, neighbours in the
        # files stay near each other.
        seeds = tf.random.experimental.stateless_fold_in(
            tf.constant([seed, 0], tf.int64), epoch
        )
        # The operation itself: Dataset.shuffle mixes TensorFlow's global
        # seed in, and fails on a tensor where that is 0.
        return tf.data.experimental.from_variant(
            tf.raw_ops.ShuffleDataset(
                input_dataset=tf.data.experimental.to_variant(examples),
                buffer_size=buffer_size,
                seed=seeds[0],
                seed2=seeds[1],
                output_types=[tf.string, tf.int64],
                output_shapes=[(), ()],
                reshuffle_each_iteration=False,
            ),
            structure=examples.element_spec,
        )

    def prepared(place, example):
        encoded, label = example
        image = graph.resize(graph.decode(encoded), size)
        if augment is not None:
            image = augment(image, tf.stack([tf.cast(seed, tf.int64), place]))
        return graph.normalize(image), tf.one_hot(label, info.classes)

    epochs = tf.data.Dataset.range(first_epoch, 2**62)
    dataset = (
        epochs.flat_map(shuffled)
        .skip(skipped)
        .enumerate(first_step * batch_size)
        .map(prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    return dataset, info


def evaluation_dataset(
    name,
    split="test",
    *,
    size,
    batch_size,
    data_dir=None,
    margin=EVALUATION_MARGIN,
):
    """One pass in order, with the paper's evaluation preprocessing.

    Args:
        name: A TFDS name, see `load_split`.
        split: The split.
        size: Side of the images in pixels, or `(height, width)`.
        batch_size: Examples of one batch; the last may hold fewer.
        data_dir: Where TFDS keeps data sets.
        margin: Pixels to resize beyond `size` before the centre crop; 0 for
            pictures that are framed tightly, such as the digits.

    Returns:
        As `training_dataset`.

    Raises:
        ValueError: On bad arguments, or see `load_split`.
    """
    sides(size)
    _whole("batch_size", batch_size, 1)
    _whole("margin", margin, 0)
    examples, info = load_split(name, split, data_dir)

    def prepared(encoded, label):
        image = graph.evaluation_view(graph.decode(encoded), size, margin)
        return graph.normalize(image), tf.one_hot(label, info.classes)

    dataset = (
        examples.map(
            prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
    return dataset, info


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    if str(name).split(":")[0].split("/")[0] == "nf_digits":
        from keras_nfnet.data.digits import digits_builder

        return digits_builder(data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        prepared = bool(builder.info.splits)
    except Exception as error:  # TFDS raises many types here.
        raise ValueError(
            "`name` must be the name of a TFDS data set, such as "
            f'"imagenet2012". Received: name={name!r} ({error})'
        ) from error
    if not prepared:
        raise ValueError(
            f"The data set must be prepared first, with `tfds build {name}` "
            f"or `tfds.load({name!r})`. Received: name={name!r}, not found "
            f"in data_dir={str(builder.data_dir)!r}"
        )
    return builder


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be a whole number, {least} or more. "
            f"Received: {name}={value!r}"
        )
