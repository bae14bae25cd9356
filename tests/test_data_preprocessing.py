"""Tests of `keras_nfnet.data.preprocessing` and its TensorFlow twin."""

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_nfnet.data.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    evaluation_picture,
    preprocess_input,
)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))


def test_preprocess_input_normalizes_arrays_and_tensors():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    expected = (x - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    kept = x.copy()
    out = preprocess_input(x)
    assert isinstance(out, np.ndarray) and out.dtype == "float32"
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_array_equal(x, kept)
    tensor = preprocess_input(keras.ops.convert_to_tensor(x))
    assert keras.ops.is_tensor(tensor)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(tensor), expected, atol=1e-5
    )
    first = preprocess_input(
        np.moveaxis(x, -1, 1), data_format="channels_first"
    )
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), expected, atol=1e-5)
    np.testing.assert_allclose(preprocess_input(x[0]), expected[0], atol=1e-5)


def test_preprocess_input_takes_one_channel_by_the_averages_over_rgb():
    x = np.arange(48, dtype="float64").reshape(4, 4, 3, 1)
    mean, deviation = np.mean(IMAGENET_MEAN), np.mean(IMAGENET_STD)
    np.testing.assert_allclose(preprocess_input(x), (x - mean) / deviation)
    first = preprocess_input(np.moveaxis(x, -1, -3), "channels_first")
    np.testing.assert_allclose(np.moveaxis(first, -3, -1), preprocess_input(x))


@pytest.mark.parametrize("sides", [(60, 80), (81, 47), (64, 64)])
@pytest.mark.parametrize("fraction", [0.9, 1.0])
def test_a_crop_fraction_gives_the_view_of_pillow_and_timm(sides, fraction):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), "uint8")
    image = Image.fromarray(pixels).resize(sides[::-1], Image.BICUBIC)
    size = 48
    shorter, scale = min(sides), int(size / fraction)
    resized = [
        scale if side == shorter else int(scale * side / shorter)
        for side in sides
    ]
    top, left = (round((side - size) / 2) for side in resized)
    expected = np.asarray(image.resize(resized[::-1], Image.BICUBIC))
    expected = expected[top : top + size, left : left + size]
    view = evaluation_picture(np.asarray(image), size, fraction)
    assert np.abs(view - expected).max() <= 1
    if keras.backend.backend() == "tensorflow":
        from keras_nfnet.data.graph_preprocessing import evaluation_view

        graph = evaluation_view(np.asarray(image), size, fraction)
        np.testing.assert_allclose(graph, view, atol=1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_preprocess_input_keeps_floats_and_the_callers_array(dtype):
    x = np.full((2, 2, 3), 128, dtype)
    assert preprocess_input(x).dtype == dtype
    assert (x == 128).all()


def test_preprocess_input_is_symbolic_on_keras_tensors():
    out = preprocess_input(keras.KerasTensor((None, None, None, 3)))
    assert isinstance(out, keras.KerasTensor)
    assert out.shape == (None, None, None, 3)


@pytest.mark.parametrize("shape", [(4, 4, 2), (3, 4, 4), (4, 3), (1, 2, 3, 4)])
def test_preprocess_input_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="RGB.*Received: x of shape"):
        preprocess_input(np.zeros(shape))


def test_preprocess_input_refuses_an_unknown_data_format():
    with pytest.raises(ValueError, match="`data_format`.*Received"):
        preprocess_input(np.zeros((2, 2, 3)), data_format="channels")


def test_evaluation_picture_is_the_centre_of_the_larger_resize(photo):
    view = evaluation_picture(np.asarray(photo), 64)
    whole = evaluation_picture(np.asarray(photo), 96, margin=0)
    assert view.shape == (64, 64, 3) and view.dtype == "float32"
    np.testing.assert_array_equal(view, whole[16:80, 16:80])
    # Overshoots are kept, as the authors keep them.
    steps = np.repeat(np.array([0, 255, 0, 255], "uint8"), 4)
    steps = np.broadcast_to(steps[None, :, None], (16, 16, 3))
    assert evaluation_picture(steps, 64, margin=0).min() < 0
    assert evaluation_picture(np.asarray(photo), (8, 12)).shape == (8, 12, 3)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, (4, 4, 4), "big"])
def test_evaluation_picture_refuses_bad_sizes(size):
    with pytest.raises(ValueError, match="`size`.*Received: size="):
        evaluation_picture(np.zeros((4, 4, 3)), size)


def test_evaluation_picture_refuses_other_shapes_and_margins():
    with pytest.raises(ValueError, match="`image`.*Received"):
        evaluation_picture(np.zeros((1, 4, 4, 3)), 4)
    with pytest.raises(ValueError, match="`margin`.*Received"):
        evaluation_picture(np.zeros((4, 4, 3)), 4, margin=-1)


@pytest.mark.tensorflow
def test_graph_and_arrays_have_the_same_views(photo):
    from keras_nfnet.data import graph_preprocessing as graph

    pixels = np.asarray(photo)
    view = graph.evaluation_view(pixels, 64)
    np.testing.assert_allclose(view, evaluation_picture(pixels, 64), atol=1e-3)
    np.testing.assert_allclose(
        graph.normalize(view), preprocess_input(view), atol=1e-5
    )


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_preprocess_input_works_in_a_tf_data_map(dtype, last):
    """On every backend."""
    import tensorflow as tf

    images = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3).astype(dtype)
    if not last:
        images = images.transpose(0, 3, 1, 2)
    data_format = "channels_last" if last else "channels_first"
    expected = preprocess_input(images, data_format)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(2)
    (mapped,) = dataset.map(lambda x: preprocess_input(x, data_format))
    assert mapped.dtype == expected.dtype and tf.is_tensor(mapped)
    np.testing.assert_allclose(mapped, expected, atol=1e-5, rtol=1e-3)


def test_preprocess_input_refuses_a_tensor_of_unknown_rank():
    import tensorflow as tf

    encoded = tf.io.encode_png(np.zeros((4, 4, 3), "uint8"))
    dataset = tf.data.Dataset.from_tensors(encoded)
    with pytest.raises(ValueError, match="`x` must be RGB images"):
        dataset.map(lambda x: preprocess_input(tf.io.decode_image(x)))
