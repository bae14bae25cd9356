"""Tests of the paper's augmentation: crop, mixing, RandAugment, settings."""

import dataclasses
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "input pipelines are tested on the TensorFlow backend",
        allow_module_level=True,
    )

import tensorflow as tf

from keras_nfnet.data import augmentation, randaugment, training_image
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.training_image import random_crop

DRAWS = range(12)


def test_settings_come_from_toml_and_back():
    text = """
    randaugment_magnitude = 10
    mixup = 0.0
    crop_area = [0.25, 1]
    """
    settings = Augmentation(**tomllib.loads(text))
    assert settings == Augmentation(10, mixup=0, crop_area=(0.25, 1))
    assert hash(settings) == hash(
        Augmentation(10, mixup=0, crop_area=(0.25, 1))
    )
    assert Augmentation(**dataclasses.asdict(settings)) == settings
    assert settings.mixes and not settings.replace(cutmix=0).mixes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("randaugment_magnitude", 31),
        ("randaugment_magnitude", -1),
        ("randaugment_magnitude", "5"),
        ("randaugment_layers", 1.5),
        ("randaugment_layers", True),
        ("mixup", -0.1),
        ("mixup", float("nan")),
        ("cutmix", None),
        ("flip", 1),
        ("crop_area", (0, 1)),
        ("crop_area", (0.5, 1.5)),
        ("crop_area", (0.9, 0.5)),
        ("crop_area", 0.5),
        ("crop_aspect", (1,)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"`{field}`.*Received: {field}="):
        Augmentation(**{field: value})


def test_an_augmentation_is_found_by_name_or_is_itself():
    settings = Augmentation()
    assert augmentation.get(settings) is settings
    assert augmentation.get(None) is None
    assert callable(augmentation.get("digits"))
    for wrong in ("unknown", 3, {"mixup": 0.2}):
        with pytest.raises(ValueError, match="`augment`.*Received: augment="):
            augmentation.get(wrong)


