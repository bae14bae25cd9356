"""Where examples come from: TFDS data sets and folders, in a seed's order."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from keras_nfnet.data import folder
from keras_nfnet.data.corrupt import CorruptCounter

# Encoded pictures held to shuffle from: 1.8 GB at ImageNet's 110 kB each.
_SHUFFLE_BUFFER = 16_384


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a split of a data set holds.

    Args:
        name: The data set's name and version, or the folder.
        split: The split.
        examples: Number of examples.
        classes: Number of classes.
        label_names: One name per class.
        corrupt: The pipeline's `CorruptCounter`; `None` without pipeline.
    """

    name: str
    split: str
    examples: int
    classes: int
    label_names: tuple
    corrupt: CorruptCounter | None = dataclasses.field(
        default=None, compare=False
    )

    def steps(self, batch_size):
        """Full batches in one pass over the split."""
        return self.examples // batch_size


@dataclasses.dataclass(frozen=True)
class Source:
    """A split whose pictures are not yet read or decoded.

    Args:
        info: Its `DataInfo`.
        examples: `tf.data.Dataset` of `(reference, label, name)` in the
            order of the files.
        read: A function of a reference that gives the encoded picture.
        windows: A function `(seed, place, size)` that gives the endless
            shuffled stream from its `place`th example on, as a dataset of
            `(references, labels, names)` of `size` examples each.
    """

    info: DataInfo
    examples: tf.data.Dataset
    read: Callable
    windows: Callable


def open_source(name, split, data_dir=None):
    """Opens a split of a TFDS data set or of a folder; see `load_split`."""
    if folder.is_folder(name):
        return _folder_source(name, split)
    return _tfds_source(name, split, data_dir)


def _folder_source(root, split):
    names, labels, classes = folder.list_pictures(root, split)
    info = DataInfo(str(root), split, len(names), len(classes), classes)
    paths = tf.constant(
        [str(folder.Path(root).expanduser() / n) for n in names]
    )
    names, labels = tf.constant(names), tf.constant(labels, tf.int64)

    def windows(seed, place, size):
        def window(first):
            places = first + tf.range(size, dtype=tf.int64)
            epochs = places // info.examples
            runs = tf.fill([size], tf.cast(seed, tf.int64))
            # The operation itself: index_shuffle takes no vector of seeds.
            index = tf.raw_ops.RandomIndexShuffle(
                index=places % info.examples,
                seed=tf.stack([runs, tf.zeros_like(runs), epochs], axis=1),
                max_index=tf.constant(info.examples - 1, tf.int64),
            )
            return [tf.gather(each, index) for each in (paths, labels, names)]

        places = tf.data.Dataset.range(place, 2**62, size)
        return places.map(lambda first: tuple(window(first)))

    examples = tf.data.Dataset.from_tensor_slices((paths, labels, names))
    return Source(info, examples, tf.io.read_file, windows)


def _tfds_source(name, split, data_dir):
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
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(builder.info.splits)}, or a "
            f'part such as "train[:10%]". Received: split={split!r}'
        ) from error
    if not count:
        raise ValueError(
            f"The split must have examples. Received: split={split!r} of "
            f"name={name!r}, which is empty"
        )
    info = DataInfo(
        name=builder.info.full_name,
        split=split,
        examples=count,
        classes=features["label"].num_classes,
        label_names=tuple(features["label"].names),
    )
    examples = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        shuffle_files=False,
        read_config=tfds.ReadConfig(add_tfds_id=True),
    ).map(lambda each: (each["image"], each["label"], each["tfds_id"]))

    def windows(seed, place, size):
        first_epoch, skipped = divmod(place, count)
        epochs = tf.data.Dataset.range(first_epoch, 2**62)
        stream = epochs.flat_map(
            lambda epoch: _shuffled(info, examples, seed, epoch)
        )
        return stream.skip(skipped).batch(size, drop_remainder=True)

    return Source(info, examples, lambda encoded: encoded, windows)


def _shuffled(info, examples, seed, epoch):
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
            buffer_size=min(info.examples, _SHUFFLE_BUFFER),
            seed=seeds[0],
            seed2=seeds[1],
            output_types=[spec.dtype for spec in examples.element_spec],
            output_shapes=[spec.shape for spec in examples.element_spec],
            reshuffle_each_iteration=False,
        ),
        structure=examples.element_spec,
    )


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
            '"imagenet2012", or a folder of class folders. '
            f"Received: name={name!r} ({error})"
        ) from error
    if not prepared:
        raise ValueError(
            f"The data set must be prepared first, with `tfds build {name}` "
            f"or `tfds.load({name!r})`. Received: name={name!r}, not found "
            f"in data_dir={str(builder.data_dir)!r}"
        )
    return builder
