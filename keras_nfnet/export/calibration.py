"""The images that int8 takes its ranges from."""

import os
import warnings

import numpy as np

from keras_nfnet.data.decoding import decode_picture
from keras_nfnet.data.preprocessing import evaluation_picture
from keras_nfnet.export.comparison import photographs
from keras_nfnet.utils.arguments import refuse

# Of a folder this many images are read, evenly over the sorted names.
_MOST = 128
# Normalized images stay below this, pixels do not.
_LEAST = 8
# Views of each sample photograph when no images are given.
_VIEWS = 6


def calibration_pixels(calibration, size, margin, contract):
    """Float32 pixels 0–255 that stand for what will be classified.

    Args:
        calibration: An array `(images, height, width, channels)` of 0–255,
            a data set or generator of such images (of a pair the first),
            the path of a folder of images (searched deeply, at most 128
            of them are taken), or `None` for 12 crops of the two
            photographs that come with scikit-learn.
        size: `(height, width)` that images are brought to by the paper's
            evaluation preprocessing. An array is taken as it is.
        margin: Pixels to resize those of a folder beyond `size` before the
            centre crop.
        contract: The model's `Contract`.

    Returns:
        A float32 array `(images, height, width, channels)`.

    Raises:
        ValueError: If `calibration` is none of these or holds no image.
    """
    if calibration is None:
        warnings.warn(
            "`calibration` is not given: the ranges of int8 come from crops "
            "of two photographs. Images like those to be classified, 100 "
            "or so, give better ones.",
            stacklevel=4,
        )
        return contract.pixels(_sample_views(size))
    if isinstance(calibration, str | os.PathLike):
        return contract.pixels(_folder(calibration, size, margin))
    pixels = _collected(calibration)
    if (
        pixels.ndim != 4
        or not len(pixels)
        or pixels.shape[-1] != contract.channels
        or pixels.dtype.kind not in "uif"
    ):
        raise ValueError(
            "`calibration` must be pixels (images, height, width, "
            f"{contract.channels}), a data set of them, or a folder of "
            f"images. Received: an array of shape {pixels.shape} and dtype "
            f"{pixels.dtype}"
        )
    # Bicubic interpolation can overshoot 0–255.
    if not np.isfinite(pixels).all() or np.abs(pixels).max() < _LEAST:
        raise ValueError(
            "`calibration` must be pixels of 0–255, not normalized. "
            f"Received: values from {pixels.min()} to {pixels.max()}"
        )
    if any(
        mine not in (None, side)
        for mine, side in zip(contract.sides, pixels.shape[1:3], strict=True)
    ):
        raise ValueError(
            "`calibration` must have the height and width of the model, "
            f"{contract.sides}. Received: {pixels.shape[1:3]}"
        )
    return pixels.astype("float32")


def _collected(calibration):
    """An array, or one of what a data set or a generator gives."""
    if hasattr(calibration, "shape") or isinstance(calibration, list | tuple):
        return np.asarray(calibration)
    try:
        batches = iter(calibration)
    except TypeError as error:
        expected = "pixels, a data set or a folder"
        refuse("calibration", calibration, expected, error)
    images = []
    for batch in batches:
        # Of `(images, labels)` the images.
        if isinstance(batch, tuple | list):
            batch = batch[0]
        batch = np.asarray(batch)
        images.extend(batch if batch.ndim == 4 else [batch])
        if len(images) >= _MOST:
            break
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            "`calibration` must give images of one size. Received: "
            f"{shapes[:5]}"
        )
    return np.asarray(images[:_MOST])


def _folder(folder, size, margin):
    if not os.path.isdir(folder):
        refuse("calibration", str(folder), "a folder of images that exists")
    files = sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    if not files:
        expected = "a folder of images, which must not be empty"
        refuse("calibration", str(folder), expected)
    step = max(1, len(files) // _MOST)
    images, first = [], None
    for file in files[::step][:_MOST]:
        try:
            image = decode_picture(file)
        except ValueError as error:
            first = first or error
            continue
        images.append(evaluation_picture(image, size, margin))
    if not images:
        raise first
    if first is not None:
        warnings.warn(
            f"Of `calibration`, files that are no images are left out: {first}",
            stacklevel=5,
        )
    return np.stack(images)


def _sample_views(size):
    """Random crops of the sample photographs, half of them mirrored."""
    rng = np.random.default_rng(0)
    views = []
    for photograph in photographs():
        height, width, _ = photograph.shape
        for index in range(_VIEWS):
            fraction = rng.uniform(0.3, 1.0)
            high, wide = int(height * fraction), int(width * fraction)
            top = rng.integers(height - high + 1)
            left = rng.integers(width - wide + 1)
            crop = photograph[top : top + high, left : left + wide]
            views.append(
                evaluation_picture(crop[:, :: -1 if index % 2 else 1], size)
            )
    return np.stack(views).astype("float32")