def ramp(height, width):
    """A PNG whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, rows * 0], -1).astype("uint8")
    return tf.io.encode_png(pixels)


def test_crops_have_the_areas_and_aspects_that_are_set():
    settings = Augmentation(crop_area=(0.1, 0.5), crop_aspect=(0.5, 2))
    crop = tf.function(
        lambda seed: random_crop(ramp(120, 160), 64, settings, seed)
    )
    crops = np.stack([crop(tf.constant([1, n])).numpy() for n in range(60)])
    # Half of the pixel that the ramp's first and last sample lie inside.
    heights = crops[:, -1, 0, 0] - crops[:, 0, 0, 0]
    widths = np.abs(crops[:, 0, -1, 1] - crops[:, 0, 0, 1])
    heights, widths = heights * 64 / 63, widths * 64 / 63
    areas, aspects = heights * widths / (120 * 160), widths / heights
    assert 0.07 < areas.min() < 0.15 and 0.4 < areas.max() < 0.54
    assert 0.45 < aspects.min() < 0.8 and 1.3 < aspects.max() < 2.2
    flipped = crops[:, 0, 0, 1] > crops[:, 0, -1, 1]
    assert 15 < flipped.sum() < 45
    assert np.ptp(crops[:, 0, 0, 0]) > 40


def test_a_crop_that_cannot_be_had_becomes_the_centre():
    # No crop of a strip has these aspects and so much area.
    settings = Augmentation(
        crop_area=(0.9, 1.0), crop_aspect=(0.75, 1.33), flip=False
    )
    image = random_crop(ramp(40, 200), 32, settings, tf.constant([0, 1]))
    # 32 of 32 + 32 parts of the height: 20 pixels either way, in the middle.
    assert abs(float(image[16, 16, 0]) - 20) < 1.5
    assert abs(float(image[16, 16, 1]) - 100) < 1.5
    assert float(image[-1, 0, 0] - image[0, 0, 0]) < 20


def pair():
    images = [tf.fill((40, 60, 3), value) for value in (10.0, 200.0)]
    return images, tf.one_hot([2, 0], 4)


def first_share(label):
    """How much of the first image is in the mixture, by its label."""
    np.testing.assert_allclose(np.sum(label), 1, atol=1e-6)
    assert not label[1] and not label[3]
    return float(label[2])


@pytest.mark.parametrize("how", [training_image.mixup, training_image.cutmix])
def test_labels_are_mixed_as_the_pixels_are(how):
    images, labels = pair()
    shares = set()
    for number in DRAWS:
        mixed, label = how(images, labels, 1.0, [7, number])
        share = first_share(label.numpy())
        expected = share * 10 + (1 - share) * 200
        assert np.mean(mixed) == pytest.approx(expected, rel=1e-4)
        shares.add(share)
    assert len(shares) == len(DRAWS)


def test_mixup_blends_everywhere_and_cutmix_pastes_a_box():
    images, labels = pair()
    blended, _ = training_image.mixup(images, labels, 1.0, [0, 3])
    assert len(np.unique(blended)) == 1
    pasted, _ = training_image.cutmix(images, labels, 1.0, [0, 3])
    inside = pasted.numpy()[..., 0] == 200
    assert set(np.unique(pasted)) == {10, 200}
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all() and box.sum() == inside.sum()


def test_mixup_shares_follow_the_beta_distribution():
    images, labels = [tf.zeros((1, 1, 3))] * 2, tf.one_hot([0, 1], 2)
    mix = tf.function(
        lambda seed: training_image.mixup(images, labels, 0.2, [0, seed])[1]
    )
    drawn = np.array([mix(tf.constant(n)).numpy()[0] for n in range(600)])
    assert np.isfinite(drawn).all()
    # Beta(0.2, 0.2): variance 1 / (4 (2 α + 1)), most of it at the ends.
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)
    assert drawn.var() == pytest.approx(1 / 5.6, abs=0.02)


FIGURES = np.load(Path(__file__).parent / "figures" / "randaugment.npz")


@pytest.mark.parametrize(
    ("name", "expected"),
    list(zip(FIGURES["names"], FIGURES["pixels"], strict=True)),
    ids=FIGURES["names"],
)
def test_each_operation_is_that_of_the_authors(name, expected):
    """At every 47th pixel of outputs of their own code."""
    operation, level = name.split("@")
    image = randaugment.OPERATIONS[operation.rstrip("+-")](
        FIGURES["picture"], int(level), negate=operation.endswith("-")
    )
    assert image.dtype == "uint8" and image.shape == FIGURES["picture"].shape
    pixels = np.reshape(image, (-1, 3))[FIGURES["at"]]
    np.testing.assert_array_equal(pixels, expected)


def test_cutout_covers_a_square_of_gray():
    image = np.full((60, 50, 3), 7, "uint8")
    cut = randaugment.cutout(image, 3, center=(20, 45)).numpy()
    expected = image.copy()
    expected[8:32, 33:50] = 128
    np.testing.assert_array_equal(cut, expected)
    cut = randaugment.cutout(image, 2.5).numpy()
    assert (cut[20:40, 15:35] == 128).all() and (cut == 128).mean() < 0.14


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("level", [0, 1.25, 10, 30])
def test_operations_take_small_and_flat_images_at_any_level(shape, level):
    image = np.full((*shape, 3), 99, "uint8")
    for name, operation in randaugment.OPERATIONS.items():
        for negate in (False, True):
            result = operation(image, level, negate=negate)
            assert result.shape == image.shape, name
            assert result.dtype == "uint8", name
    for name in ("AutoContrast", "Equalize"):
        same = randaugment.OPERATIONS[name](image, level)
        np.testing.assert_array_equal(same, image, err_msg=name)


def test_operations_refuse_what_is_no_image_and_no_level():
    good = np.zeros((4, 4, 3), "uint8")
    for wrong in (good.astype("float32"), good[None], good[..., :1]):
        with pytest.raises(ValueError, match="`image`.*Received: image of"):
            randaugment.invert(wrong)
    for level in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`level`.*Received: level="):
            randaugment.rotate(good, level)


def test_rand_augment_takes_every_operation_as_often(monkeypatch):
    def constant(number):
        return lambda image, level, negate=False, center=None: tf.fill(
            (1, 1, 3), tf.constant(number, tf.uint8)
        )

    names = list(randaugment.OPERATIONS)
    operations = {name: constant(n) for n, name in enumerate(names)}
    monkeypatch.setattr(randaugment, "OPERATIONS", operations)
    image = tf.zeros((1, 1, 3), tf.uint8)
    # Its own trace, which holds the operations above.
    once = tf.function(randaugment.randaugment.python_function)
    taken = [
        int(once(image, 1, 5.0, tf.constant([0, n]))[0, 0, 0])
        for n in range(1600)
    ]
    counts = np.bincount(taken, minlength=16)
    # 100 each; standard deviation 9.7.
    assert len(counts) == 16 and counts.min() > 60 and counts.max() < 140


def test_rand_augment_is_its_operations_one_after_another():
    """Each layer's image is that of one of the operations on the last."""
    image = FIGURES["picture"][:40, :48]
    seen = set()
    for number in range(12):
        seed = tf.constant([number, 4])
        once, again = (
            randaugment.randaugment(image, 1, 15.0, seed) for _ in range(2)
        )
        np.testing.assert_array_equal(once, again)
        for name, operation in randaugment.OPERATIONS.items():
            for negate in (False, True):
                one = operation(image, 15.0, negate=negate)
                if np.array_equal(once, one):
                    seen.add((name, negate))
                    break
    assert len({name for name, _ in seen}) > 4
    assert {negate for _, negate in seen} == {False, True}


def test_rand_augment_at_level_5_leaves_the_enhancements_out():
    """Their factor of 1 is the image itself."""
    image = FIGURES["picture"]
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        same = randaugment.OPERATIONS[name](image, 5)
        np.testing.assert_array_equal(same, image)
