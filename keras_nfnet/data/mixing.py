"""MixUp and CutMix: one image and its label out of two."""

import tensorflow as tf


def mixup(images, labels, alpha, seed):
    """Blends two images.

    Args:
        images: Two of `(height, width, 3)`, floating point.
        labels: `(2, classes)`, floating point.
        alpha: The first image's share is drawn from Beta(α, α).
        seed: Two integers, the whole randomness.

    Returns:
        An image and its label `(classes,)`.

    Reference: arXiv:1710.09412.
    """
    share = tf.cast(_beta(alpha, seed), tf.float32)
    first, second = images
    mixed = share * first + (1 - share) * second
    return mixed, _mixed_label(labels, share)


def cutmix(images, labels, alpha, seed):
    """Pastes a box of the second image into the first.

    The box has the images' aspect; its center is anywhere, and what lies
    outside is cut off. Labels are mixed by the pixels that remain.

    Args:
        images: As for `mixup`.
        labels: As for `mixup`.
        alpha: The first image's share, before the box is cut off, is drawn
            from Beta(α, α).
        seed: Two integers, the whole randomness.

    Returns:
        As `mixup`.

    Reference: arXiv:1905.04899.
    """
    seeds = tf.random.split(seed, 2)
    first, second = images
    sides = tf.constant(first.shape[:2].as_list())
    kept = tf.cast(_beta(alpha, seeds[0]), tf.float32)
    extent = tf.cast(tf.sqrt(1 - kept) * tf.cast(sides, tf.float32), tf.int32)
    center = tf.random.stateless_uniform((2,), seeds[1])
    center = tf.cast(center * tf.cast(sides, tf.float32), tf.int32)
    low = tf.clip_by_value(center - extent // 2, 0, sides)
    high = tf.clip_by_value(center + extent // 2, 0, sides)
    share = 1 - tf.reduce_prod((high - low) / sides)
    mixed = with_box(first, second, low, high)
    return mixed, _mixed_label(labels, tf.cast(share, tf.float32))


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


def _mixed_label(labels, share):
    return share * labels[0] + (1 - share) * labels[1]


def _beta(alpha, seed):
    # In float64: at α = 0.2 a float32 of the Gamma distribution can be 0.
    draws = tf.random.stateless_gamma(
        (2,), seed, alpha=tf.constant(alpha, tf.float64), dtype=tf.float64
    )
    return draws[0] / (draws[0] + draws[1])
