"""The pictures that int8 takes its ranges from."""

import os
import warnings

import numpy as np

from keras_nfnet.data.preprocessing import (
    decode_picture,
    evaluation_picture,
)
from keras_nfnet.export.comparison import photographs

# Of a folder this many pictures are read, evenly over the sorted names.
_MOST = 128
# Views of each sample photograph when no pictures are given.
_VIEWS = 6


def calibration_pixels(calibration, size, margin, contract):
    """Float32 pixels 0–255 that stand for what will be classified.

    Args:
        calibration: An array `(pictures, height, width, channels)` of 0–255,
            the path of a folder of pictures (searched deeply, at most 128
            of them are taken), or `None` for 12 views of the two
            photographs that come with scikit-learn.
        size: `(height, width)` that pictures are brought to by the paper's
            evaluation preprocessing. An array is taken as it is.
        margin: Pixels to resize those of a folder beyond `size` before the
            centre crop.
        contract: The model's `Contract`.

    Returns:
        A float32 array `(pictures, height, width, channels)`.

    Raises:
        ValueError: If `calibration` is none of these or holds no picture.
    """
    if calibration is None:
        warnings.warn(
            "`calibration` is not given: the ranges of int8 come from views "
            "of two photographs. Pictures like those to be classified, 100 "
            "or so, give better ones.",
            stacklevel=3,
        )
        return contract.pixels(_sample_views(size))
    if isinstance(calibration, str | os.PathLike):
        return contract.pixels(_folder(calibration, size, margin))
    pixels = np.asarray(calibration)
    if (
        pixels.ndim != 4
        or not len(pixels)
        or pixels.shape[-1] != contract.channels
        or pixels.dtype.kind not in "uif"
    ):
        raise ValueError(
            "`calibration` must be pixels (pictures, height, width, "
            f"{contract.channels}) or a folder of pictures. Received: an array "
            "of shape "
            f"{pixels.shape} and dtype {pixels.dtype}"
        )
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() < 2:
        raise ValueError(
            "`calibration` must be pixels of 0–255, not normalized. "
            f"Received: values from {pixels.min()} to {pixels.max()}"
        )
    return pixels.astype("float32")


def _folder(folder, size, margin):
    if not os.path.isdir(folder):
        raise ValueError(
            "`calibration` must be a folder of pictures that exists. "
            f"Received: calibration={str(folder)!r}"
        )
    files = sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    if not files:
        raise ValueError(
            "`calibration` must hold pictures. Received: "
            f"calibration={str(folder)!r}, which is empty"
        )
    step = max(1, len(files) // _MOST)
    return np.stack(
        [
            evaluation_picture(decode_picture(file), size, margin)
            for file in files[::step][:_MOST]
        ]
    )


def _sample_views(size):
    """Crops of a random place and area, half of them mirrored."""
    rng = np.random.default_rng(0)
    views = []
    for photograph in photographs():
        height, width, _ = photograph.shape
        for index in range(_VIEWS):
            share = rng.uniform(0.3, 1.0)
            high, wide = int(height * share), int(width * share)
            top = rng.integers(height - high + 1)
            left = rng.integers(width - wide + 1)
            crop = photograph[top : top + high, left : left + wide]
            views.append(
                evaluation_picture(crop[:, :: -1 if index % 2 else 1], size)
            )
    return np.stack(views).astype("float32")
