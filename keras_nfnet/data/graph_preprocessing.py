"""Decoding and preprocessing inside TensorFlow graphs.

The twin of `decoding.py` and `preprocessing.py` for `tf.data` and
SavedModels: a graph needs no Python. Imported only where TensorFlow is
needed.
"""

import math

import numpy as np
import tensorflow as tf

from keras_nfnet.data import decoding, image_files
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
# Bytes of a GIF in which the ends of its blocks are found at once.
_WINDOW = 2**14
_LONGEST_BLOCK = 256


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
        tf.strings.substr(encoded, 0, 3) == image_files.MARKS[0][1][0][1],
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
        size: Side of the crop in pixels, or `(height, width)`.
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


class _File:
    """A reader for `image_files.py` of tensors."""

    def __init__(self, kind, encoded, limit):
        self.encoded = encoded
        self.length = tf.cast(tf.strings.length(encoded), tf.int64)
        self._kind = kind
        self._limit = limit

    def part(self, position, count):
        """A part of the file, shorter where that ends."""
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        return tf.strings.substr(
            self.encoded, position, tf.cast(count, tf.int64)
        )

    def bytes(self, position, count):
        """`count` bytes as uint8, zeros where the file ends."""
        part = self.part(position, count)
        return tf.io.decode_raw(part, tf.uint8, fixed_length=count)

    def number(self, position, count, big=False):
        """An int64 of bytes, the highest last, or with `big` first."""
        order = range(count - 1, -1, -1) if big else range(count)
        scale = tf.constant([256**power for power in order], tf.int64)
        return tf.reduce_sum(
            tf.cast(self.bytes(position, count), tf.int64) * scale
        )

    def where(self, condition, one, other):
        one, other = (
            tf.convert_to_tensor(each, dtype_hint=tf.int64)
            for each in (one, other)
        )
        return tf.where(condition, one, other)

    def loop(self, goes_on, step, state):
        state = [
            tf.cast(each, tf.bool if each is False else tf.int64)
            for each in state
        ]
        return tf.while_loop(goes_on, step, state)

    def four_bytes(self, number):
        table = tf.constant([bytes([byte]) for byte in range(256)])
        shifted = tf.bitwise.right_shift(number, tf.range(0, 32, 8, tf.int64))
        return tf.strings.reduce_join(tf.gather(table, shifted & 255))

    def end_of_blocks(self, position):
        """As in `decoding.py`.

        Each byte may begin a block and tells where the next begins, so that
        all chains of a window are followed by doubling: a loop over blocks
        takes minutes for ten megabytes of blocks of one byte.
        """

        def goes_on(position, ended):
            return ~ended & (position < self.length)

        def window(position, ended):
            blocks = tf.io.decode_raw(self.part(position, _WINDOW), tf.uint8)
            blocks = tf.cast(blocks, tf.int32)
            count = tf.size(blocks)
            ends = tf.range(count + _LONGEST_BLOCK)
            # A block of no bytes is the last, and stays.
            steps = tf.where(blocks == 0, 0, blocks + 1)
            ends += tf.pad(steps, [(0, _LONGEST_BLOCK)])
            (ends,) = tf.while_loop(
                lambda ends: ends[ends[0]] != ends[0],
                lambda ends: (tf.gather(ends, ends),),
                (ends,),
            )
            return position + tf.cast(ends[0], tf.int64), ends[0] < count

        position, ended = tf.while_loop(
            goes_on, window, (position, tf.constant(False))
        )
        return tf.where(ended, position, self.length) + 1

    def check(self, condition, why, *values):
        """What is read of the file from here on is read if this holds."""
        words = f"{image_files.EXPECTED}. Received: a {self._kind} file: {why}"
        assertion = tf.debugging.Assert(condition, [words, *values])
        with tf.control_dependencies([assertion]):
            self.encoded = tf.identity(self.encoded)

    def check_size(self, size, limit=2**31):
        width, height = (tf.cast(side, tf.int64) for side in tf.unstack(size))
        limit = min(limit, self._limit)
        self.check((width > 0) & (height > 0), "it announces no pixels")
        # Each alone first: the product of two can overflow.
        self.check(
            (width <= limit) & (height <= limit) & (width * height <= limit),
            f"it announces more than {limit:,} pixels, which is the limit of "
            "`keras_nfnet.data.set_max_pixels`",
        )


