"""Parts of a file in a TensorFlow graph, and what is checked of them."""

import tensorflow as tf

from keras_nfnet.data import decoding


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
        with asserted(condition, words):
            encoded = tf.identity(encoded)
    return encoded


def asserted(condition, words):
    """A context whose operations run once a condition holds."""
    assertion = tf.debugging.Assert(condition, [words])
    return tf.control_dependencies([assertion])


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


def text_of(numbers):
    """A string of bytes."""
    table = tf.constant([bytes([byte]) for byte in range(256)])
    return tf.strings.reduce_join(tf.gather(table, numbers))
