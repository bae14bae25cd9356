"""Image files to pixels in TensorFlow graphs. The twin of `decoding.py`.

A graph that decodes can be saved: it needs no Python.
"""

import numpy as np
import tensorflow as tf

from keras_nfnet.data import decoding

# As Pillow's. TensorFlow's default is faster by a tenth and strays by up to
# 31 of 255 on single pixels.
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
# Bytes of a GIF in which the ends of its blocks are found at once.
_WINDOW = 2**14
_LONGEST_BLOCK = 256


def decode(encoded):
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
        checked, shape = _checked_jpeg(encoded, limit)
        return tf.image.decode_and_crop_jpeg(checked, window(shape), **_JPEG)

    def of_any():
        image = _decode(encoded, limit)
        crop = tf.unstack(window(tf.shape(image)))
        return tf.image.crop_to_bounding_box(image, *crop)

    components = tf.cond(
        _part(encoded, 0, 3) == decoding.MARKS[0][1][0][1],
        lambda: tf.image.extract_jpeg_shape(encoded)[2],
        lambda: 0,
    )
    # With four components, chroma differs at the crop's edge.
    return tf.cond((components == 1) | (components == 3), of_jpeg, of_any)


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
    head = _bytes(encoded, 0, 16)
    place = tf.argmax(tf.reduce_all(head & masks == marks, axis=1))
    decoders = [_jpeg, _png, _gif, _webp, _bmp]

    def refused():
        expected = f"{decoding.EXPECTED}. Received: "
        words = tf.constant([expected + name for name in names])[place]
        with _asserted(False, words):
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
    encoded = _checked(
        "JPEG",
        encoded,
        (
            scans <= decoding.MOST_SCANS,
            f"it has more than {decoding.MOST_SCANS} scans",
        ),
        *_size_checks(shape[1::-1], limit),
    )
    return encoded, shape


def _png(encoded, limit):
    head = _bytes(encoded, 0, 24)
    size = [_number(head[at : at + 4], big=True) for at in (16, 20)]
    is_first = tf.reduce_all(head[12:16] == list(b"IHDR"))
    encoded = _checked(
        "PNG",
        encoded,
        (is_first, "it has no header"),
        *_size_checks(size, limit),
    )
    return tf.io.decode_png(encoded, channels=3)


def _gif(encoded, limit):
    head = _bytes(encoded, 0, 13)
    screen = [_number(head[at : at + 2]) for at in (6, 8)]
    start = 13 + _table_bytes(head[10])
    length = _length(encoded)

    def is_extension(place, control, count):
        mark = _bytes(encoded, place, 1)[0]
        return (mark == ord("!")) & (count < decoding.MOST_PARTS)

    def behind(place, control, count):
        is_control = _part(encoded, place + 1, 2) == b"\xf9\4"
        control = tf.where(is_control, place, control)
        return _end_of_blocks(encoded, place + 2), control, count + 1

    place, control, _ = tf.while_loop(
        is_extension, behind, (start, tf.constant(-1, tf.int64), 0)
    )
    frame = _bytes(encoded, place, 10)
    left, top, *size = (_number(frame[at : at + 2]) for at in (1, 3, 5, 7))
    data = place + 10 + _table_bytes(frame[9]) + 1
    end = _end_of_blocks(encoded, data)
    canvas = [
        tf.maximum(whole, first + side)
        for whole, first, side in zip(screen, (left, top), size, strict=True)
    ]
    encoded = _checked(
        "GIF",
        encoded,
        (
            (frame[0] == ord(",")) & (end <= length),
            "it is cut short, or has blocks that are not known or too many",
        ),
        *_size_checks(canvas, limit),
        *_size_checks(size, limit),
    )
    sides = _part(encoded, place + 5, 4)
    one_frame = tf.strings.join(
        [
            _part(encoded, 0, 6),
            sides,
            _part(encoded, 10, start - 10),
            tf.cond(
                control < 0,
                lambda: "",
                lambda: _part(encoded, control, 7) + b"\0",
            ),
            b",\0\0\0\0",
            sides,
            _part(encoded, place + 9, end - place - 9),
            b";",
        ]
    )
    return _on_black(tf.io.decode_gif(one_frame)[0], canvas, left, top)


