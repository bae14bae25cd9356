"""RandAugment with the operations of the paper's authors.

Each operation takes and returns a uint8 image, so one operation truncates
before the next begins, as with the authors. Pixels from outside of the image
are gray, 128; those that move are taken from their nearest neighbour.

Reference: RandAugment, arXiv:1909.13719; the operations are those of
AutoAugment, arXiv:1805.09501, as the authors' autoaugment.py has them.
"""

import functools
import itertools
import math

import numpy as np
import tensorflow as tf

# Magnitudes are tenths of an operation's range; the paper's 15 exceeds it.
_MAX_LEVEL = 10
# The authors' constants, at level 10.
_ROTATION = 30.0  # degrees
_POSTERIZE_BITS = 4
_SOLARIZE_THRESHOLD = 256
_SOLARIZE_ADDITION = 110
_SHEAR = 0.3
_TRANSLATION = 100.0  # pixels
_CUTOUT = 40  # pixels, half of a side

_FILL = 128


# Traced once, however many pipelines and images use it.
@tf.function(autograph=False)
def randaugment(image, layers, magnitude, seed):
    """Applies random operations one after another.

    Every layer picks one of the sixteen `OPERATIONS` with equal probability
    and always applies it.

    Args:
        image: uint8 tensor `(height, width, 3)`, RGB.
        layers: Number of operations.
        magnitude: Level of all of them; the paper's are 5, 10 and 15.
        seed: Two integers, the whole randomness.

    Returns:
        An image like `image`.
    """
    # Operation, sign, row and column of the cutout.
    draws = tf.random.stateless_uniform((layers, 4), seed)
    for drawn in tf.unstack(draws):
        image = _one_layer(image, magnitude, drawn)
    return image


def _one_layer(image, magnitude, drawn):
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    center = tf.cast(drawn[2:] * size, tf.int32)
    branches = [
        functools.partial(operation, image, magnitude, drawn[1] < 0.5)
        for operation in OPERATIONS.values()
    ]
    cutout = list(OPERATIONS).index("Cutout")
    branches[cutout] = functools.partial(branches[cutout], center=center)
    chosen = tf.cast(drawn[0] * len(branches), tf.int32)
    return tf.switch_case(chosen, branches)


def auto_contrast(image, level=0, negate=False):
    """Stretches each channel to 0–255."""
    image = _checked(image)
    low, high = (
        tf.cast(_over_pixels(reduce, image), tf.float32)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    # By rows of all channels: broadcasting along three is slow.
    rows = _rows(image)
    repeats = [tf.shape(image)[1]]
    stretched = tf.cast(rows, tf.float32) * tf.tile(scale, repeats) + tf.tile(
        offset, repeats
    )
    return tf.reshape(_truncated(stretched), tf.shape(image))


def equalize(image, level=0, negate=False):
    """Equalizes the histogram of each channel."""
    image = _checked(image)
    # By rows of all channels: broadcasting along three is slow.
    bins = tf.tile(256 * tf.range(3), [tf.shape(image)[1]])
    bins += tf.cast(_rows(image), tf.int32)
    counts = tf.math.bincount(
        tf.reshape(bins, [-1]), minlength=3 * 256, maxlength=3 * 256
    )
    counts = tf.reshape(counts, (3, 256))
    values = tf.range(256)
    largest = tf.reduce_max(tf.where(counts > 0, values, 0), axis=1)
    last = tf.gather(counts, largest, batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, None]
    divisor = tf.maximum(step, 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + divisor // 2) // divisor, 255)
    table = tf.cast(tf.where(step == 0, values, table), tf.uint8)
    equalized = tf.gather(tf.reshape(table, [-1]), bins)
    return tf.reshape(equalized, tf.shape(image))


def invert(image, level=0, negate=False):
    """Inverts every pixel."""
    return 255 - _checked(image)


def rotate(image, level, negate=False):
    """Rotates by 3 degrees a level."""
    image = _checked(image)
    degrees = _signed(_ROTATION * _fraction(level), negate)
    radians = degrees * (math.pi / 180)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) - 1)
    left = (width - (cos * width - sin * height)) / 2
    top = (height - (sin * width + cos * height)) / 2
    return moved(image, [cos, -sin, left, sin, cos, top])


