"""Tests of the order in which stored examples are read."""

import keras
import numpy as np
import pytest

# `tf.data` is the same on every backend; what a backend adds to it is tested
# in `test_data_preprocessing.py` and `test_training_exact.py`.
if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "input pipelines are tested on the TensorFlow backend",
        allow_module_level=True,
    )

import tensorflow as tf

from keras_nfnet.data import pipeline
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_nfnet.data.stored import Order

FILES, EXAMPLES = 16, 396


def pass_of(order, number):
    """The examples of one pass, by their place in the stream."""
    starts = np.cumsum((0, *order.lengths))
    stream = {}
    for lane in range(order.lanes):
        for file, first, last, place in zip(
            *order.visits(number, lane), strict=True
        ):
            examples = order.within(number, file)[first:last] + starts[file]
            places = np.arange(place, place + last - first)
            steps, inside = places // order.block, places % order.block
            places = steps * order.batch + lane * order.block + inside
            stream.update(zip(places, examples, strict=True))
    return np.array([stream[place] for place in sorted(stream)]), min(stream)


@pytest.mark.parametrize(
    ("lengths", "batch"),
    [
        *(((97,), 8), ((30, 31), 7), ((25,) * 15 + (21,), 24)),
        *(((3, 1, 0, 5, 2) * 9, 32), ((40,) * 64, 64)),
    ],
)
def test_a_pass_has_every_example_once(lengths, batch):
    order = Order(lengths, seed=3, batch=batch)
    assert batch % order.lanes == 0
    for number in range(3):
        examples, begin = pass_of(order, number)
        assert sorted(examples) == list(range(sum(lengths)))
        assert begin == number * sum(lengths)


def moves(order):
    """How far each example moves from a pass to the next, as a fraction."""
    places = [np.argsort(pass_of(order, number)[0]) for number in range(6)]
    return np.abs(np.diff(places, axis=0)) / order.examples


