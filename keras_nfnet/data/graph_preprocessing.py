"""Decoding and preprocessing inside TensorFlow graphs.

The twin of `decoding.py` and `preprocessing.py` for `tf.data` and
SavedModels: a graph needs no Python. Imported only where TensorFlow is
needed.
"""

import math

import numpy as np
import tensorflow as tf

from keras_nfnet.data import decoding
from keras_nfnet.data.graph_frames import (
    bytes_at,
    checked,
    gif,
    length_of,
    number_of,
    part,
    size_checks,
    webp,
)
from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    channel_statistics,
    sides,
)
from keras_nfnet.utils.types import Margin, Size, Tensor

__all__ = ["decode", "evaluation_view", "normalize", "resize"]

# As Pillow's. TensorFlow's default is faster by a tenth and strays by up to
# 31 of 255 on single pixels.
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


def decode(encoded: Tensor) -> Tensor:
    """Decodes one image file.

    The limit on its pixels is the one that holds when the graph is made.

    Args:
        encoded: Scalar string tensor: what `decode_picture` reads.

    Returns:
        A uint8 tensor `(height, width, 3)`, RGB 0–255, the same as
        `decode_picture`'s.

    Raises:
        tf.errors.InvalidArgumentError: Where `decode_picture` raises.
    """
    return _decode(tf.convert_to_tensor(encoded), decoding.max_pixels())


def decode_crop(encoded, window):
    """Decodes a crop of one image file, and of a JPEG only that.

    Args:
        encoded: Scalar string tensor: what `decode_picture` reads.
        window: Function from the image's shape, an int32 vector, to the
            crop's top, left, height and width, another.

    Returns:
        A uint8 tensor `(height, width, 3)`, RGB 0–255.
    """
    limit = decoding.max_pixels()

    def of_jpeg():
        jpeg, shape = _checked_jpeg(encoded, limit)
        return tf.image.decode_and_crop_jpeg(jpeg, window(shape), **_JPEG)

    def of_any():
        image = _decode(encoded, limit)
        crop = tf.unstack(window(tf.shape(image)))
        return tf.image.crop_to_bounding_box(image, *crop)

    components = tf.cond(
        part(encoded, 0, 3) == decoding.MARKS[0][1][0][1],
        lambda: tf.image.extract_jpeg_shape(encoded)[2],
        lambda: 0,
    )
    # With four components, chroma differs at the crop's edge.
    return tf.cond((components == 1) | (components == 3), of_jpeg, of_any)


def resize(image: Tensor, size: Size) -> Tensor:
    """Resizes one image by bicubic interpolation, not clipped."""
    # TensorFlow's kernel is twice as fast on float32, to the same values.
    image = tf.cast(image, tf.float32)
    return tf.ensure_shape(
        tf.image.resize(image, sides(size), method="bicubic"),
        (*sides(size), 3),
    )


def evaluation_view(
    image: Tensor, size: Size, margin: Margin = EVALUATION_MARGIN
) -> Tensor:
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


def normalize(images: Tensor) -> Tensor:
    """As `preprocessing.preprocess_input` for channels-last float32."""
    mean, deviation = channel_statistics(images.shape[-1])
    return (tf.cast(images, tf.float32) - mean) / deviation


# A function, so that its parts run one after the other when it is called
# eagerly, and its errors are TensorFlow's.
@tf.function(autograph=False)
def _decode(encoded, limit):
    names = [*(name for name, _ in decoding.MARKS), decoding.UNKNOWN]
    # The last row is of no mark, which every file has.
    marks, masks = np.zeros((2, len(names), 16), np.uint8)
    for row, (_, places) in enumerate(decoding.MARKS):
        for at, mark in places:
            marks[row, at : at + len(mark)] = list(mark)
            masks[row, at : at + len(mark)] = 255
    head = bytes_at(encoded, 0, 16)
    place = tf.argmax(tf.reduce_all(head & masks == marks, axis=1))
    decoders = [_jpeg, _png, gif, webp, _bmp]

    def refused():
        expected = f"{decoding.EXPECTED}. Received: "
        words = tf.constant([expected + name for name in names])[place]
        assertion = tf.debugging.Assert(False, [words])
        with tf.control_dependencies([assertion]):
            return tf.zeros((0, 0, 3), tf.uint8)

    branches = [
        decoding.DECODED.index(name)
        if name in decoding.DECODED
        else len(decoders)
        for name in names
    ]
    image = tf.switch_case(
        tf.constant(branches)[place],
        [lambda decoder=each: decoder(encoded, limit) for each in decoders]
        + [refused],
    )
    return tf.ensure_shape(image, (None, None, 3))


