"""The preprocessing inside TensorFlow graphs: `tf.data` and SavedModels.

The twin of `preprocessing.py`; imported only where TensorFlow is needed.
"""

import math

import tensorflow as tf

from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    channel_statistics,
    decode_picture,
    sides,
)


# A graph, so that Python's errors come as TensorFlow's.
@tf.function(autograph=False)
def decode(encoded):
    """Decodes one encoded image of any format, in `tf.data`.

    TensorFlow decodes the common formats, and Pillow the others.

    Args:
        encoded: Scalar string tensor: what `decode_picture` reads.

    Returns:
        A uint8 tensor `(height, width, 3)`, RGB 0–255, the same as
        `decode_picture`'s (of a JPEG up to the decoder's rounding).
    """
    head = _head(encoded)
    known = [
        _equals(head[: len(mark)], mark)
        for mark in (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")
    ]
    known.append(_is_webp(head) & ~_is_animated(head))

    def by_pillow():
        image = tf.numpy_function(decode_picture, [encoded], tf.uint8)
        return tf.ensure_shape(image, (None, None, 3))

    return tf.cond(
        tf.reduce_any(tf.stack(known)),
        lambda: decode_without_python(encoded),
        by_pillow,
    )


def decode_without_python(encoded):
    """Decodes one encoded image, also in a SavedModel.

    Args:
        encoded: Scalar string tensor: JPEG, PNG, GIF, BMP of 24 bits or
            WebP. Others are refused, as are BMP with a palette and animated
            WebP without transparency: TensorFlow does not decode them.

    Returns:
        As `decode`.
    """
    # Of a WebP, TensorFlow 2.21 refuses the alpha channel if asked for three
    # channels, and crashes on an animation unless asked for four. It takes
    # the indices of a BMP's palette for gray.
    head = _head(encoded)
    has_24_bits = _equals(head[14:15], b"(") & _equals(head[28:30], b"\x18\0")
    is_refused = _equals(head[:2], b"BM") & ~has_24_bits
    encoded = tf.cond(is_refused, lambda: "", lambda: encoded)

    def decoded(channels):
        return tf.io.decode_image(
            encoded, channels=channels, expand_animations=False
        )

    def webp():
        image = tf.cond(
            _is_animated(head), lambda: decoded(4), lambda: decoded(0)
        )
        return image[:, :, :3]

    image = tf.cond(_is_webp(head), webp, lambda: decoded(3))
    return tf.ensure_shape(image, (None, None, 3))


def resize(image, size):
    """Resizes one image by bicubic interpolation, not clipped."""
    # TensorFlow's kernel is twice as fast on float32, to the same values.
    image = tf.cast(image, tf.float32)
    return tf.ensure_shape(
        tf.image.resize(image, sides(size), method="bicubic"),
        (*sides(size), 3),
    )


def evaluation_view(image, size, margin=EVALUATION_MARGIN):
    """As `preprocessing.evaluation_picture`, in a graph.

    Args:
        image: `(height, width, 3)`, RGB 0–255.
        size: Side of the view in pixels, or `(height, width)`.
        margin: Pixels to resize beyond `size`, or a crop fraction.

    Returns:
        A float32 tensor `(size, size, 3)`, not normalized.
    """
    height, width = sides(size)
    if isinstance(margin, float):
        return _centre(image, (height, width), margin)
    resized = resize(image, (height + margin, width + margin))
    start = margin // 2
    return resized[start : start + height, start : start + width]


def _centre(image, size, crop_fraction):
    """As `preprocessing.evaluation_picture` with a crop fraction."""
    least = tf.constant([math.floor(side / crop_fraction) for side in size])
    shape = tf.shape(image)[:2]
    real = tf.cast(shape, tf.float64)
    scale = tf.reduce_max(tf.cast(least, tf.float64) / real)
    resized = tf.maximum(least, tf.cast(real * scale, tf.int32))
    image = tf.image.resize(
        tf.cast(image, tf.float32), resized, method="bicubic", antialias=True
    )
    image = tf.round(tf.clip_by_value(image, 0.0, 255.0))
    start = tf.round(tf.cast(resized - tf.constant(size), tf.float64) / 2)
    top, left = tf.unstack(tf.cast(start, tf.int32))
    image = image[top : top + size[0], left : left + size[1]]
    return tf.ensure_shape(image, (*size, 3))


def normalize(images):
    """As `preprocessing.preprocess_input` for channels-last float32."""
    mean, deviation = channel_statistics(images.shape[-1])
    return (tf.cast(images, tf.float32) - mean) / deviation


def _head(encoded):
    return tf.io.decode_raw(
        tf.strings.substr(encoded, 0, 32), tf.uint8, fixed_length=32
    )


def _is_webp(head):
    return _equals(head[:4], b"RIFF") & _equals(head[8:12], b"WEBP")


def _is_animated(head):
    return _equals(head[12:16], b"VP8X") & (head[20] & 2 != 0)


def _equals(head, text):
    return tf.reduce_all(head == tf.constant(list(text), tf.uint8))
