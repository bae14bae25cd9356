"""RandAugment as keras-cv has it, written anew for speed.

The ten operations, their strengths and how often each is taken are those of
`keras_cv.layers.RandAugment` 0.9.0 (with its default `rate` of 10/11 and
`magnitude_stddev` of 0.15); tests compare each operation with keras-cv's for
the same draws. What differs: all randomness follows from a seed, and shears
and translations, which move pixels along one axis, interpolate along it only.

NOTE: keras-cv's magnitude is a share of the strongest, so the paper's, on
RandAugment's scale of 30, is divided by 30. That makes the shear of
magnitudes 5, 10, 15 on the average 0.17, 0.33, 0.5; the authors' is 0.15,
0.3, 0.45. Divided by 10, by which the authors scale other operations, 15
would lie beyond keras-cv's strongest.

Reference: arXiv:1909.13719.
"""

import tensorflow as tf

from keras_nfnet.data.augmentation import MAX_MAGNITUDE

_STDDEV = 0.15
# Largest brightening before solarization: beyond it little is left to see.
_MAX_ADDITION = 110.0


def randaugment(image, layers, magnitude, seed):
    """Applies random operations one after another.

    Args:
        image: Float32 `(height, width, 3)`, RGB 0–255.
        layers: How many operations.
        magnitude: Their strength, 0 to 30.
        seed: Two whole numbers, the whole randomness.

    Returns:
        An image like `image`.
    """
    seeds = tf.random.split(seed, 2)
    uniform = tf.random.stateless_uniform((layers, 3), seeds[0])
    normal = tf.random.stateless_normal((layers, 2), seeds[1])
    for layer in range(layers):
        draws = strengths(uniform[layer, 1:], normal[layer], magnitude)
        # One in eleven layers leaves the image as it is.
        chosen = tf.cast(uniform[layer, 0] * (len(OPERATIONS) + 1), tf.int32)
        branches = [
            lambda operation=operation, image=image, draws=draws: operation(
                image, **draws
            )
            for operation in OPERATIONS.values()
        ]
        image = tf.switch_case(
            chosen, branches, default=lambda image=image: tf.identity(image)
        )
    return image


def strengths(uniform, normal, magnitude):
    """What the operations take, from random numbers.

    Args:
        uniform: Two numbers in [0, 1): of these the second is a sign.
        normal: Two standard-normal numbers.
        magnitude: 0 to 30.

    Returns:
        A dictionary of scalars: `spread` in [-m, m] for m = magnitude / 30,
        uniform; `share` in [0, 1] around m, normal; `sign`; `addition` and
        `threshold` in pixel values, normal.
    """
    mean = magnitude / MAX_MAGNITUDE

    def around(draw, mean):
        return tf.clip_by_value(mean + _STDDEV * draw, 0.0, 1.0)

    return {
        "spread": mean * (2 * uniform[0] - 1),
        "share": around(normal[0], mean),
        "sign": tf.where(uniform[1] < 0.5, -1.0, 1.0),
        "addition": around(normal[0], mean) * _MAX_ADDITION,
        "threshold": around(normal[1], 1 - mean) * 255,
    }


def auto_contrast(image, **_):
    low = tf.reduce_min(image, axis=(0, 1))
    high = tf.reduce_max(image, axis=(0, 1))
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    return _clip(image * scale + offset)


def equalize(image, **_):
    levels = tf.cast(image, tf.int32)
    channels = tf.range(3) * 256
    counts = tf.math.bincount(levels + channels, minlength=768, maxlength=768)
    counts = tf.reshape(counts, (3, 256))
    # The least frequent level does not count, as in keras-cv (in PIL the
    # last does not).
    least = tf.reduce_min(
        tf.where(counts > 0, counts, counts.dtype.max), axis=1, keepdims=True
    )
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - least) // 255
    divisor = tf.maximum(step, 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + divisor // 2) // divisor, 255)
    table = tf.where(step == 0, tf.range(256), table)
    table = tf.cast(tf.reshape(table, [-1]), tf.float32)
    return tf.gather(table, levels + channels)


def solarize(image, addition, threshold, **_):
    image = _clip(image + addition)
    return tf.where(image < threshold, image, 255 - image)


def color(image, share, **_):
    return _clip(image + share * (tf.image.rgb_to_grayscale(image) - image))


def contrast(image, spread, **_):
    mean = tf.reduce_mean(image, axis=(0, 1))
    return _clip((image - mean) * (1 + spread) + mean)


def brightness(image, spread, **_):
    return _clip(image + 255 * spread)


def shear_x(image, share, sign, **_):
    height, width = image.shape[:2]
    rows, columns = tf.range(height), tf.range(width)
    places = tf.cast(columns, tf.float32) + share * sign * tf.cast(
        rows[:, None], tf.float32
    )
    return _moved(image, places, rows[:, None] * width, 1, width)


def shear_y(image, share, sign, **_):
    height, width = image.shape[:2]
    rows, columns = tf.range(height), tf.range(width)
    places = share * sign * tf.cast(columns, tf.float32) + tf.cast(
        rows[:, None], tf.float32
    )
    return _moved(image, places, columns, width, height)


def translate_x(image, spread, **_):
    height, width = image.shape[:2]
    rows, columns = tf.range(height), tf.range(width)
    places = tf.cast(columns, tf.float32) - spread * width
    return _moved(image, places[None], rows[:, None] * width, 1, width)


def translate_y(image, spread, **_):
    height, width = image.shape[:2]
    rows, columns = tf.range(height), tf.range(width)
    places = tf.cast(rows, tf.float32)[:, None] - spread * height
    return _moved(image, places, columns, width, height)


OPERATIONS = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "solarize": solarize,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


def _moved(image, places, start, stride, length):
    """Takes each pixel from a place along one axis, interpolated linearly.

    What lies outside is the reflection, in which the edge is repeated.

    Args:
        image: `(height, width, 3)`.
        places: Where along the axis each pixel comes from.
        start: Index of the axis's first pixel in the flattened image.
        stride: How far two neighbours along the axis lie there.
        length: The axis's pixels.
    """
    places = tf.math.floormod(places, 2.0 * length)
    places = tf.where(places > length - 0.5, 2 * length - 1 - places, places)
    places = tf.clip_by_value(places, 0.0, length - 1.0)
    low = tf.cast(places, tf.int32)
    weight = (places - tf.cast(low, tf.float32))[..., None]
    high = tf.minimum(low + 1, length - 1)
    pixels = tf.reshape(image, (-1, 3))
    lower = tf.gather(pixels, start + stride * low)
    upper = tf.gather(pixels, start + stride * high)
    return lower + weight * (upper - lower)


def _clip(image):
    return tf.clip_by_value(image, 0.0, 255.0)
