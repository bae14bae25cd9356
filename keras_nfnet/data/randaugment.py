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


# Traced once, however many pipelines and images take it.
@tf.function(autograph=False)
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

    def one_layer(layer, image):
        draws = strengths(uniform[layer, 1:], normal[layer], magnitude)
        # One in eleven layers leaves the image as it is.
        chosen = tf.cast(uniform[layer, 0] * (len(OPERATIONS) + 1), tf.int32)
        branches = [
            lambda operation=operation: operation(image, **draws)
            for operation in OPERATIONS.values()
        ]
        return layer + 1, tf.switch_case(
            chosen, branches, default=lambda: tf.identity(image)
        )

    # A loop, not a chain of layers: a branch not taken costs time too.
    return tf.while_loop(
        lambda layer, _: layer < layers,
        one_layer,
        (0, image),
        parallel_iterations=1,
    )[1]


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
    low = _over_pixels(tf.reduce_min, image)
    high = _over_pixels(tf.reduce_max, image)
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    return _clip(image * scale + offset)


def equalize(image, **_):
    levels = tf.cast(image, tf.int32)
    counts = tf.stack(
        [
            tf.histogram_fixed_width(levels[..., channel], [0, 255], 256)
            for channel in range(3)
        ]
    )
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
    return tf.gather(table, levels + tf.range(3) * 256)


def solarize(image, addition, threshold, **_):
    image = _clip(image + addition)
    # tf.where(image < threshold, image, 255 - image), which is slower.
    sign = 2 * tf.cast(image < threshold, tf.float32) - 1
    return sign * (image - 127.5) + 127.5


def color(image, share, **_):
    # Gray is the same matrix product for each channel (tf.image's weights).
    gray = tf.constant([[0.2989] * 3, [0.587] * 3, [0.114] * 3])
    mixture = share * gray + (1 - share) * tf.eye(3)
    mixed = tf.matmul(tf.reshape(image, (-1, 3)), mixture)
    return _clip(tf.reshape(mixed, image.shape))


def contrast(image, spread, **_):
    mean = _over_pixels(tf.reduce_mean, image)
    return _clip(image * (1 + spread) - mean * spread)


def brightness(image, spread, **_):
    return _clip(image + 255 * spread)


def shear_x(image, share, sign, **_):
    height, width = image.shape[:2]
    shift = share * sign * tf.range(height, dtype=tf.float32)[:, None]
    columns, weight = _places(shift, tf.range(width + 1), width, height)
    return _lerp(
        _pixels(image, tf.range(height)[:, None] * width + columns),
        weight[..., None],
        axis=1,
    )


def shear_y(image, share, sign, **_):
    height, width = image.shape[:2]
    shift = share * sign * tf.range(width, dtype=tf.float32)
    rows, weight = _places(shift, tf.range(height + 1)[:, None], height, width)
    return _lerp(
        _pixels(image, rows * width + tf.range(width)),
        weight[:, None],
        axis=0,
    )


def translate_x(image, spread, **_):
    width = image.shape[1]
    columns, weight = _places(
        -spread * width, tf.range(width + 1), width, width
    )
    return _lerp(tf.gather(image, columns, axis=1), weight, axis=1)


def translate_y(image, spread, **_):
    height = image.shape[0]
    rows, weight = _places(
        -spread * height, tf.range(height + 1), height, height
    )
    return _lerp(tf.gather(image, rows), weight, axis=0)


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


def _places(shift, indices, length, largest_shift):
    """Where pixels that move along one axis come from.

    Args:
        shift: By how many pixels they move, of a shape that broadcasts.
        indices: The axis's indices, and one more: the upper neighbour of a
            place is the lower neighbour of the next.
        length: The axis's pixels.
        largest_shift: The most that `shift` can be.

    Returns:
        The lower neighbours, reflected into the axis with the edge repeated,
        and the upper neighbours' share.
    """
    whole = tf.floor(shift)
    places = indices + tf.cast(whole, tf.int32)
    if largest_shift > length:
        places = tf.math.floormod(places, 2 * length)
    places = tf.where(places < 0, -1 - places, places)
    places = tf.where(places < length, places, 2 * length - 1 - places)
    # One beyond the reflection's end is only met with a share of 0.
    return tf.maximum(places, 0), shift - whole


def _pixels(image, indices):
    return tf.gather(tf.reshape(image, (-1, 3)), indices)


def _lerp(pixels, weight, axis):
    """Interpolates between neighbours along an axis, which loses one."""
    lower, upper = (
        (pixels[:-1], pixels[1:])
        if axis == 0
        else (pixels[:, :-1], pixels[:, 1:])
    )
    return lower + weight * (upper - lower)


def _over_pixels(reduction, image):
    # Over rows first: a reduction to three numbers at once is slow.
    rows = tf.reshape(image, (image.shape[0], -1))
    return reduction(tf.reshape(reduction(rows, axis=0), (-1, 3)), axis=0)


def _clip(image):
    return tf.clip_by_value(image, 0.0, 255.0)
