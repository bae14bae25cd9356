"""The preprocessing inside TensorFlow graphs: `tf.data` and SavedModels.

The twin of `preprocessing.py`; imported only where TensorFlow is needed.
"""

import math

import tensorflow as tf

from keras_nfnet.data.graph_decoding import decode
from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    channel_statistics,
    sides,
)
from keras_nfnet.utils.types import Margin, Size, Tensor

__all__ = ["decode", "evaluation_view", "normalize", "resize"]


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
        size: Side of the view in pixels, or `(height, width)`.
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
