"""Data sets that TFDS has written: what they hold, and how they are read.

A pass over the data is a permutation of its examples: the files in an order
of their own, and the examples of each file in an order of their own, both
drawn from the seed and the number of the pass. That row of examples is cut
into as many lanes as a batch has blocks, and a block is always filled from
its own lane. So one who needs a part of each batch reads the files of a few
lanes only, and one who begins at a later step reads each lane's current file
and none before it.

How random this is: any two passes are as different as two random
permutations as far as files go, so an example moves by a third of the data on
the average. Examples of one file stay together: all come while their lane
reads that file, which is `lanes` × (examples of a file) of the stream. Data
sets of TFDS are shuffled when they are written, unless they say otherwise, so
a file is a random sample. A data set of one file is permuted as a whole.
"""

import difflib
import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_nfnet.data.data_info import DataInfo
from keras_nfnet.data.folder import did_you_mean, similar_folders
from keras_nfnet.data.sources import CANDIDATES, Source

# Each lane holds two files in memory; ImageNet's have 140 MB each.
_MEMORY = 4 << 30
_MOST_LANES = 32


def permutation(count, *seeds):
    """A random permutation of `count` that NumPy's versions do not change."""
    # NumPy guarantees the streams of bit generators, not of distributions.
    draws = np.random.PCG64(seeds).random_raw(count)
    return np.argsort(draws, kind="stable")