def _table_bytes(packed):
    packed = tf.cast(packed, tf.int64)
    count = tf.bitwise.left_shift(tf.constant(2, tf.int64), packed & 7)
    return tf.where(packed & 128 > 0, 3 * count, 0)


def _end_of_blocks(encoded, place):
    """As in `decoding.py`; beyond the file's end where it is cut short.

    Each byte may begin a block and tells where the next begins, so that all
    chains of a window are followed by doubling: a loop over blocks takes
    minutes for ten megabytes of blocks of one byte.
    """
    length = _length(encoded)

    def goes_on(place, ended):
        return ~ended & (place < length)

    def window(place, ended):
        blocks = tf.io.decode_raw(_part(encoded, place, _WINDOW), tf.uint8)
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
        return place + tf.cast(ends[0], tf.int64), ends[0] < count

    place, ended = tf.while_loop(goes_on, window, (place, tf.constant(False)))
    return tf.where(ended, place, length) + 1


def _webp(encoded, limit):
    limit = min(limit, decoding.MOST_WEBP_PIXELS)
    length = _length(encoded)
    zero = tf.constant(0, tf.int64)

    def is_other(place, *state):
        kind = _part(encoded, place, 4)
        goes_on = (place + 8 <= length) & (state[-1] < decoding.MOST_PARTS)
        return (kind != b"VP8 ") & (kind != b"VP8L") & goes_on

    def behind(place, canvas, first, is_animated, count):
        kind = _part(encoded, place, 4)
        chunk = _bytes(encoded, place + 4, 14)
        size = _number(chunk[:4])
        is_canvas, is_frame = kind == b"VP8X", kind == b"ANMF"
        announced = [1 + _number(chunk[at : at + 3]) for at in (8, 11)]
        offset = [2 * _number(chunk[at : at + 3]) for at in (4, 7)]
        return (
            place + 8 + tf.where(~is_frame, size + size % 2, 16),
            tf.where(is_canvas, announced, canvas),
            tf.where(is_frame, offset, first),
            is_animated | is_frame,
            count + 1,
        )

    place, canvas, first, is_animated, _ = tf.while_loop(
        is_other,
        behind,
        (
            tf.constant(12, tf.int64),
            tf.stack([zero, zero]),
            tf.stack([zero, zero]),
            tf.constant(False),
            0,
        ),
    )
    kind, frame = _part(encoded, place, 4), _bytes(encoded, place, 18)
    bits = _number(frame[9:13])
    size = tf.where(
        kind == b"VP8 ",
        [_number(frame[14:16]) & 0x3FFF, _number(frame[16:18]) & 0x3FFF],
        [1 + (bits & 0x3FFF), 1 + (bits // 2**14 & 0x3FFF)],
    )
    canvas = tf.where(canvas[0] > 0, canvas, size)
    count = _number(frame[4:8])
    encoded = _checked(
        "WebP",
        encoded,
        (
            ((kind == b"VP8 ") | (kind == b"VP8L"))
            & (place + 8 + count <= length),
            "it is cut short or has too many chunks before its first frame",
        ),
        *_size_checks(tf.unstack(size), limit),
        *_size_checks(tf.unstack(canvas), limit),
        (
            tf.reduce_max(canvas) <= decoding.LONGEST_WEBP,
            f"it has a side of more than {decoding.LONGEST_WEBP} pixels",
        ),
        (is_animated | tf.reduce_all(canvas == size), "its sizes differ"),
        (
            tf.reduce_all(first + size <= canvas),
            "its first frame leaves its canvas",
        ),
    )
    # The first frame alone, without its alpha channel beside it. TensorFlow
    # 2.21 corrupts memory on animations.
    padding = tf.where(count % 2 > 0, b"\0", b"")
    bytes_of_size = tf.bitwise.right_shift(
        12 + count + count % 2, tf.range(0, 32, 8, tf.int64)
    )
    one_frame = tf.strings.join(
        [
            b"RIFF",
            _text(bytes_of_size & 255),
            b"WEBP",
            _part(encoded, place, 8 + count),
            padding,
        ]
    )
    # With three channels asked for, it refuses a frame that has four.
    image = tf.io.decode_image(one_frame, 0, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))[..., :3]
    return _on_black(image, tf.unstack(canvas), *tf.unstack(first))


def _bmp(encoded, limit):
    head = _bytes(encoded, 0, 54)
    offset, header, width, height = (
        _number(head[at : at + 4]) for at in (10, 14, 18, 22)
    )
    height = tf.where(height < 2**31, height, height - 2**32)
    rows_count = tf.abs(height)
    bits, compression = _number(head[28:30]), _number(head[30:34])
    used = _number(head[46:50])
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
    encoded = _checked(
        "BMP",
        encoded,
        *_size_checks((width, rows_count), limit),
        (is_known, "it is compressed or has another header or depth"),
        (are_colors, "it has too many colors"),
        (
            offset + rows_count * row <= _length(encoded),
            "it is cut short",
        ),
    )
    data = _part(encoded, offset, rows_count * row)
    rows = tf.reshape(tf.io.decode_raw(data, tf.uint8), (rows_count, row))
    rows = tf.cond(height < 0, lambda: rows, lambda: rows[::-1])

    def colors():
        channels = bits // 8
        pixels = rows[:, : width * channels]
        pixels = tf.reshape(pixels, (rows_count, width, channels))
        return pixels[..., 2::-1]

    def indices():
        table = tf.io.decode_raw(
            _part(encoded, 14 + header, 4 * count), tf.uint8
        )
        table = tf.reshape(table, (count, 4))[:, 2::-1]
        table = tf.pad(table, [(0, 256 - count), (0, 0)])
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
        each = tf.bitwise.right_shift(rows[..., None], shifts)
        each = each & tf.cast(most - 1, tf.uint8)
        each = tf.reshape(each, (rows_count, -1))[:, :width]
        return tf.gather(table, tf.cast(each, tf.int32))

    return tf.cond(bits > 8, colors, indices)


def _size_checks(size, limit):
    width, height = (tf.cast(side, tf.int64) for side in tf.unstack(size))
    return (
        ((width > 0) & (height > 0), "it announces no pixels"),
        (
            # Each alone first: the product of two can overflow.
            (width <= limit) & (height <= limit) & (width * height <= limit),
            f"it announces more than {limit:,} pixels, which is the limit of "
            "`keras_nfnet.data.set_max_pixels`",
        ),
    )


def _checked(kind, encoded, *checks):
    """The same file, once all `(condition, words)` hold."""
    for condition, why in checks:
        words = f"{decoding.EXPECTED}. Received: a {kind} file: {why}"
        with _asserted(condition, words):
            encoded = tf.identity(encoded)
    return encoded


def _asserted(condition, words):
    assertion = tf.debugging.Assert(condition, [words])
    return tf.control_dependencies([assertion])


def _on_black(frame, canvas, left, top):
    """A frame at its place on a canvas `(width, height)`."""
    height, width = (tf.shape(frame, tf.int64)[axis] for axis in (0, 1))
    right, below = canvas[0] - left - width, canvas[1] - top - height
    return tf.pad(frame, [(top, below), (left, right), (0, 0)])


def _length(encoded):
    return tf.cast(tf.strings.length(encoded), tf.int64)


def _part(encoded, place, count):
    """A part of a string, shorter where that ends."""
    place = tf.minimum(tf.cast(place, tf.int64), _length(encoded))
    return tf.strings.substr(encoded, place, tf.cast(count, tf.int64))


def _bytes(encoded, place, count):
    """`count` bytes as uint8, zeros where the string ends."""
    part = _part(encoded, place, count)
    return tf.io.decode_raw(part, tf.uint8, fixed_length=count)


def _number(data, big=False):
    """An int64 of bytes: the last is the highest, or with `big` the first."""
    count = data.shape[0]
    order = range(count - 1, -1, -1) if big else range(count)
    scale = tf.constant([256**power for power in order], tf.int64)
    return tf.reduce_sum(tf.cast(data, tf.int64) * scale)


def _text(numbers):
    """A string of bytes."""
    table = tf.constant([bytes([byte]) for byte in range(256)])
    return tf.strings.reduce_join(tf.gather(table, numbers))
