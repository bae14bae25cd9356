"""From pixels to what the network takes, on any Keras backend.

`evaluation_picture` → `preprocess_input` is the paper's evaluation.
`graph_preprocessing.py` is the same inside TensorFlow graphs.
"""

import math
import sys

import keras
import numpy as np
from keras import ops

from keras_nfnet.utils.arguments import (
    array,
    count,
    fraction,
    integers,
    one_of,
    refuse,
)
from keras_nfnet.utils.moved import moved_names
from keras_nfnet.utils.types import Margin, Size, Tensor

# Mean and standard deviation of the RGB channels over ImageNet, for pixels
# of 0–255: arXiv:2102.06171, the authors' dataset.py.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def channel_statistics(channels):
    """Mean and standard deviation of images with any number of channels.

    Args:
        channels: Positive integer. 3 is RGB; 1 has the averages over RGB;
            others have those of RGB repeated and cut, as the first kernel
            of published values has.

    Returns:
        Two tuples of as many floats, for pixels of 0–255.
    """
    if channels == 1:
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    times = -(-channels // 3)
    return tuple(
        (values * times)[:channels] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )


# The evaluation resizes to this many pixels more than it crops, whatever
# the size (the authors' "resize_crop_32").
EVALUATION_MARGIN = 32


def preprocess_input(x: Tensor, data_format: str | None = None) -> Tensor:
    """Normalizes images by ImageNet's mean and standard deviation.

    One channel is normalized by the averages over RGB.

    Args:
        x: Images with pixels 0–255, `(height, width, channels)` or
            `(batch, height, width, channels)`, with 3 channels (RGB) or
            1: a NumPy array, a tensor or a Keras
            tensor, of any real type. On every backend it can also be a
            tensor of TensorFlow, as in `tf.data`. It is not changed in place.
        data_format: `"channels_last"` or `"channels_first"`; `None` for
            Keras's default.

    Returns:
        The normalized images, of the same kind and shape as `x`; integers
        become Keras's default float type, floats keep theirs.

    Raises:
        ValueError: If `x` has another rank or other channels, or
            `data_format` is another.

    Example:

    >>> grey = np.full((1, 256, 256, 3), 128, "uint8")
    >>> print(np.round(keras_nfnet.preprocess_input(grey)[0, 0, 0], 2))
    [0.07 0.21 0.43]

    Reference: arXiv:2102.06171; the authors' dataset.py.
    """
    one_of(
        "data_format", data_format, (None, "channels_last", "channels_first")
    )
    data_format = data_format or keras.config.image_data_format()
    if isinstance(x, list | tuple) or np.isscalar(x):
        x = np.asarray(x)
    if not hasattr(x, "shape"):
        refuse("x", x, "images, an array or tensor")
    tensorflow = sys.modules.get("tensorflow")
    is_tensorflow = tensorflow is not None and tensorflow.is_tensor(x)
    is_unknown = is_tensorflow and x.shape.rank is None
    shape = () if is_unknown else tuple(x.shape)
    last = data_format == "channels_last"
    axis = -1 if last else -3
    if len(shape) not in (3, 4) or shape[axis] not in (1, 3):
        where = "height, width, 3" if last else "3, height, width"
        raise ValueError(
            f"`x` must be RGB images of shape ({where}) or (batch, {where}), "
            "or have one channel in place of three. "
            f"Received: x of shape {'unknown' if is_unknown else shape}"
        )
    # Subtract and multiply by the reciprocal in float32 or wider; half
    # types are too coarse between the two operations.
    dtype = keras.backend.standardize_dtype(x.dtype)
    result_dtype = dtype if "float" in dtype else keras.config.floatx()
    inner = "float64" if dtype == "float64" else "float32"
    mean, std = (
        np.array(values, inner) for values in channel_statistics(shape[axis])
    )
    if not last:
        mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    if isinstance(x, np.ndarray):
        return ((x.astype(inner) - mean) / std).astype(result_dtype)
    # The other backends' operations take no tensor of a TensorFlow graph.
    cast = tensorflow.cast if is_tensorflow else ops.cast
    return cast((cast(x, inner) - mean) / std, result_dtype)


def evaluation_picture(
    image: Tensor, size: Size, margin: Margin = EVALUATION_MARGIN
) -> np.ndarray:
    """The paper's evaluation crop of one image.

    The whole image is resized, its aspect ratio given up, to `margin`
    pixels more than `size`, by bicubic interpolation without antialiasing;
    then the centre is cropped.

    NOTE: as with the authors, bicubic overshoots are not clipped, so values
    can leave 0–255.

    With a crop fraction it is the crop of timm's networks: the shorter side
    is resized to `size / fraction` with antialiasing, clipped and rounded as
    Pillow does, then the centre is cropped.

    Args:
        image: `(height, width, 3)`, RGB 0–255.
        size: Side of the crop in pixels, or `(height, width)`.
        margin: Pixels to resize beyond `size`, an integer, 0 or more; or a
            crop fraction, a float in (0, 1].

    Returns:
        A float32 NumPy array `(size, size, 3)`, not normalized.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> image = np.zeros((300, 400, 3), "uint8")
    >>> keras_nfnet.data.evaluation_picture(image, size=256).shape
    (256, 256, 3)

    Reference: arXiv:2102.06171; the authors' dataset.py, "resize_crop_32".
    """
    height, width = sides(size)
    margin = check_margin(margin)
    image = ops.cast(array("image", image), "float32")
    if len(image.shape) != 3 or image.shape[-1] != 3:
        raise ValueError(
            "`image` must be one RGB image of shape (height, width, 3). "
            f"Received: image of shape {tuple(image.shape)}"
        )
    is_fraction = isinstance(margin, float)
    if is_fraction:
        resized = _resized_sides(image.shape[:2], (height, width), margin)
        top, left = (
            round((a - b) / 2)
            for a, b in zip(resized, (height, width), strict=True)
        )
    else:
        resized = (height + margin, width + margin)
        top = left = margin // 2
    image = ops.image.resize(
        image,
        resized,
        interpolation="bicubic",
        antialias=is_fraction,
        data_format="channels_last",
    )
    image = ops.convert_to_numpy(image)
    if is_fraction:
        image = np.round(np.clip(image, 0, 255))
    return image[top : top + height, left : left + width]


def check_margin(margin):
    """Returns pixels or a crop fraction, or refuses the margin.

    Raises:
        ValueError: If `margin` is no integer, 0 or more, and no float in
            (0, 1].
    """
    try:
        if isinstance(margin, float | np.floating):
            return float(fraction("margin", margin))
        return count("margin", margin)
    except ValueError:
        refuse(
            "margin",
            margin,
            "an integer of pixels, 0 or more, or a crop fraction, a float in "
            "(0, 1]",
        )


def _resized_sides(sides, size, fraction):
    """Sides of the smallest image of the same shape that covers a crop."""
    least = [math.floor(side / fraction) for side in size]
    scale = max(a / b for a, b in zip(least, sides, strict=True))
    return tuple(
        max(a, int(b * scale)) for a, b in zip(least, sides, strict=True)
    )


def to_channels(images, channels):
    """RGB images as images of 1 or 3 channels.

    Args:
        images: NumPy array or tensor `(..., 3)` of floats, RGB.
        channels: 3, or 1 for the luma of ITU-R BT.601, as Pillow's and
            TensorFlow's gray.

    Raises:
        ValueError: If `channels` is another number.
    """
    if channels == 3:
        return images
    if channels != 1:
        raise ValueError(
            "`model` must take images of 1 or 3 channels to be given "
            f"images. Received: a model of {channels} channels"
        )
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def sides(size):
    """`(height, width)` of a size in pixels, one number or two."""
    return integers("size", size)


__getattr__ = moved_names(__name__)
