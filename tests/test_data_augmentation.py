"""Tests of the paper's augmentation: crop, mixing, RandAugment, settings."""

import dataclasses
import tomllib

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "input pipelines are tested on the TensorFlow backend",
        allow_module_level=True,
    )

import tensorflow as tf

from keras_nfnet.data import augmentation, mixing, randaugment
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.training_image import random_crop

DRAWS = range(12)


@pytest.fixture(scope="module")
def photograph():
    from sklearn.datasets import load_sample_images

    image = tf.image.resize(load_sample_images().images[0], (36, 48))
    # Dark, bright and clipped places, and no whole numbers.
    return tf.clip_by_value(image * 1.3 - 20.3, 0.0, 255.0)


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
    view = tf.function(
        lambda seed: random_crop(ramp(120, 160), 64, settings, seed)
    )
    views = np.stack([view(tf.constant([1, n])).numpy() for n in range(60)])
    # Half of the pixel that the ramp's first and last sample lie inside.
    heights = views[:, -1, 0, 0] - views[:, 0, 0, 0]
    widths = np.abs(views[:, 0, -1, 1] - views[:, 0, 0, 1])
    heights, widths = heights * 64 / 63, widths * 64 / 63
    areas, aspects = heights * widths / (120 * 160), widths / heights
    assert 0.07 < areas.min() < 0.15 and 0.4 < areas.max() < 0.54
    assert 0.45 < aspects.min() < 0.8 and 1.3 < aspects.max() < 2.2
    flipped = views[:, 0, 0, 1] > views[:, 0, -1, 1]
    assert 15 < flipped.sum() < 45
    assert np.ptp(views[:, 0, 0, 0]) > 40


def test_a_crop_that_cannot_be_had_becomes_the_centre():
    # No crop of a strip has these aspects and so much area.
    settings = Augmentation(
        crop_area=(0.9, 1.0), crop_aspect=(0.75, 1.33), flip=False
    )
    view = random_crop(ramp(40, 200), 32, settings, tf.constant([0, 1]))
    # 32 of 32 + 32 parts of the height: 20 pixels either way, in the middle.
    assert abs(float(view[16, 16, 0]) - 20) < 1.5
    assert abs(float(view[16, 16, 1]) - 100) < 1.5
    assert float(view[-1, 0, 0] - view[0, 0, 0]) < 20


def pair():
    images = [tf.fill((40, 60, 3), value) for value in (10.0, 200.0)]
    return images, tf.one_hot([2, 0], 4)


def shares_of(labels):
    """How much of itself each of the two kept, by the labels."""
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)
    assert not labels[:, [1, 3]].any()
    return np.array([labels[0, 2], labels[1, 0]])


@pytest.mark.parametrize("how", [mixing.mixup, mixing.cutmix])
def test_labels_are_mixed_as_the_pixels_are(how):
    images, labels = pair()
    for number in DRAWS:
        mixed, mixed_labels = how(images, labels, 1.0, [7, number])
        kept = shares_of(mixed_labels.numpy())
        expected = kept * [10, 200] + (1 - kept) * [200, 10]
        means = np.mean(mixed, axis=(1, 2, 3))
        np.testing.assert_allclose(means, expected, rtol=1e-4)
        assert kept[0] != kept[1]


def test_mixup_blends_everywhere_and_cutmix_pastes_a_box():
    images, labels = pair()
    blended, _ = mixing.mixup(images, labels, 1.0, [0, 3])
    assert len(np.unique(blended[0])) == 1
    pasted, _ = mixing.cutmix(images, labels, 1.0, [0, 3])
    inside = pasted[0].numpy()[..., 0] == 200
    assert set(np.unique(pasted)) == {10, 200}
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all() and box.sum() == inside.sum()


def test_mixup_shares_follow_the_beta_distribution():
    images, labels = [tf.zeros((1, 1, 3))] * 2, tf.one_hot([0, 1], 2)
    mix = tf.function(
        lambda seed: mixing.mixup(images, labels, 0.2, [0, seed])[1]
    )
    drawn = np.array([mix(tf.constant(n)).numpy()[0, 0] for n in range(600)])
    assert np.isfinite(drawn).all()
    # Beta(0.2, 0.2): variance 1 / (4 (2 α + 1)), most of it at the ends.
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)
    assert drawn.var() == pytest.approx(1 / 5.6, abs=0.02)


