"""Augmentation of written characters, in TensorFlow graphs."""

import math

import tensorflow as tf


def shift_zoom_rotate(
    image, seed, max_shift=0.08, max_zoom=0.1, max_degrees=10.0
):
    """Moves, scales and turns an image at random, for written characters.

    Args:
        image: `(height, width, 3)`, pixels 0–255, floating point.
        seed: Two whole numbers, the whole randomness.
        max_shift: Largest shift over the image's side; 0.08 of 32 pixels is
            2.6.
        max_zoom: Largest enlargement or reduction; 0.1 for 10%.
        max_degrees: Largest turn to either side.

    Returns:
        An image like `image`, bilinearly resampled, black where nothing was.
    """
    # Angle, zoom, shift down, shift right, each in [-1, 1).
    draws = tf.random.stateless_uniform((4,), seed, -1.0, 1.0)
    height, width = image.shape[:2]
    angle = draws[0] * (max_degrees * math.pi / 180)
    zoom = 1.0 + draws[1] * max_zoom
    cos, sin = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    center_y, center_x = (height - 1) / 2, (width - 1) / 2
    shift_y = center_y + draws[2] * max_shift * height
    shift_x = center_x + draws[3] * max_shift * width
    # Maps output pixels to input pixels around the (shifted) centre.
    transform = tf.stack(
        [
            cos,
            -sin,
            center_x - cos * shift_x + sin * shift_y,
            sin,
            cos,
            center_y - sin * shift_x - cos * shift_y,
            0.0,
            0.0,
        ]
    )
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(moved[0], image.shape)