def posterize(image, level, negate=False):
    """Keeps the leading bits of every pixel, 4 at level 10."""
    bits = int(_POSTERIZE_BITS * _fraction(level))
    # The authors' shift by 8 bits, for none, is one by 7 in TensorFlow.
    dropped = min(max(8 - bits, 0), 7)
    mask = tf.constant(256 - (1 << dropped), tf.uint8)
    return tf.bitwise.bitwise_and(_checked(image), mask)


def solarize(image, level, negate=False):
    """Inverts the pixels from a threshold on, 256 at level 10."""
    image = _checked(image)
    threshold = int(_SOLARIZE_THRESHOLD * _fraction(level))
    if threshold > 255:
        return tf.identity(image)
    # As tf.where(image < threshold, image, 255 - image), which is slow.
    inverted = tf.cast(image >= tf.constant(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(image, 255 * inverted)


def solarize_add(image, level, negate=False):
    """Brightens the pixels below 128, by 110 at level 10."""
    image = _checked(image)
    addition = min(int(_SOLARIZE_ADDITION * _fraction(level)), 255)
    dark = tf.cast(image < tf.constant(128, tf.uint8), tf.uint8)
    return image + tf.minimum(addition * dark, 255 - image)


def color(image, level, negate=False):
    """Blends with the image's own gray."""
    return _blended(tf.image.rgb_to_grayscale, image, level)


def contrast(image, level, negate=False):
    """Blends with one gray for all pixels."""

    def gray(image):
        # The mean of the histogram's counts, not of the pixels: the authors'.
        mean = tf.size(image) // (3 * 256)
        return tf.cast(tf.minimum(mean, 255), tf.uint8)

    return _blended(gray, image, level)


def brightness(image, level, negate=False):
    """Blends with black."""
    return _blended(lambda _: tf.constant(0, tf.uint8), image, level)


def sharpness(image, level, negate=False):
    """Blends with a smoothed image; the border stays as it is."""

    def smooth(image):
        # The authors divide the kernel by 13, so that rounding decides
        # whether a sum that 13 divides falls to the next level. Theirs adds
        # row by row and rounds each product and sum once, as do these: in
        # float64 the product is exact.
        wide = tf.cast(tf.pad(image, [(1, 1), (1, 1), (0, 0)]), tf.float64)
        height, width = tf.unstack(tf.shape(image)[:2])
        sums = tf.zeros(tf.shape(image))
        for row, column in itertools.product(range(3), repeat=2):
            weight = np.float32(5 if row == column == 1 else 1) / np.float32(13)
            part = wide[row : row + height, column : column + width]
            sums = tf.cast(
                tf.cast(sums, tf.float64) + weight * part, tf.float32
            )
        smoothed = tf.cast(tf.clip_by_value(sums, 0.0, 255.0), tf.uint8)
        # Of an image of a single row, the last row is the first.
        rows = image[1:-1]
        inner = smoothed[1:-1, 1:-1]
        middle = tf.concat([rows[:, :1], inner, rows[:, 1:][:, -1:]], axis=1)
        return tf.concat([image[:1], middle, image[1:][-1:]], axis=0)

    return _blended(smooth, image, level)


def shear_x(image, level, negate=False):
    """Moves each row by 0.03 of its number a level."""
    shear = _signed(_SHEAR * _fraction(level), negate)
    return moved(_checked(image), [1.0, shear, 0.0, 0.0, 1.0, 0.0])


def shear_y(image, level, negate=False):
    """Moves each column by 0.03 of its number a level."""
    shear = _signed(_SHEAR * _fraction(level), negate)
    return moved(_checked(image), [1.0, 0.0, 0.0, shear, 1.0, 0.0])


def translate_x(image, level, negate=False):
    """Moves to the left by 10 pixels a level."""
    return _translated(_checked(image), level, negate, axis=1)


def translate_y(image, level, negate=False):
    """Moves upwards by 10 pixels a level."""
    return _translated(_checked(image), level, negate, axis=0)


def cutout(image, level, negate=False, center=None):
    """Covers a square with gray, of 8 pixels a level on a side.

    Args:
        image: uint8 image `(height, width, 3)`.
        level: The level.
        negate: Has no effect.
        center: Row and column of the square's center in pixels; `None` for
            the image's middle. What lies outside is cut off.
    """
    image = _checked(image)
    size = tf.shape(image)[:2]
    center = size // 2 if center is None else tf.cast(center, tf.int32)
    half = int(_CUTOUT * _fraction(level))
    low = tf.clip_by_value(center - half, 0, size)
    high = tf.clip_by_value(center + half, 0, size)
    gray = tf.fill(tf.shape(image), tf.constant(_FILL, tf.uint8))
    return with_box(image, gray, low, high)


def with_box(image, other, low, high):
    """The image with a box of another.

    Args:
        image: `(height, width, 3)`.
        other: An image of the same shape and type.
        low: Row and column where the box begins.
        high: Row and column before which it ends.

    Returns:
        An image like `image`.
    """
    (top, left), (bottom, right) = tf.unstack(low), tf.unstack(high)
    middle = tf.concat(
        [
            image[top:bottom, :left],
            other[top:bottom, left:right],
            image[top:bottom, right:],
        ],
        axis=1,
    )
    pasted = tf.concat([image[:top], middle, image[bottom:]], axis=0)
    return tf.ensure_shape(pasted, image.shape)


def moved(image, transform, interpolation="NEAREST", fill=_FILL):
    """Takes each pixel (x, y) from `transform` of (x, y).

    Args:
        image: `(height, width, 3)`.
        transform: Six numbers: a, b, c of x = a x' + b y' + c, then of y.
        interpolation: `"NEAREST"` or `"BILINEAR"`.
        fill: Pixels from outside of the image.

    Returns:
        An image like `image`.
    """
    taken = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*transform, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(fill),
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(taken[0], image.shape)


# In the authors' order. Each takes `(image, level, negate=False)`; `negate`
# turns the direction of those that have one.
OPERATIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
}


def _checked(image):
    if not tf.is_tensor(image):
        image = tf.convert_to_tensor(image)
    shape = image.shape
    if image.dtype != tf.uint8 or shape.rank != 3 or shape[-1] != 3:
        raise ValueError(
            "`image` must be a uint8 image of shape (height, width, 3). "
            f"Received: image of dtype {image.dtype.name} and shape {shape}"
        )
    return image


def _fraction(level):
    if not 0 <= level < math.inf:
        raise ValueError(
            f"`level` must be a number, 0 or more. Received: level={level!r}"
        )
    return level / _MAX_LEVEL


def _signed(value, negate):
    return tf.where(negate, -value, value)


def _translated(image, level, negate, axis):
    shift = _TRANSLATION * _fraction(level)
    if shift != int(shift):
        transform = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        transform[2 if axis else 5] = _signed(shift, negate)
        return moved(image, transform)
    # Cut from the image between two gray ones, by whole pixels.
    size = tf.shape(image)[axis]
    shift = tf.minimum(int(shift), size)
    begin = size + _signed(shift, negate)
    if axis:
        rows, begin, size = _rows(image), 3 * begin, 3 * size
    else:
        rows = image
    gray = tf.fill(tf.shape(rows), tf.constant(_FILL, tf.uint8))
    wide = tf.concat([gray, rows, gray], axis)
    end = begin + size
    part = wide[:, begin:end] if axis else wide[begin:end]
    return tf.reshape(part, tf.shape(image))


def _blended(other, image, level):
    """Extrapolates from another image through this one; 1 is this one."""
    image = _checked(image)
    factor = 1.8 * _fraction(level) + 0.1
    if factor == 1:
        return tf.identity(image)
    other = tf.cast(other(image), tf.float32)
    return _truncated(other + factor * (tf.cast(image, tf.float32) - other))


def _truncated(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)


def _rows(image):
    return tf.reshape(image, (tf.shape(image)[0], -1))


def _over_pixels(reduce, image):
    # Over rows first: a reduction to three numbers at once is slow.
    return reduce(tf.reshape(reduce(_rows(image), axis=0), (-1, 3)), axis=0)
