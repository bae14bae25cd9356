"""Bytes of image files, and first frames of GIF and WebP, in TensorFlow graphs.

A first frame is put into a file of its own, so that TensorFlow decodes no
other frames.
"""

import tensorflow as tf

from keras_nfnet.data import decoding

# Bytes of a GIF in which the ends of its blocks are found at once.
_WINDOW = 2**14
_LONGEST_BLOCK = 256


def size_checks(size, limit):
    """What must hold of a width and a height, for `checked`."""
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


def checked(kind, encoded, *checks):
    """The same file, once all `(condition, words)` hold."""
    for condition, why in checks:
        words = f"{decoding.EXPECTED}. Received: a {kind} file: {why}"
        assertion = tf.debugging.Assert(condition, [words])
        with tf.control_dependencies([assertion]):
            encoded = tf.identity(encoded)
    return encoded


def on_black(frame, canvas, left, top):
    """A frame at its place on a canvas `(width, height)`."""
    height, width = (tf.shape(frame, tf.int64)[axis] for axis in (0, 1))
    right, below = canvas[0] - left - width, canvas[1] - top - height
    return tf.pad(frame, [(top, below), (left, right), (0, 0)])


def length_of(encoded):
    return tf.cast(tf.strings.length(encoded), tf.int64)


def part(encoded, place, count):
    """A part of a string, shorter where that ends."""
    place = tf.minimum(tf.cast(place, tf.int64), length_of(encoded))
    return tf.strings.substr(encoded, place, tf.cast(count, tf.int64))


def bytes_at(encoded, place, count):
    """`count` bytes as uint8, zeros where the string ends."""
    text = part(encoded, place, count)
    return tf.io.decode_raw(text, tf.uint8, fixed_length=count)


def number_of(data, big=False):
    """An int64 of bytes: the last is the highest, or with `big` the first."""
    count = data.shape[0]
    order = range(count - 1, -1, -1) if big else range(count)
    scale = tf.constant([256**power for power in order], tf.int64)
    return tf.reduce_sum(tf.cast(data, tf.int64) * scale)


def gif(encoded, limit):
    head = bytes_at(encoded, 0, 13)
    screen = [number_of(head[at : at + 2]) for at in (6, 8)]
    start = 13 + _table_bytes(head[10])
    length = length_of(encoded)

    def is_extension(place, control, count):
        mark = bytes_at(encoded, place, 1)[0]
        return (mark == ord("!")) & (count < decoding.MOST_PARTS)

    def behind(place, control, count):
        is_control = part(encoded, place + 1, 2) == b"\xf9\4"
        control = tf.where(is_control, place, control)
        return _end_of_blocks(encoded, place + 2), control, count + 1

    place, control, _ = tf.while_loop(
        is_extension, behind, (start, tf.constant(-1, tf.int64), 0)
    )
    frame = bytes_at(encoded, place, 10)
    left, top, *size = (number_of(frame[at : at + 2]) for at in (1, 3, 5, 7))
    data = place + 10 + _table_bytes(frame[9]) + 1
    end = _end_of_blocks(encoded, data)
    canvas = [
        tf.maximum(whole, first + side)
        for whole, first, side in zip(screen, (left, top), size, strict=True)
    ]
    encoded = checked(
        "GIF",
        encoded,
        (
            (frame[0] == ord(",")) & (end <= length),
            "it is cut short, or has blocks that are not known or too many",
        ),
        *size_checks(canvas, limit),
        *size_checks(size, limit),
    )
    sides = part(encoded, place + 5, 4)
    one_frame = tf.strings.join(
        [
            part(encoded, 0, 6),
            sides,
            part(encoded, 10, start - 10),
            tf.cond(
                control < 0,
                lambda: "",
                lambda: part(encoded, control, 7) + b"\0",
            ),
            b",\0\0\0\0",
            sides,
            part(encoded, place + 9, end - place - 9),
            b";",
        ]
    )
    return on_black(tf.io.decode_gif(one_frame)[0], canvas, left, top)


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
    length = length_of(encoded)

    def goes_on(place, ended):
        return ~ended & (place < length)

    def window(place, ended):
        blocks = tf.io.decode_raw(part(encoded, place, _WINDOW), tf.uint8)
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


def webp(encoded, limit):
    limit = min(limit, decoding.MOST_WEBP_PIXELS)
    length = length_of(encoded)
    zero = tf.constant(0, tf.int64)

    def is_other(place, *state):
        kind = part(encoded, place, 4)
        goes_on = (place + 8 <= length) & (state[-1] < decoding.MOST_PARTS)
        return (kind != b"VP8 ") & (kind != b"VP8L") & goes_on

    def behind(place, canvas, first, is_animated, count):
        kind = part(encoded, place, 4)
        chunk = bytes_at(encoded, place + 4, 14)
        size = number_of(chunk[:4])
        is_canvas, is_frame = kind == b"VP8X", kind == b"ANMF"
        announced = [1 + number_of(chunk[at : at + 3]) for at in (8, 11)]
        offset = [2 * number_of(chunk[at : at + 3]) for at in (4, 7)]
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
    kind, frame = part(encoded, place, 4), bytes_at(encoded, place, 18)
    bits = number_of(frame[9:13])
    size = tf.where(
        kind == b"VP8 ",
        [number_of(frame[14:16]) & 0x3FFF, number_of(frame[16:18]) & 0x3FFF],
        [1 + (bits & 0x3FFF), 1 + (bits // 2**14 & 0x3FFF)],
    )
    canvas = tf.where(canvas[0] > 0, canvas, size)
    count = number_of(frame[4:8])
    encoded = checked(
        "WebP",
        encoded,
        (
            ((kind == b"VP8 ") | (kind == b"VP8L"))
            & (place + 8 + count <= length),
            "it is cut short or has too many chunks before its first frame",
        ),
        *size_checks(tf.unstack(size), limit),
        *size_checks(tf.unstack(canvas), limit),
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
    table = tf.constant([bytes([byte]) for byte in range(256)])
    bytes_of_size = tf.bitwise.right_shift(
        12 + count + count % 2, tf.range(0, 32, 8, tf.int64)
    )
    one_frame = tf.strings.join(
        [
            b"RIFF",
            tf.strings.reduce_join(tf.gather(table, bytes_of_size & 255)),
            b"WEBP",
            part(encoded, place, 8 + count),
            padding,
        ]
    )
    # With three channels asked for, it refuses a frame that has four.
    image = tf.io.decode_image(one_frame, 0, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))[..., :3]
    return on_black(image, tf.unstack(canvas), *tf.unstack(first))