def keras_cv_layers(draws):
    """Keras-cv's layers and what they would have drawn, by operation."""
    cv = pytest.importorskip("keras_cv").layers
    one = (1, 1, 1, 1)
    shear = tf.reshape(draws["share"] * draws["sign"], (1, 1))
    spread, zero = tf.reshape(draws["spread"], (1, 1)), tf.zeros((1, 1))
    values = {"value_range": (0, 255)}
    return {
        "auto_contrast": (cv.AutoContrast(**values), None),
        "equalize": (cv.Equalization(**values), None),
        "solarize": (
            cv.Solarization(**values),
            {
                "additions": tf.reshape(draws["addition"], one),
                "thresholds": tf.reshape(draws["threshold"], one),
            },
        ),
        "color": (
            cv.RandomColorDegeneration(0.5),
            tf.reshape(draws["share"], one),
        ),
        "contrast": (
            cv.RandomContrast(factor=0.5, **values),
            tf.reshape(1 + draws["spread"], one),
        ),
        "brightness": (
            cv.RandomBrightness(0.5, **values),
            tf.reshape(255 * draws["spread"], one),
        ),
        "shear_x": (
            cv.RandomShear(0.5, 0.0),
            {"shear_x": shear, "shear_y": zero},
        ),
        "shear_y": (
            cv.RandomShear(0.0, 0.5),
            {"shear_x": zero, "shear_y": shear},
        ),
        "translate_x": (
            cv.RandomTranslation(0.0, 0.5),
            {"width_translations": spread, "height_translations": zero},
        ),
        "translate_y": (
            cv.RandomTranslation(0.5, 0.0),
            {"width_translations": zero, "height_translations": spread},
        ),
    }


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_each_operation_is_that_of_keras_cv(photograph, name, upright):
    image = tf.transpose(photograph, (1, 0, 2)) if upright else photograph
    operation = randaugment.OPERATIONS[name]
    for number in DRAWS:
        draws = randaugment.strengths(
            tf.random.stateless_uniform((2,), [number, 1]),
            tf.random.stateless_normal((2,), [number, 2]),
            magnitude=30.0 if number % 2 else 10.0,
        )
        layer, transformations = keras_cv_layers(draws)[name]
        theirs = layer.augment_images(image[None], transformations)[0]
        ours = operation(image, **draws)
        assert ours.shape == image.shape
        # Of 255; keras-cv's resampling has places of 192 in float32.
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 77.5, 255.0])
def test_operations_on_a_flat_image_are_those_of_keras_cv(value):
    image = tf.fill((8, 8, 3), value)
    draws = randaugment.strengths([0.9, 0.1], [0.5, -0.5], 10.0)
    for name, (layer, transformations) in keras_cv_layers(draws).items():
        theirs = layer.augment_images(image[None], transformations)[0]
        ours = randaugment.OPERATIONS[name](image, **draws)
        np.testing.assert_allclose(ours, theirs, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("magnitude", [0, 5, 15, 30])
def test_strengths_are_drawn_as_by_keras_cv(magnitude):
    rand_augment = pytest.importorskip(
        "keras_cv.src.layers.preprocessing.rand_augment"
    )
    share = magnitude / 30
    policy = rand_augment.create_rand_augment_policy(share, 0.15)
    generator = np.random.default_rng(0)
    normal = tf.constant(generator.normal(size=(2, 4000)), tf.float32)
    uniform = tf.constant(generator.random((2, 4000)), tf.float32)
    draws = randaugment.strengths(uniform, normal, magnitude)

    def clipped(sampler, drawn):
        return np.clip(
            sampler.mean + sampler.stddev * drawn,
            sampler.min_value,
            sampler.max_value,
        )

    for ours, theirs, drawn in (
        ("share", policy["color"]["factor"], normal[0]),
        ("share", policy["shear_x"]["x_factor"], normal[0]),
        ("share", policy["shear_y"]["y_factor"], normal[0]),
        ("addition", policy["solarize"]["addition_factor"], normal[0]),
        ("threshold", policy["solarize"]["threshold_factor"], normal[1]),
    ):
        np.testing.assert_allclose(
            draws[ours], clipped(theirs, drawn), atol=1e-3
        )
    for name, option in (
        ("contrast", "factor"),
        ("brightness", "factor"),
        ("translate_x", "width_factor"),
        ("translate_y", "height_factor"),
    ):
        # keras-cv wants more than 0 for the contrast.
        assert policy[name][option] == pytest.approx(share, abs=1e-3)
    assert np.abs(draws["spread"]).max() <= share
    assert np.abs(draws["spread"]).max() >= 0.99 * share
    assert set(np.unique(draws["sign"])) == {-1, 1}


def test_rand_augment_takes_every_operation_as_often(photograph, monkeypatch):
    operations = {
        name: lambda image, place=place, **_: image * 0 + place
        for place, name in enumerate(randaugment.OPERATIONS)
    }
    assert len(operations) == 10
    monkeypatch.setattr(randaugment, "OPERATIONS", operations)
    image = tf.fill((1, 1, 3), 10.0)
    once = tf.function(
        lambda seed: randaugment.randaugment(image, 1, 5.0, seed)[0, 0, 0]
    )
    taken = [int(once(tf.constant([0, n]))) for n in range(1100)]
    counts = np.bincount(taken, minlength=11)
    # 100 each, the eleventh for none; deviation 9.5.
    assert counts.min() > 60 and counts.max() < 140


def test_rand_augment_follows_from_its_seed_and_its_magnitude(photograph):
    def images(layers, magnitude):
        augment = tf.function(
            lambda seed: randaugment.randaugment(
                photograph, layers, magnitude, seed
            )
        )
        return np.stack([augment(tf.constant([n, 4])) for n in range(24)])

    np.testing.assert_array_equal(images(4, 5.0), images(4, 5.0))
    weak, strong = (
        np.abs(images(1, magnitude) - photograph).mean()
        for magnitude in (1.0, 25.0)
    )
    assert 0 < weak < strong
    assert images(4, 15.0).min() >= 0 and images(4, 15.0).max() <= 255.001
