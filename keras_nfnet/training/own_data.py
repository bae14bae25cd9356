"""Batches of a caller's own examples, for `train`."""

import tensorflow as tf

from keras_nfnet.data.data_info import CorruptCounter, DataInfo


def own_info(argument, dataset, recipe, size):
    """What a caller's dataset holds.

    Args:
        argument: Name of the caller's argument, for errors.
        dataset: The dataset.
        recipe: The `Recipe`.
        size: Side of the images in pixels.

    Returns:
        A `DataInfo`.

    Raises:
        ValueError: If the dataset is no `tf.data.Dataset` of so many
            examples `(image, label)`.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"`{argument}` must be a `tf.data.Dataset`. "
            f"Received: {argument}={dataset!r}"
        )
    classes = max(2, recipe.classes)
    spec = dataset.element_spec
    images = tf.TensorSpec((size, size, 3), tf.float32)
    fits = (
        isinstance(spec, tuple)
        and len(spec) == 2
        and images.is_compatible_with(spec[0])
        and (
            (spec[1].shape.rank == 0 and spec[1].dtype.is_integer)
            or (spec[1].shape == (classes,) and spec[1].dtype.is_floating)
        )
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must hold examples, not batches: pairs of a "
            f"normalized float32 image ({size}, {size}, 3) and an integer "
            f"label or {classes} floats. Received: examples {spec}"
        )
    examples = int(dataset.cardinality())
    if examples < 1:
        raise ValueError(
            f"`{argument}` must hold a known number of examples, above 0; "
            "`tf.data.experimental.assert_cardinality` tells it. "
            f"Received: a cardinality of {examples}"
        )
    return DataInfo(
        name=recipe.data,
        split=argument,
        examples=examples,
        classes=classes,
        label_names=tuple(str(index) for index in range(classes)),
        corrupt=CorruptCounter(recipe.max_corrupt, examples),
    )


def own_training_batches(dataset, info, batch_size, steps, first_step, shard):
    """Endless batches of examples, in their own order.

    Args:
        dataset: As `own_info` takes it.
        info: What `own_info` returned.
        batch_size: Examples of one global batch.
        steps: Batches of one epoch; examples beyond them are left out.
        first_step: Steps to skip.
        shard: `(index, count)`: give the `index`th of `count` equal parts of
            every batch.
    """
    index, count = shard
    part = batch_size // count

    def part_of(images, labels):
        rows = slice(index * part, (index + 1) * part)
        return images[rows], labels[rows]

    epoch = _batches(dataset.take(steps * batch_size), info, batch_size, True)
    return (
        epoch.skip(first_step % steps)
        .concatenate(epoch.repeat())
        .map(part_of)
        .prefetch(tf.data.AUTOTUNE)
    )


def own_evaluation_batches(dataset, info, batch_size):
    """One pass over the examples."""
    return _batches(dataset, info, batch_size, False)


def _batches(dataset, info, batch_size, drop_remainder):
    def one_hot(image, label):
        if label.shape.rank == 0:
            label = tf.one_hot(label, info.classes)
        return image, tf.cast(label, tf.float32)

    return dataset.map(one_hot).batch(batch_size, drop_remainder=drop_remainder)
