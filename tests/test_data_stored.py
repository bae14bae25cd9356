"""Tests of what features a TFDS data set may have."""

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
import tensorflow_datasets as tfds

from keras_nfnet.data.pipeline import load_split, training_dataset
from keras_nfnet.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SHAPE = (20, 30)
RAMP = np.linspace(0, 1, 600, dtype="float32").reshape(*SHAPE, 1)
BYTES = np.round(RAMP * 255).astype("uint8")
CLASS = tfds.features.ClassLabel(num_classes=3)


def image(channels, dtype="uint8"):
    return tfds.features.Image(shape=(*SHAPE, channels), dtype=np.dtype(dtype))


def store(data_dir, features, image, label, **options):
    tfds.dataset_builders.store_as_tfds_dataset(
        name="stored",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(
                dict(zip(features, (image, label), strict=True))
            )
        },
        data_dir=data_dir,
        **options,
    )


@pytest.mark.parametrize(
    ("feature", "pixels"),
    [
        (image(1), BYTES),
        (image(3), np.repeat(BYTES, 3, -1)),
        (image(4), np.concatenate([BYTES] * 3 + [BYTES // 2 + 1], -1)),
        # Of 16 bits the high byte counts, as in files of folders.
        (image(1, "uint16"), BYTES * np.uint16(256) + np.uint16(200)),
        (tfds.features.Image(encoding_format="png"), np.repeat(BYTES, 3, -1)),
    ],
    ids=["gray", "rgb", "rgba", "16 bits", "any size"],
)
def test_images_of_integers_give_their_pixels(tmp_path, feature, pixels):
    features = {"image": feature, "label": CLASS}
    store(tmp_path, features, np.stack([pixels] * 6), np.arange(6) % 3)
    batches, info = training_dataset(
        "stored", size=SHAPE, batch_size=2, data_dir=tmp_path
    )
    images = next(iter(batches))[0].numpy() * IMAGENET_STD + IMAGENET_MEAN
    expected = np.broadcast_to(BYTES, images.shape)
    np.testing.assert_allclose(images, expected, atol=1e-3)
    assert info.summary() == "stored/1.0.0, train: 6 images, 3 classes"


@pytest.mark.parametrize(
    ("features", "pixels", "labels", "message"),
    [
        (
            {"image": image(1, "float32"), "label": CLASS},
            *(RAMP, [0, 1], "`image` must be a `tfds.features.Image`"),
        ),
        (
            {
                "image": tfds.features.Tensor(
                    shape=(*SHAPE, 1), dtype=np.uint8
                ),
                "label": CLASS,
            },
            *(BYTES, [0, 1], "`image` must be a `tfds.features.Image`"),
        ),
        (
            {"image": image(1), "label": tfds.features.Scalar(np.int64)},
            *(BYTES, [0, 1], "`label` must be a `tfds.features.ClassLabel`"),
        ),
        (
            {"image": image(1), "label": tfds.features.Sequence(CLASS)},
            *(BYTES, [[0], [1]], "`label` must be a `tfds.features.ClassLab"),
        ),
        (
            {"picture": image(1), "label": CLASS},
            *(BYTES, [0, 1], "must have the features `image` and `label`"),
        ),
    ],
    ids=[
        *("floats", "tensor", "scalar label", "many labels", "other names"),
    ],
)
def test_other_features_are_refused_before_a_run(
    tmp_path, features, pixels, labels, message
):
    store(tmp_path, features, np.stack([pixels] * 2), np.array(labels))
    with pytest.raises(ValueError, match=f"{message}.*Received: name='stored'"):
        load_split("stored", "train", tmp_path)


def test_classes_whose_names_are_no_lines_are_refused(tmp_path):
    names = tfds.features.ClassLabel(names=["cat", " dog "])
    features = {"image": image(1), "label": names}
    store(tmp_path, features, np.stack([BYTES] * 2), np.arange(2))
    info = tmp_path / "stored" / "1.0.0" / "label.labels.txt"
    info.write_text("cat\ndog\x0bs\n")
    with pytest.raises(ValueError, match="must be strings of one line"):
        load_split("stored", "train", tmp_path)


def test_a_format_that_tf_data_does_not_read_is_refused(tmp_path):
    pytest.importorskip("array_record")
    features = {"image": image(1), "label": CLASS}
    store(
        *(tmp_path, features, np.stack([BYTES] * 2), np.arange(2)),
        file_format="array_record",
    )
    with pytest.raises(ValueError, match="a format that `tf.data` reads"):
        load_split("stored", "train", tmp_path)


def test_a_label_that_is_not_published_ends_the_run(tmp_path):
    features = {"image": image(1), "label": CLASS}
    store(tmp_path, features, np.stack([BYTES] * 4), np.array([0, 1, 2, -1]))
    batches, info = training_dataset(
        "stored", size=SHAPE, batch_size=4, data_dir=tmp_path
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="without a class"):
        next(iter(batches))
    with pytest.raises(ValueError, match="stored-train.*without a class"):
        info.corrupt.check()
