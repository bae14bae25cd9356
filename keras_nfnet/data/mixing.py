"""MixUp and CutMix of two images and their labels."""

import tensorflow as tf


def mixup(images, labels, alpha, seed):
    """Mixes each of two images with the other.

    Args:
        images: Two of `(height, width, 3)`, floating point.
        labels: `(2, classes)`, floating point.
        alpha: An image's share is drawn from Beta(α, α), for each anew.
        seed: Two whole numbers, the whole randomness.

    Returns:
        A pair of images and labels like those given.

    Reference: arXiv:1710.09412.
    """
    shares = tf.cast(_beta((2,), alpha, seed), tf.float32)
    mixed = tuple(
        share * own + (1 - share) * other
        for own, other, share in zip(
            images, images[::-1], tf.unstack(shares), strict=True
        )
    )
    return mixed, _mixed_labels(labels, shares)


def cutmix(images, labels, alpha, seed):
    """Pastes a box of each of two images into the other.

    A box has the images' aspect; its centre is anywhere, and what lies
    outside is cut off. Labels are mixed by the pixels that remain.

    Args:
        images: As for `mixup`.
        labels: As for `mixup`.
        alpha: The share an image keeps, before the box is cut off, is drawn
            from Beta(α, α), for each anew.
        seed: Two whole numbers, the whole randomness.

    Returns:
        As `mixup`.

    Reference: arXiv:1905.04899.
    """
    seeds = tf.random.split(seed, 2)
    sides = tf.constant(images[0].shape[:2].as_list())
    kept = tf.cast(_beta((2, 1), alpha, seeds[0]), tf.float32)
    extent = tf.cast(tf.sqrt(1 - kept) * tf.cast(sides, tf.float32), tf.int32)
    centre = tf.random.stateless_uniform((2, 2), seeds[1])
    centre = tf.cast(centre * tf.cast(sides, tf.float32), tf.int32)
    low = tf.clip_by_value(centre - extent // 2, 0, sides)  # (2, 2)
    high = tf.clip_by_value(centre + extent // 2, 0, sides)
    area = tf.reduce_prod((high - low) / sides, axis=1)
    mixed = tuple(
        _pasted(own, other, low[index], high[index])
        for index, (own, other) in enumerate(
            zip(images, images[::-1], strict=True)
        )
    )
    return mixed, _mixed_labels(labels, tf.cast(1 - area, tf.float32))


def _pasted(image, other, low, high):
    """The image with the box from `low` to before `high` of the other."""
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


def _mixed_labels(labels, shares):
    shares = shares[:, None]
    return shares * labels + (1 - shares) * labels[::-1]


def _beta(shape, alpha, seed):
    # In float64: at α = 0.2 a float32 of the Gamma distribution can be 0.
    draws = tf.random.stateless_gamma(
        (2, *shape),
        seed,
        alpha=tf.constant(alpha, tf.float64),
        dtype=tf.float64,
    )
    return draws[0] / (draws[0] + draws[1])