def _jpeg(encoded, limit):
    encoded, _ = _checked_jpeg(encoded, limit)
    return tf.io.decode_jpeg(encoded, **_JPEG)


def _checked_jpeg(encoded, limit):
    """The file, once it may be decoded, and its shape."""

    def count(mark):
        parts = tf.raw_ops.StringSplitV2(
            input=encoded[None], sep=mark, maxsplit=decoding.MOST_SCANS + 1
        )
        return tf.size(parts.values) - 1

    scans = tf.cond(
        count(decoding.SCAN) > decoding.MOST_SCANS,
        lambda: sum(count(mark) for mark in decoding.SCANS),
        lambda: 0,
    )
    shape = tf.image.extract_jpeg_shape(encoded)
    encoded = checked(
        "JPEG",
        encoded,
        (
            scans <= decoding.MOST_SCANS,
            f"it has more than {decoding.MOST_SCANS} scans",
        ),
        *size_checks(shape[1::-1], limit),
    )
    return encoded, shape


def _png(encoded, limit):
    head = bytes_at(encoded, 0, 24)
    size = [number_of(head[at : at + 4], big=True) for at in (16, 20)]
    is_first = tf.reduce_all(head[12:16] == list(b"IHDR"))
    encoded = checked(
        "PNG",
        encoded,
        (is_first, "it has no header"),
        *size_checks(size, limit),
    )
    return tf.io.decode_png(encoded, channels=3)


def _bmp(encoded, limit):
    head = bytes_at(encoded, 0, 54)
    offset, header, width, height = (
        number_of(head[at : at + 4]) for at in (10, 14, 18, 22)
    )
    height = tf.where(height < 2**31, height, height - 2**32)
    rows_count = tf.abs(height)
    bits, compression = number_of(head[28:30]), number_of(head[30:34])
    used = number_of(head[46:50])
    row = (width * bits + 31) // 32 * 4
    most = tf.bitwise.left_shift(tf.ones_like(bits), tf.minimum(bits, 8))
    count = tf.where(bits <= 8, tf.where(used > 0, used, most), 0)
    is_known = (
        tf.reduce_any(header == list(decoding.BMP_HEADERS))
        & tf.reduce_any(bits == list(decoding.BMP_BITS))
        & (compression == 0)
    )
    are_colors = (count <= most) & (
        (bits > 8) | (14 + header + 4 * count <= offset)
    )
    encoded = checked(
        "BMP",
        encoded,
        *size_checks((width, rows_count), limit),
        (is_known, "it is compressed or has another header or depth"),
        (are_colors, "it has too many colors"),
        (
            offset + rows_count * row <= length_of(encoded),
            "it is cut short",
        ),
    )
    data = part(encoded, offset, rows_count * row)
    rows = tf.reshape(tf.io.decode_raw(data, tf.uint8), (rows_count, row))
    rows = tf.cond(height < 0, lambda: rows, lambda: rows[::-1])

    def colors():
        channels = bits // 8
        pixels = rows[:, : width * channels]
        pixels = tf.reshape(pixels, (rows_count, width, channels))
        return pixels[..., 2::-1]

    def indices():
        table = tf.io.decode_raw(
            part(encoded, 14 + header, 4 * count), tf.uint8
        )
        table = tf.reshape(table, (count, 4))[:, 2::-1]
        table = tf.pad(table, [(0, 256 - count), (0, 0)])
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
        each = tf.bitwise.right_shift(rows[..., None], shifts)
        each = each & tf.cast(most - 1, tf.uint8)
        each = tf.reshape(each, (rows_count, -1))[:, :width]
        return tf.gather(table, tf.cast(each, tf.int32))

    return tf.cond(bits > 8, colors, indices)