# A function, so that its parts run one after the other when it is called
# eagerly, and its errors are TensorFlow's.
@tf.function(autograph=False)
def _decode(encoded, limit):
    names = [*(name for name, _ in image_files.MARKS), image_files.UNKNOWN]
    # The last row is of no mark, which every file has.
    marks, masks = np.zeros((2, len(names), 16), np.uint8)
    for row, (_, bytes_at) in enumerate(image_files.MARKS):
        for at, mark in bytes_at:
            marks[row, at : at + len(mark)] = list(mark)
            masks[row, at : at + len(mark)] = 255
    head = _File("", encoded, limit).bytes(0, 16)
    position = tf.argmax(tf.reduce_all(head & masks == marks, axis=1))
    decoders = [_jpeg, _png, _gif, _webp, _bmp]

    def refused():
        expected = f"{image_files.EXPECTED}. Received: "
        words = tf.constant([expected + name for name in names])[position]
        assertion = tf.debugging.Assert(False, [words])
        with tf.control_dependencies([assertion]):
            return tf.zeros((0, 0, 3), tf.uint8)

    branches = [
        image_files.DECODED.index(name)
        if name in image_files.DECODED
        else len(decoders)
        for name in names
    ]
    image = tf.switch_case(
        tf.constant(branches)[position],
        [lambda decoder=each: decoder(encoded, limit) for each in decoders]
        + [refused],
    )
    return tf.ensure_shape(image, (None, None, 3))


def _checked_jpeg(encoded, limit):
    """The file, once it may be decoded, and its shape."""
    file = _File("JPEG", encoded, limit)

    def count(mark):
        parts = tf.raw_ops.StringSplitV2(
            input=encoded[None], sep=mark, maxsplit=image_files.MOST_SCANS + 1
        )
        return tf.size(parts.values) - 1

    scans = tf.cond(
        count(image_files.SCAN) > image_files.MOST_SCANS,
        lambda: sum(count(mark) for mark in image_files.SCANS),
        lambda: 0,
    )
    shape = tf.image.extract_jpeg_shape(encoded)
    file.check(
        scans <= image_files.MOST_SCANS,
        f"it has more than {image_files.MOST_SCANS} scans",
    )
    file.check_size(shape[1::-1])
    return file.encoded, shape


def _jpeg(encoded, limit):
    encoded, _ = _checked_jpeg(encoded, limit)
    return tf.io.decode_jpeg(encoded, **_JPEG)


def _png(encoded, limit):
    file = _File("PNG", encoded, limit)
    file.check(file.part(12, 4) == b"IHDR", "it has no header")
    file.check_size([file.number(at, 4, big=True) for at in (16, 20)])
    return tf.io.decode_png(file.encoded, channels=3)


def _gif(encoded, limit):
    file = _File("GIF", encoded, limit)
    (head, frame), control, _, canvas, _, first = image_files.gif(file)
    # Its transparent color is black.
    extension = tf.cond(
        control < 0, lambda: "", lambda: file.part(control, 7) + b"\0"
    )
    image = tf.io.decode_gif(head + extension + frame)[0]
    return _on_black(image, canvas, *first)


def _webp(encoded, limit):
    frame, canvas, _, first = image_files.webp(_File("WebP", encoded, limit))
    # TensorFlow 2.21 corrupts memory on animations. With three channels asked
    # for, it refuses a frame that has four.
    image = tf.io.decode_image(frame, 0, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))[..., :3]
    return _on_black(image, tf.unstack(canvas), *tf.unstack(first))


def _on_black(frame, canvas, left, top):
    """A frame at its position on a canvas `(width, height)`."""
    height, width = (tf.shape(frame, tf.int64)[axis] for axis in (0, 1))
    right, below = canvas[0] - left - width, canvas[1] - top - height
    return tf.pad(frame, [(top, below), (left, right), (0, 0)])


def _bmp(encoded, limit):
    file = _File("BMP", encoded, limit)
    position, count, offset, row, rows, width, bits, is_down = image_files.bmp(
        file
    )
    data = tf.io.decode_raw(file.part(offset, rows * row), tf.uint8)
    data = tf.reshape(data, (rows, row))
    data = tf.cond(is_down, lambda: data, lambda: data[::-1])

    def colors():
        channels = bits // 8
        pixels = data[:, : width * channels]
        return tf.reshape(pixels, (rows, width, channels))[..., 2::-1]

    def indices():
        table = tf.io.decode_raw(file.part(position, 4 * count), tf.uint8)
        table = tf.reshape(table, (count, 4))[:, 2::-1]
        table = tf.pad(table, [(0, 256 - count), (0, 0)])
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
        each = tf.bitwise.right_shift(data[..., None], shifts)
        each &= tf.cast(2**bits - 1, tf.uint8)
        each = tf.reshape(each, (rows, -1))[:, :width]
        return tf.gather(table, tf.cast(each, tf.int32))

    return tf.cond(bits > 8, colors, indices)