@dataclass(frozen=True)
class Order:
    """Which stored example stands where in the endless stream.

    Place `p` of the stream is image `p % batch` of step `p // batch`, and
    belongs to pass `p // examples`.

    Args:
        lengths: Examples of each file.
        seed: Integer, 0 or more.
        batch: Images that one step reads.
        file_bytes: Size of a file.
    """

    lengths: tuple
    seed: int
    batch: int
    file_bytes: int = 1

    @property
    def examples(self):
        return sum(self.lengths)

    @property
    def lanes(self):
        """Number of lanes: a divisor of `batch`.

        Lanes end within files, which two lanes then read: hence two files
        for each lane at least.
        """
        most = min(len(self.lengths) // 2, _MEMORY // (2 * self.file_bytes))
        most = max(1, min(most, self.batch, _MOST_LANES))
        return max(n for n in range(1, most + 1) if self.batch % n == 0)

    @property
    def block(self):
        """Images of one batch that come from the same lane."""
        return self.batch // self.lanes

    def blocks(self, start, count):
        """Cuts a part of the batch into equal runs within one lane each.

        Args:
            start: First image of the part, a multiple of `count`.
            count: Images of the part, a divisor of `batch`.

        Returns:
            The first image of each run, and the runs' length.
        """
        length = int(np.gcd(self.block, count))
        return np.arange(start, start + count, length), length

    def visits(self, number, lane, first_step=0):
        """The files that a lane reads in one pass.

        Args:
            number: Number of the pass.
            lane: Number of the lane.
            first_step: Files that come before this step are left out.

        Returns:
            Four vectors with one entry for each file: its number, the first
            and one past the last of its examples to take, counted in the
            file's order of this pass, and the first one's position in the lane.
        """
        begins = self._before(number * self.examples)
        counts = self._before((number + 1) * self.examples) - begins
        start = counts[:lane].sum()
        order = permutation(len(self.lengths), self.seed, number)
        lengths = np.array(self.lengths)[order]
        offsets = np.cumsum(lengths) - lengths
        first = np.maximum(start - offsets, 0)
        last = np.minimum(start + counts[lane] - offsets, lengths)
        positions = begins[lane] + offsets + first - start
        taken = first < last
        taken &= positions + last - first > first_step * self.block
        return order[taken], first[taken], last[taken], positions[taken]

    def within(self, number, file):
        """The order of a file's examples in a pass, as their numbers."""
        return permutation(self.lengths[file], self.seed, number, file + 1)

    def _before(self, position):
        """How many positions before this one belong to each lane."""
        steps, rest = divmod(position, self.batch)
        starts = np.arange(self.lanes) * self.block
        return steps * self.block + np.clip(rest - starts, 0, self.block)


class StoredSource(Source):
    """A split of a TFDS data set with the features `image` and `label`.

    Args:
        name: Name of the data set.
        split: Name of the split, or a part such as `"train[:10%]"`.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Raises:
        ValueError: If the data set or the split is not there, or its
            features are others.
    """

    def __init__(self, name, split, data_dir):
        import tensorflow_datasets as tfds

        builder = _builder(name, data_dir)
        features = builder.info.features
        _check_features(name, features)
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
        self._open = _opener(builder)
        # Others, such as boxes, are not parsed.
        self._features = tfds.features.FeaturesDict(
            {key: features[key] for key in ("image", "label")}
        )
        self._decoders = {"image": tfds.decode.SkipDecoding()}
        self._paths = [str(file.filename) for file in files]
        self._skips = np.array([file.skip for file in files], np.int64)
        self._lengths = np.array([file.take for file in files], np.int64)
        self.info = DataInfo(
            name=builder.info.full_name,
            split=split,
            examples=int(self._lengths.sum()),
            classes=features["label"].num_classes,
            label_names=tuple(features["label"].names),
            files=self._files,
        )
        self.examples = (
            tf.data.Dataset.from_tensor_slices(
                (self._paths, self._skips, self._lengths)
            )
            .flat_map(self._in_order)
            .apply(tf.data.experimental.assert_cardinality(self.info.examples))
        )

    def _files(self):
        """`(name, path)` of each part of a file, in order.

        Names say which of the file's examples are in the split.
        """
        parts = zip(self._paths, self._skips, self._lengths, strict=True)
        return [
            (f"{os.path.basename(path)}[{skip}:{skip + take}]", path)
            for path, skip, take in parts
        ]

    def _in_order(self, path, skip, length):
        zero = tf.constant(0, tf.int64)
        records = self._open(path).skip(skip).take(length)
        return records.enumerate(skip).map(
            lambda number, record: (zero, (record[None], path, number))
        )

    def read(self, number, container):
        records, _, _ = container
        example = self._features.deserialize_example(
            records[number], decoders=self._decoders
        )
        return example["image"], example["label"]

    def name(self, number, container):
        # As TFDS names examples.
        _, path, first = container
        file = tf.strings.split(path, "/")[-1]
        position = tf.strings.as_string(first + tf.cast(number, tf.int64))
        return tf.strings.join([file, position], "__")

    def stream(self, seed, batch, first_step, start, count):
        file_bytes = tf.io.gfile.stat(self._paths[0]).length
        order = Order(tuple(self._lengths.tolist()), seed, batch, file_bytes)
        runs, run = order.blocks(start, count)
        paths, skips = tf.constant(self._paths), tf.constant(self._skips)
        lengths = tf.constant(self._lengths)

        def lane(first):
            """Images `first` to `first + run` of each batch, endlessly."""
            lane = first // order.block

            def visits(number):
                files = _int64s(
                    order.visits, (4, None), number, lane, first_step
                )
                return tf.data.Dataset.from_tensor_slices(
                    tuple(tf.unstack(files))
                ).map(lambda *visit: (number, *visit))

            def load(number, file, begin, end, position):
                records = self._open(paths[file]).skip(skips[file])
                records = (
                    records.batch(lengths[file]).take(1).get_single_element()
                )
                # Positions in the lane, and those of them that are asked for.
                asked = tf.range(begin, end)
                positions = position + asked - begin
                inside = positions % order.block + lane * order.block
                steps = positions // order.block
                wanted = (inside >= first) & (inside < first + run)
                wanted &= steps >= first_step
                asked = tf.boolean_mask(asked, wanted)
                positions = tf.boolean_mask(steps * batch + inside, wanted)
                within = _int64s(order.within, (None,), number, file)
                return file, records, within, positions, asked

            def examples(file, records, within, positions, asked):
                container = (records, paths[file], skips[file])

                def example(position, asked):
                    others = asked + tf.range(CANDIDATES, dtype=tf.int64)
                    numbers = tf.gather(within, others % lengths[file])
                    return position, numbers, container

                return tf.data.Dataset.from_tensor_slices(
                    (positions, asked)
                ).map(example)

            passes = tf.data.Dataset.range(
                first_step * batch // self.info.examples, 2**62
            )
            # Reads the next file while the current one is in use.
            loaded = passes.flat_map(visits).map(load).prefetch(1)
            return loaded.flat_map(examples)

        return tf.data.Dataset.from_tensor_slices(runs).interleave(
            lane, cycle_length=len(runs), block_length=run
        )


def _int64s(function, shape, *arguments):
    """Calls a function of integers, which gives integers, in a graph."""

    def call(*arguments):
        return np.asarray(function(*map(int, arguments)), np.int64)

    return tf.ensure_shape(tf.numpy_function(call, arguments, tf.int64), shape)


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
