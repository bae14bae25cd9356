"""From encoded training images to what the paper trains on."""

import numpy as np
import tensorflow as tf

from keras_nfnet.data import graph_preprocessing as graph
from keras_nfnet.data import mixing, randaugment
from keras_nfnet.data.graph_preprocessing import decode_crop
from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    sides,
)


def random_crop(encoded, size, augmentation, seed):
    """Decodes a random crop of an image, flips and resizes it.

    Args:
        encoded: Scalar string tensor: any format of `graph.decode`.
        size: Side of the result in pixels, or `(height, width)`.
        augmentation: An `Augmentation`, for its crop and flip.
        seed: Two integers, the whole randomness.

    Returns:
        A float32 tensor `(size, size, 3)`, RGB around 0–255: bicubic
        overshoots are not clipped.
    """
    seed = tf.random.split(seed, 2)
    image = decode_crop(
        encoded, lambda shape: _window(shape, size, augmentation, seed[0])
    )
    if augmentation.flip:
        flips = tf.random.stateless_uniform((), seed[1]) < 0.5
        image = tf.cond(flips, lambda: tf.reverse(image, [1]), lambda: image)
    return graph.resize(image, size)


def mixed_and_augmented(images, labels, augment, is_first_half, seed):
    """Mixes two images into one and applies RandAugment to it.

    Args:
        images: One image, or two where they are mixed, each
            `(height, width, 3)`, RGB around 0–255.
        labels: `(len(images), classes)`.
        augment: An `Augmentation`.
        is_first_half: Whether the image is in the half of the batch that
            MixUp is for, where there is CutMix too.
        seed: Two integers, the whole randomness.

    Returns:
        An image `(height, width, 3)` and its label `(classes,)`.
    """
    seeds = tf.random.split(seed, 2)

    def mix(how, alpha):
        return lambda: how(images, labels, alpha, seeds[0])

    kinds = [
        mix(how, alpha)
        for how, alpha in (
            (mixing.mixup, augment.mixup),
            (mixing.cutmix, augment.cutmix),
        )
        if alpha
    ]
    if len(kinds) == 2:
        image, label = tf.cond(is_first_half, *kinds)
    else:
        image, label = kinds[0]() if kinds else (images[0], labels[0])
    if augment.randaugment_layers:
        image = randaugment.randaugment(
            # As with the authors, overshoots and fractions go here.
            tf.cast(tf.clip_by_value(image, 0.0, 255.0), tf.uint8),
            augment.randaugment_layers,
            augment.randaugment_magnitude,
            seeds[1],
        )
    return image, label


def normalized(image):
    """As `graph.normalize` for one image of a known size."""
    height, width, _ = image.shape
    # By rows of all channels: broadcasting along three is slow.
    mean, std = (
        np.tile(np.float32(values), width)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    rows = tf.cast(tf.reshape(image, (height, -1)), tf.float32)
    return tf.reshape((rows - mean) / std, image.shape)


def _window(shape, size, augmentation, seed):
    """The crop's top, left, height and width in pixels."""
    whole = tf.stack([0, 0, shape[0], shape[1]])
    if augmentation.crop_area[0] == 1:
        return whole
    # NOTE: the authors ask for 10% of the image besides, which makes the
    # paper's 8% the same as 10%.
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((0, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=augmentation.crop_aspect,
        area_range=augmentation.crop_area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    # After ten misses the whole comes back: then the authors take the
    # centre, of the aspect of the result.
    return tf.cond(
        tf.reduce_all(window == whole),
        lambda: _centre(shape, sides(size)),
        lambda: window,
    )


def _centre(shape, size):
    height, width = size
    scale = tf.minimum(
        tf.cast(shape[0], tf.float32) / (height + EVALUATION_MARGIN),
        tf.cast(shape[1], tf.float32) / (width + EVALUATION_MARGIN),
    )
    extent = tf.cast(scale * tf.constant([height, width], tf.float32), tf.int32)
    extent = tf.maximum(extent, 1)
    return tf.concat([(shape[:2] - extent + 1) // 2, extent], 0)
