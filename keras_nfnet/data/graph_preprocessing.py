"""The preprocessing inside TensorFlow graphs: `tf.data` and SavedModels.

The twin of `preprocessing.py`; imported only where TensorFlow is needed.
"""

import tensorflow as tf

from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    sides,
)


def decode(encoded):
    """Decodes one encoded picture of any format that TensorFlow reads.

    Args:
        encoded: Scalar string tensor: JPEG, PNG, WebP, GIF or BMP.

    Returns:
        A uint8 tensor `(height, width, 3)`, RGB 0–255; of an animation the
        first frame.
    """
    # Of a WebP, TensorFlow 2.21 refuses the alpha channel if asked for three
    # channels, and crashes on an animation unless asked for four.
    head = tf.io.decode_raw(
        tf.strings.substr(encoded, 0, 32), tf.uint8, fixed_length=32
    )
    is_webp = _equals(head[:4], b"RIFF") & _equals(head[8:12], b"WEBP")
    is_animated = _equals(head[12:16], b"VP8X") & (head[20] & 2 != 0)

    def decoded(channels):
        return tf.io.decode_image(
            encoded, channels=channels, expand_animations=False
        )

    def webp():
        image = tf.cond(is_animated, lambda: decoded(4), lambda: decoded(0))
        return image[:, :, :3]

    image = tf.cond(is_webp, webp, lambda: decoded(3))
    return tf.ensure_shape(image, (None, None, 3))


def resize(image, size):
    """Resizes one picture by bicubic interpolation, not clipped."""
    return tf.ensure_shape(
        tf.image.resize(image, sides(size), method="bicubic"),
        (*sides(size), 3),
    )


def evaluation_view(image, size, margin=EVALUATION_MARGIN):
    """As `preprocessing.evaluation_picture`, in a graph.

    Args:
        image: `(height, width, 3)`, RGB 0–255.
        size: Side of the view in pixels, or `(height, width)`.
        margin: Pixels to resize beyond `size`.

    Returns:
        A float32 tensor `(size, size, 3)`, not normalized, not clipped.
    """
    height, width = sides(size)
    resized = resize(image, (height + margin, width + margin))
    start = margin // 2
    return resized[start : start + height, start : start + width]


def normalize(images):
    """As `preprocessing.preprocess_input` for channels-last float32."""
    return (tf.cast(images, tf.float32) - IMAGENET_MEAN) / IMAGENET_STD


def _equals(head, text):
    return tf.reduce_all(head == tf.constant(list(text), tf.uint8))
