"""Data sets that TFDS has written: what they hold, and how they are read."""

import difflib
import os

import numpy as np
import tensorflow as tf

from keras_nfnet.data.corrupt import CANDIDATES
from keras_nfnet.data.folder import did_you_mean, similar_folders
from keras_nfnet.data.order import Order


class StoredSplit:
    """A split of a TFDS data set with the features `image` and `label`.

    Args:
        name: Name of the data set.
        split: Name of the split, or a part such as `"train[:10%]"`.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Attributes:
        name: The data set's name and version.
        examples: Number of examples.
        label_names: One name per class.

    Raises:
        ValueError: If the data set or the split is not there, or its
            features are others.
    """

    def __init__(self, name, split, data_dir):
        import tensorflow_datasets as tfds

        builder = _builder(name, data_dir)
        _check_features(name, builder.info.features)
        try:
            files = builder.info.splits[split].file_instructions
        except (KeyError, ValueError, AssertionError) as error:
            raise ValueError(
                f"`split` must be one of {', '.join(builder.info.splits)}, or "
                f'a part such as "train[:10%]". Received: split={split!r}'
            ) from error
        if not files:
            raise ValueError(
                f"The split must have examples. Received: split={split!r} of "
                f"name={name!r}, which is empty"
            )
        self.name = builder.info.full_name
        self.label_names = tuple(builder.info.features["label"].names)
        self._paths = [str(file.filename) for file in files]
        self._skips = np.array([file.skip for file in files], np.int64)
        self._lengths = tuple(file.take for file in files)
        self.examples = sum(self._lengths)
        self._open = _opener(builder)
        # Others, such as boxes, are not parsed.
        self._features = tfds.features.FeaturesDict(
            {key: builder.info.features[key] for key in ("image", "label")}
        )
        self._decoders = {"image": tfds.decode.SkipDecoding()}

    def files(self):
        """`(name, path)` of each part of a file, in order.

        Names say which of the file's examples are in the split.
        """
        parts = zip(self._paths, self._skips, self._lengths, strict=True)
        return [
            (f"{os.path.basename(path)}[{skip}:{skip + take}]", path)
            for path, skip, take in parts
        ]

    def in_order(self):
        """All examples in the files' order, as `Source.examples`."""
        files = (self._paths, self._skips, np.array(self._lengths))

        def examples(path, skip, length):
            records = self._open(path).skip(skip).take(length)
            zero = tf.constant(0, tf.int64)
            return records.enumerate(skip).map(
                lambda number, record: (zero, (record[None], path, number))
            )

        return (
            tf.data.Dataset.from_tensor_slices(files)
            .flat_map(examples)
            .apply(tf.data.experimental.assert_cardinality(self.examples))
        )

    def read(self, number, container):
        """As `Source.read`."""
        records, _, _ = container
        example = self._features.deserialize_example(
            records[number], decoders=self._decoders
        )
        return example["image"], example["label"]

    def name_of(self, number, container):
        """As `Source.name`; as TFDS names examples."""
        _, path, first = container
        file = tf.strings.split(path, "/")[-1]
        place = tf.strings.as_string(first + tf.cast(number, tf.int64))
        return tf.strings.join([file, place], "__")

    def stream(self, seed, batch, first_step, start, count):
        """As `Source.stream`."""
        file_bytes = tf.io.gfile.stat(self._paths[0]).length
        order = Order(self._lengths, seed, batch, file_bytes)
        runs, run = order.blocks(start, count)
        paths, skips = tf.constant(self._paths), tf.constant(self._skips)
        lengths = tf.constant(self._lengths, tf.int64)

        def lane(first):
            """Images `first` to `first + run` of each batch, endlessly."""
            lane = first // order.block

            def visits(number):
                files = _int64s(order.visits, 4, number, lane, first_step)
                return tf.data.Dataset.from_tensor_slices(files).map(
                    lambda *visit: (number, *visit)
                )

            def load(number, file, begin, end, place):
                records = self._open(paths[file]).skip(skips[file])
                records = (
                    records.batch(lengths[file]).take(1).get_single_element()
                )
                # Places in the lane, and of these the ones asked for.
                asked = tf.range(begin, end)
                places = place + asked - begin
                inside = places % order.block + lane * order.block
                steps = places // order.block
                wanted = (inside >= first) & (inside < first + run)
                wanted &= steps >= first_step
                asked = tf.boolean_mask(asked, wanted)
                places = tf.boolean_mask(steps * batch + inside, wanted)
                (within,) = _int64s(order.within, 1, number, file)
                return file, records, within, places, asked

            def examples(file, records, within, places, asked):
                container = (records, paths[file], skips[file])

                def example(place, asked):
                    others = asked + tf.range(CANDIDATES, dtype=tf.int64)
                    numbers = tf.gather(within, others % lengths[file])
                    return place, numbers, container

                return tf.data.Dataset.from_tensor_slices((places, asked)).map(
                    example
                )

            passes = tf.data.Dataset.range(
                first_step * batch // self.examples, 2**62
            )
            # Reads the next file while the current one is in use.
            loaded = passes.flat_map(visits).map(load).prefetch(1)
            return loaded.flat_map(examples)

        return tf.data.Dataset.from_tensor_slices(runs).interleave(
            lane, cycle_length=len(runs), block_length=run
        )


