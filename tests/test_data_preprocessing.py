"""Tests of `keras_nfnet.data.preprocessing` and its TensorFlow twin."""

import io
import os

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_nfnet.data.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    decode_picture,
    evaluation_picture,
    preprocess_input,
)

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="graphs are built on the TensorFlow backend",
)


def encode(picture, file_format, **options):
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.fixture(scope="module")
def encoded(photo):
    """One photograph in the forms that users have; the name tells which."""
    alpha = Image.linear_gradient("L").resize(photo.size)
    rgba = Image.merge("RGBA", [*photo.split(), alpha])
    gray16 = np.asarray(photo.convert("L")).astype("uint16") * 257
    turned = photo.rotate(180)
    return {
        "jpeg": encode(photo, "JPEG", quality=95),
        "progressive jpeg": encode(photo, "JPEG", progressive=True),
        "cmyk jpeg": encode(photo.convert("CMYK"), "JPEG"),
        "gray jpeg": encode(photo.convert("L"), "JPEG"),
        "png": encode(photo, "PNG"),
        "gray png": encode(photo.convert("L"), "PNG"),
        "16-bit png": encode(Image.fromarray(gray16), "PNG"),
        "palette png": encode(photo.convert("P"), "PNG", transparency=3),
        "one-bit png": encode(photo.convert("1"), "PNG"),
        "alpha png": encode(rgba, "PNG"),
        "webp": encode(photo, "WEBP"),
        "alpha webp": encode(rgba, "WEBP"),
        "animated alpha webp": encode(
            rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)]
        ),
        "gif": encode(photo.convert("P"), "GIF"),
        "animated gif": encode(
            photo.convert("P"),
            "GIF",
            save_all=True,
            append_images=[turned.convert("P")],
        ),
        "bmp": encode(photo, "BMP"),
    }


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


def test_decode_picture_reads_every_form(encoded, photo, tmp_path):
    pixels = np.asarray(photo).astype(int)
    for name, content in encoded.items():
        decoded = decode_picture(content)
        assert decoded.dtype == "uint8" and decoded.shape == pixels.shape
        file = tmp_path / "picture"
        file.write_bytes(content)
        np.testing.assert_array_equal(decode_picture(file), decoded)
        if not any(word in name for word in ("one-bit", "gray", "16-bit")):
            assert np.abs(decoded - pixels).mean() < 20, name
    for name in ("png", "bmp", "alpha png"):
        np.testing.assert_array_equal(decode_picture(encoded[name]), pixels)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_decode_picture_refuses_files_that_are_none(content, tmp_path):
    file = tmp_path / "bad.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="bad.jpg"):
        decode_picture(file)


def test_decode_picture_refuses_what_is_cut_short_missing_or_no_file(
    encoded, tmp_path
):
    file = tmp_path / "cut.jpg"
    for name in ("jpeg", "png", "webp"):
        file.write_bytes(encoded[name][: len(encoded[name]) // 2])
        with pytest.raises(ValueError, match="cut.jpg"):
            decode_picture(file)
    with pytest.raises(ValueError, match="exists.*nothing.png"):
        decode_picture(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="directory.*" + tmp_path.name):
        decode_picture(str(tmp_path))
    with pytest.raises(ValueError, match="Received: 3"):
        decode_picture(3)


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


@tensorflow_only
def test_graph_and_pillow_see_the_same_pixels(encoded):
    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def both(picture):
        image = graph.decode(picture)
        return image, graph.evaluation_view(image, 64)

    for name, content in encoded.items():
        image, view = (x.numpy() for x in both(content))
        decoded = decode_picture(content)
        difference = np.abs(image.astype(int) - decoded)
        if "jpeg" in name:
            # TensorFlow takes the fast integer inverse cosine transform,
            # which strays on single pixels of high quality files.
            assert difference.max() <= 32 and difference.mean() < 1.5, name
        else:
            assert difference.max() == 0, name
            expected = evaluation_picture(decoded, 64)
            assert np.abs(view - expected).max() <= 1e-3, name
    np.testing.assert_allclose(
        graph.normalize(image).numpy(), preprocess_input(image), atol=1e-5
    )


def odd_formats(photo):
    """Formats that TensorFlow decodes wrongly or not at all."""
    see_through = photo.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    see_through = see_through.convert("P")
    frames = [photo.rotate(180)]
    return {
        "palette bmp": encode(photo.convert("P"), "BMP"),
        "one-bit bmp": encode(photo.convert("1"), "BMP"),
        "32-bit bmp": encode(photo.convert("RGBA"), "BMP"),
        "tiff": encode(photo, "TIFF"),
        # Without alpha; decode_image(channels=0) corrupts memory on it.
        "animated webp": encode(
            photo, "WEBP", save_all=True, append_images=frames
        ),
        "transparent gif": encode(see_through, "GIF", transparency=0),
    }


@tensorflow_only
def test_training_and_prediction_see_the_same_of_odd_formats(photo):
    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph

    for name, content in odd_formats(photo).items():
        np.testing.assert_array_equal(
            graph.decode(tf.constant(content)),
            decode_picture(content),
            err_msg=name,
        )


@tensorflow_only
def test_graph_refuses_what_it_cannot_decode(photo):
    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph

    for content in (b"", b"RIFF", b"no picture", b"BM", b"\xff\xd8\xff"):
        for decode in (graph.decode, graph.decode_without_python):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode(tf.constant(content))
    # Without Python there is no Pillow.
    formats = odd_formats(photo)
    del formats["transparent gif"]
    for content in formats.values():
        with pytest.raises(tf.errors.InvalidArgumentError):
            graph.decode_without_python(tf.constant(content))


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


def test_a_picture_that_may_not_be_read_is_refused(tmp_path):
    file = tmp_path / "secret.png"
    file.write_bytes(b"x")
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(ValueError, match="secret.png"):
        decode_picture(file)