@pytest.mark.parametrize("files", [1, 16, 256])
def test_an_example_moves_by_a_third_of_the_data_between_passes(files):
    """As between random permutations, in which it moves by 1/3 on average."""
    order = Order((5120 // files,) * files, seed=0, batch=64)
    distances = moves(order)
    # Files move as wholes: few of them vary more.
    assert distances.mean() == pytest.approx(1 / 3, abs=0.08)
    assert 0.5 < (distances > 0.25).mean() < 0.7  # 0.5625 if uniform
    # No seed's order resembles another's.
    other = Order(order.lengths, seed=1, batch=64)
    ours, theirs = (pass_of(each, 0)[0] for each in (order, other))
    assert (ours == theirs).mean() < 0.05


def test_examples_of_many_files_meet_in_a_batch():
    order = Order((40,) * 64, seed=0, batch=64)
    examples, _ = pass_of(order, 0)
    batches = examples.reshape(-1, 64) // 40
    assert min(len(set(batch)) for batch in batches) >= order.lanes - 4
    # A lane reads a file to its end before the next.
    steps = np.arange(2560) // 64
    spans = [np.ptp(steps[examples // 40 == file]) for file in range(64)]
    assert np.median(spans) <= 40 / order.block


def test_the_data_set_of_large_files_has_few_lanes():
    lanes = [
        Order((1251,) * 1024, 0, 8192, size << 20).lanes
        for size in (1, 140, 1000, 5000)
    ]
    assert lanes == [32, 8, 2, 1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set of sixteen files; an image's pixels are its number."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("numbers")
    numbers = np.arange(EXAMPLES)
    pixels = np.stack([numbers // 20 * 10, numbers % 20 * 10, 0 * numbers], -1)
    images = np.tile(pixels[:, None, None], (1, 4, 4, 1)).astype("uint8")
    features = tfds.features
    tfds.dataset_builders.store_as_tfds_dataset(
        name="numbers",
        version="1.0.0",
        features=features.FeaturesDict(
            {
                "image": features.Image(shape=(4, 4, 3)),
                "label": features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(
                {"image": images, "label": numbers % 2}
            )
        },
        data_dir=folder,
        download_config=tfds.download.DownloadConfig(num_shards=FILES),
    )
    return str(folder)


@pytest.fixture
def opened(monkeypatch):
    """Paths of the files in the order in which they are opened."""
    from tensorflow_datasets.core import file_adapters

    paths = []

    def record(path):
        paths.append(path.decode().rpartition("/")[2])
        return path

    def make_tf_data(path, buffer_size=None):
        path = tf.numpy_function(record, [path], tf.string)
        return tf.data.TFRecordDataset(path)

    monkeypatch.setattr(
        file_adapters.TfRecordFileAdapter, "make_tf_data", make_tf_data
    )
    # What is read ahead would grow on a busy machine.
    monkeypatch.setattr(tf.data, "AUTOTUNE", 1)
    return paths


def batches(data_dir, count, batch_size=8, **options):
    """The images' numbers, step by step."""
    dataset, _ = pipeline.training_dataset(
        "numbers", size=4, batch_size=batch_size, data_dir=data_dir, **options
    )
    steps = []
    for images, labels in dataset.take(count):
        pixels = images.numpy()[:, 0, 0] * IMAGENET_STD + IMAGENET_MEAN
        tens, ones, _ = np.round(pixels / 10).astype(int).T
        numbers = tens * 20 + ones
        assert (labels.numpy().argmax(axis=-1) == numbers % 2).all()
        steps.append(numbers)
    return np.array(steps)


@pytest.mark.parametrize("batch_size", [6, 11])
def test_stored_examples_come_once_a_pass_in_another_order(
    data_dir, batch_size
):
    steps = EXAMPLES // batch_size
    seen = batches(data_dir, 2 * steps, batch_size).reshape(2, EXAMPLES)
    for numbers in seen:
        assert sorted(numbers) == list(range(EXAMPLES))
    assert (seen[0] == seen[1]).mean() < 0.05
    places = np.argsort(seen, axis=1)
    moved = np.abs(places[0] - places[1]).mean() / EXAMPLES
    assert moved == pytest.approx(1 / 3, abs=0.1)


@pytest.fixture(scope="module")
def whole(data_dir):
    """One worker's first 60 steps, a pass and a fifth."""
    return batches(data_dir, 60)


def test_workers_read_only_their_part_and_equal_one(data_dir, whole, opened):
    files, parts = [], []
    for index in range(4):
        parts.append(batches(data_dir, 40, shard=(index, 4)))
        files.append(list(opened))
        opened.clear()
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[:40])
    # A quarter, and parts of files at its ends and what is read ahead.
    assert max(map(len, files)) <= FILES / 4 + 4
    # In pairs that share a lane.
    parts = [batches(data_dir, 9, 4, shard=(n, 4)) for n in range(4)]
    one = batches(data_dir, 9, 4)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), one)


@pytest.mark.parametrize("first_step", [1, 30, 48, 55, 230])
def test_a_run_starts_at_any_step_with_one_file_a_lane(
    data_dir, whole, opened, first_step
):
    lanes = Order((25,) * FILES, 0, 8).lanes
    (start,) = batches(data_dir, 1, first_step=first_step, shard=(1, 2))
    if first_step < 60:
        np.testing.assert_array_equal(start, whole[first_step, 4:])
    # Each lane's current file, and the next is read ahead. At the end of a
    # pass, here 48, both can be nearly through.
    if first_step != 48:
        assert len(opened) <= 2 * lanes / 2 + 2


def test_two_images_go_into_each_mixed_one_and_none_is_used_twice(data_dir):
    """A pass over the images is half the steps of an epoch."""
    augment = Augmentation(
        *(5, 0), mixup=0, cutmix=1.0, flip=False, crop_area=(1, 1)
    )
    dataset, info = pipeline.training_dataset(
        "numbers", size=4, batch_size=9, augment=augment, data_dir=data_dir
    )
    assert info.steps(9) == EXAMPLES // 9
    used = []
    for images, _ in dataset.take(EXAMPLES // 9 // 2):
        pixels = images.numpy() * IMAGENET_STD + IMAGENET_MEAN
        tens, ones, _ = np.moveaxis(np.round(pixels / 10).astype(int), -1, 0)
        for numbers in (tens * 20 + ones).reshape(9, -1):
            # One where the box is empty or everything.
            assert len(set(numbers)) in (1, 2)
            used += set(numbers)
    assert len(used) == len(set(used)) > 1.3 * EXAMPLES / 2


def test_a_part_of_a_split_has_its_examples_alone(data_dir):
    dataset, info = pipeline.load_split("numbers", "train[10%:60%]", data_dir)
    stored = [image.numpy() for image, _ in dataset]
    assert dataset.cardinality() == info.examples == len(stored) == 198
    everything, _ = pipeline.load_split("numbers", "train", data_dir)
    everything = [image.numpy() for image, _ in everything]
    assert stored == everything[40:238]
    seen = batches(data_dir, 11, 18, split="train[10%:60%]").ravel()
    images = {tf.io.decode_image(image).numpy().tobytes() for image in stored}
    assert len(set(seen)) == len(images) == 198