def _int64s(function, count, *arguments):
    """Calls a function of integers in a graph; it gives `count` vectors."""

    def call(*arguments):
        vectors = function(*map(int, arguments))
        vectors = vectors if count > 1 else (vectors,)
        return [np.asarray(vector, np.int64) for vector in vectors]

    vectors = tf.numpy_function(call, arguments, [tf.int64] * count)
    return tuple(tf.ensure_shape(vector, (None,)) for vector in vectors)


def _opener(builder):
    """A function of a file's path that gives the dataset of its records."""
    from tensorflow_datasets.core import file_adapters

    kind = builder.info.file_format
    adapter = file_adapters.ADAPTER_FOR_FORMAT[kind]
    if kind == file_adapters.FileFormat.ARRAY_RECORD:
        raise ValueError(
            "The data set must be stored in a format that `tf.data` reads; "
            'build it with file_format="tfrecord". '
            f"Received: name={builder.info.full_name!r} in {kind.value}"
        )
    return adapter.make_tf_data


def _check_features(name, features):
    import tensorflow_datasets as tfds

    image, label = (
        dict(features or {}).get(each) for each in ("image", "label")
    )
    if image is None or label is None:
        raise ValueError(
            "The data set must have the features `image` and `label`. "
            f"Received: name={name!r} with the features "
            f"{sorted(features or ())}"
        )
    if not isinstance(image, tfds.features.Image) or image.np_dtype not in (
        np.uint8,
        np.uint16,
    ):
        raise ValueError(
            "The feature `image` must be a `tfds.features.Image` of uint8 or "
            "uint16, whose pixels are 0–255 or 0–65535. "
            f"Received: name={name!r} with image={image!r}"
        )
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise ValueError(
            "The feature `label` must be a `tfds.features.ClassLabel` of a "
            f"known number of classes. Received: name={name!r} with "
            f"label={label!r}"
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
        # The first line: the rest can be a list of all data sets.
        why = str(error).strip().partition("\n")[0][:200]
        similar = similar_folders(name) + difflib.get_close_matches(
            str(name).lower(), tfds.list_builders(), 2
        )
        raise ValueError(
            "`name` must be a folder of class folders or the name of a TFDS "
            f'data set, such as "imagenet2012". Received: name={name!r} '
            f"({why}){did_you_mean(similar)}"
        ) from error
    if not prepared:
        raise ValueError(
            f"The data set must be prepared first, with `tfds build {name}` "
            f"or `tfds.load({name!r})`. Received: name={name!r}, not found "
            f"in data_dir={str(builder.data_dir)!r}"
        )
    return builder
