"""Tests of the digits data set and of `keras_nfnet.data.pipeline`."""

import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "input pipelines are tested on the TensorFlow backend",
        allow_module_level=True,
    )

import tensorflow as tf

from keras_nfnet.data import pipeline
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.preprocessing import evaluation_picture, preprocess_input
from keras_nfnet.data.training_image import shift_zoom_rotate

PREPARE = """
    from keras_nfnet.data.digits import digits_builder
    print("ready", flush=True)
    builder = digits_builder({!r})
    assert len(list(builder.as_dataset(split="test"))) == 360
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepared by two processes at the same time."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    script = textwrap.dedent(PREPARE.format(folder))
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    left = os.listdir(os.path.join(folder, "nf_digits"))
    assert left == ["1.0.0"]
    return folder


def test_digits_are_the_1797_of_scikit_learn(data_dir):
    import tensorflow_datasets as tfds
    from sklearn.datasets import load_digits

    from keras_nfnet.data.digits import digits_builder

    digits = load_digits()
    builder = digits_builder(data_dir)
    assert builder.info.splits["train"].num_examples == 1437
    assert builder.info.features["label"].names == list("0123456789")
    seen = []
    for split in ("train", "test"):
        for example in tfds.load("nf_digits", split=split, data_dir=data_dir):
            index = int(example["id"])
            seen.append(index)
            assert int(example["label"]) == digits.target[index]
            np.testing.assert_array_equal(
                example["image"][..., 0],
                np.round(digits.images[index] * 255 / 16),
            )
    assert sorted(seen) == list(range(1797))


def test_a_killed_preparation_does_not_disturb_the_next(tmp_path):
    script = textwrap.dedent(PREPARE.format(str(tmp_path)))
    # Kill when the incomplete directory is there, before it is renamed.
    script = (
        "import os, signal\n"
        "from tensorflow_datasets.core import dataset_info\n"
        "dataset_info.DatasetInfo.write_to_directory = (\n"
        "    lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))\n" + script
    )
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path / "nf_digits")
    assert left.startswith("incomplete.")
    _, info = pipeline.load_split("nf_digits", "test", str(tmp_path))
    assert info.examples == 360
    dataset, _ = pipeline.load_split("nf_digits", "train", str(tmp_path))
    assert sum(1 for _ in dataset) == 1437


def test_load_split_gives_encoded_pictures_and_what_they_are(data_dir):
    dataset, info = pipeline.load_split("nf_digits", "test[:10]", data_dir)
    examples = list(dataset)
    assert len(examples) == info.examples == 10
    assert examples[0][0].numpy().startswith(b"\x89PNG")
    assert (info.classes, info.label_names) == (10, tuple("0123456789"))
    assert info.name == "nf_digits/1.0.0"
    assert info.steps(4) == 2


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nf_digits", "valid", "`split` must be one of train, test"),
        ("nf_digits", "test[:0]", "must have examples"),
        ("no_such_data_set", "train", "`name` must be .*no_such_data_set"),
        ("mnist", "train", "must be prepared first.*mnist"),
    ],
)
def test_load_split_refuses_what_is_not_there(data_dir, name, split, message):
    with pytest.raises(ValueError, match=message):
        pipeline.load_split(name, split, data_dir)


def test_training_batches_are_a_function_of_seed_and_step(data_dir):
    def batches(seed=3, **options):
        dataset, _ = pipeline.training_dataset(
            "nf_digits",
            size=16,
            batch_size=500,
            seed=seed,
            augment="digits",
            data_dir=data_dir,
            **options,
        )
        return [(x.numpy(), y.numpy()) for x, y in dataset.take(3)]

    # TensorFlow's own seed has no say; 0 once broke the shuffling.
    tf.random.set_seed(0)
    first = batches()
    tf.random.set_seed(1)
    assert first[0][0].shape == (500, 16, 16, 3)
    assert first[0][0].dtype == first[0][1].dtype == "float32"
    assert (first[0][1].sum(axis=-1) == 1).all()
    for (x, y), (x_again, y_again) in zip(first, batches(), strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
    # Step 2 holds the end of epoch 0 (1437 examples) and the start of 1.
    np.testing.assert_array_equal(batches(first_step=2)[0][0], first[2][0])
    np.testing.assert_array_equal(batches(first_step=1)[1][0], first[2][0])
    assert np.abs(batches(seed=4)[0][0] - first[0][0]).max() > 1


def test_an_epoch_sees_every_example_once_in_another_order(data_dir):
    dataset, info = pipeline.training_dataset(
        "nf_digits", size=8, batch_size=479, data_dir=data_dir
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    images = np.stack([x.numpy() for x, _ in dataset.take(6)])
    epochs = images.reshape(2, info.examples, -1)
    one, two = (sorted(image.tobytes() for image in x) for x in epochs)
    assert one == two
    assert np.abs(epochs[0] - epochs[1]).max() > 1


WHOLE = Augmentation(
    randaugment_layers=0, mixup=0, cutmix=0, flip=False, crop_area=(1, 1)
)


def steps(data_dir, augment, count=2, batch_size=16, size=8, **options):
    dataset, _ = pipeline.training_dataset(
        "nf_digits",
        size=size,
        batch_size=batch_size,
        augment=augment,
        data_dir=data_dir,
        **options,
    )
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def test_the_whole_recipe_is_a_function_of_seed_and_step(data_dir):
    """Also in parts, at a later step, and where a window is left midway."""
    recipe = Augmentation(randaugment_magnitude=15, randaugment_layers=2)
    whole = steps(data_dir, recipe, count=3, batch_size=12)
    assert np.isfinite([x for x, _ in whole]).all()
    later = steps(data_dir, recipe, count=1, batch_size=12, first_step=2)
    parts = [
        steps(data_dir, recipe, count=3, batch_size=12, shard=(index, 3))
        for index in range(3)
    ]
    for part in (0, 1):
        np.testing.assert_array_equal(later[0][part], whole[2][part])
        for step in range(3):
            joined = np.concatenate([each[step][part] for each in parts])
            np.testing.assert_array_equal(joined, whole[step][part])


def test_one_half_of_the_batch_is_mixup_and_the_other_cutmix(data_dir):
    (mixed, labels), *_ = steps(data_dir, WHOLE.replace(mixup=1.0, cutmix=1.0))
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)
    # Which images are mixed: those of a step, and as many that follow.
    (plain, _), *_ = steps(data_dir, WHOLE, batch_size=32)
    plain, partner = plain[:16], plain[16:]
    # Of CutMix every pixel is one of the two, of MixUp none but the equal.
    is_own = np.isclose(mixed, plain, atol=1e-5).all(axis=-1)
    is_other = np.isclose(mixed, partner, atol=1e-5).all(axis=-1)
    one_of_two = (is_own | is_other).reshape(16, -1).mean(axis=1)
    assert (one_of_two[:8] < 0.9).all() and (one_of_two[8:] == 1).all()


@pytest.mark.parametrize("only", ["mixup", "cutmix"])
def test_one_kind_of_mixing_alone_takes_the_whole_batch(data_dir, only):
    (plain, _), *_ = steps(data_dir, WHOLE, size=16)
    mixing = WHOLE.replace(**{only: 1.0})
    (mixed, labels), *_ = steps(data_dir, mixing, size=16)
    differs = np.abs(mixed - plain).max(axis=(1, 2, 3)) > 1e-3
    # A box of CutMix can lie outside or where both are black.
    assert differs[:8].sum() > 4 and differs[8:].sum() > 4
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)


def test_parts_off_leave_the_picture_as_it_is(data_dir):
    (off, off_labels), *_ = steps(data_dir, WHOLE, size=16)
    (none, labels), *_ = steps(data_dir, None, size=16)
    np.testing.assert_array_equal(off, none)
    np.testing.assert_array_equal(off_labels, labels)


def test_evaluation_is_one_pass_with_the_papers_view(data_dir):
    dataset, _info = pipeline.evaluation_dataset(
        "nf_digits", size=32, batch_size=100, data_dir=data_dir
    )
    batches = list(dataset)
    assert dataset.cardinality() == 4
    assert [len(x) for x, _ in batches] == [100, 100, 100, 60]
    encoded, _ = pipeline.load_split("nf_digits", "test", data_dir)
    picture = tf.io.decode_png(next(iter(encoded))[0], channels=3).numpy()
    expected = preprocess_input(evaluation_picture(picture, 32))
    np.testing.assert_allclose(batches[0][0][0], expected, atol=1e-4)
    whole, _ = pipeline.evaluation_dataset(
        "nf_digits", size=32, batch_size=1, data_dir=data_dir, margin=0
    )
    expected = preprocess_input(evaluation_picture(picture, 32, margin=0))
    np.testing.assert_allclose(next(iter(whole))[0][0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"first_step": 1.5},
        {"augment": "unknown"},
        {"shard": (2, 2)},
        {"shard": 3},
        {"max_corrupt": 2},
    ],
)
def test_training_dataset_refuses_bad_arguments(data_dir, options):
    (name,) = options
    options = {"size": 8, "batch_size": 4, **options}
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        pipeline.training_dataset("nf_digits", data_dir=data_dir, **options)


def test_a_batch_that_cannot_be_parted_is_refused(data_dir):
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of"):
        steps(data_dir, None, batch_size=8, shard=(0, 3))
    # What is mixed does not come out of the batch: any size is good.
    ((images, _),) = steps(data_dir, Augmentation(), 1, batch_size=7)
    assert len(images) == 7


def test_shift_zoom_rotate_is_small_and_follows_from_its_seed():
    image = np.zeros((32, 32, 3), "float32")
    image[12:20, 12:20] = 255
    seeds = [tf.constant([0, place], tf.int64) for place in range(20)]
    moved = [shift_zoom_rotate(tf.constant(image), s).numpy() for s in seeds]
    again = shift_zoom_rotate(tf.constant(image), seeds[0]).numpy()
    np.testing.assert_array_equal(again, moved[0])
    still = shift_zoom_rotate(tf.constant(image), seeds[0], 0.0, 0.0, 0.0)
    np.testing.assert_allclose(still, image, atol=1e-2)
    rows = np.arange(32)
    centres = [
        (x[..., 0].sum(axis=1) * rows).sum() / x[..., 0].sum() for x in moved
    ]
    # 8% of 32 pixels either way.
    assert 0.5 < np.abs(np.array(centres) - 15.5).max() < 2.7
