"""What is done to training images at random: plain settings, no TensorFlow.

`training_image.py` and `randaugment.py` do it.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

from keras_nfnet.utils.arguments import (
    boolean,
    check_fields,
    count,
    not_negative,
    number,
    positive,
    refuse,
    sequence,
)

# In tenths of each operation's range; the paper's are 5, 10 and 15.
MAX_MAGNITUDE = 30


def _magnitude(name, value):
    limits = f"from 0 to {MAX_MAGNITUDE}"
    return number(name, value, lambda v: 0 <= v <= MAX_MAGNITUDE, limits)


def _range(name, value, largest):
    limits = "" if largest == math.inf else f" and up to {largest:g}"
    expected = f"two numbers, the smaller first, above 0{limits}"
    try:
        low, high = (positive(name, v) for v in sequence(name, value))
        if not low <= high <= largest:
            raise ValueError
    except ValueError:
        refuse(name, value, expected)
    # A list, as TOML gives it, has no hash.
    return low, high


# What each field must be.
_CHECKS = {
    "randaugment_magnitude": _magnitude,
    "randaugment_layers": count,
    "mixup": not_negative,
    "cutmix": not_negative,
    "flip": boolean,
    "crop_area": functools.partial(_range, largest=1.0),
    "crop_aspect": functools.partial(_range, largest=math.inf),
}


@dataclass(frozen=True)
class Augmentation:
    """The paper's augmentation of ImageNet, each part of which can be off.

    In this order: random crop, flip, bicubic resize; MixUp on one half of
    the batch and CutMix on the other (on all of it if only one of them is
    on), labels alike; RandAugment on the mixed image.

    Args:
        randaugment_magnitude: The variant's, 0 to 30 in tenths of each
            operation's range: 5 for F0, 10 for F1 and F2, 15 for F3 to F7.
        randaugment_layers: Operations one after another on each image; 0
            for no RandAugment.
        mixup: α of the Beta distribution of an image's fraction of its
            mixture; 0 for no MixUp.
        cutmix: α of the distribution of the fraction that CutMix keeps; 0
            for no CutMix. With 1 the fraction is uniform.
        flip: Whether half of the images are flipped left to right.
        crop_area: Smallest and largest area of the crop over the image's.
        crop_aspect: Smallest and largest width over height of the crop, in
            pixels of the image. `crop_area=(1, 1)` takes every image
            whole, whatever the aspect.

    Raises:
        ValueError: If a value is out of its range; the message names it.

    Example:

    >>> f1 = keras_nfnet.data.Augmentation(randaugment_magnitude=10)
    >>> flips_and_crops = f1.replace(mixup=0, cutmix=0, randaugment_layers=0)
    >>> f1.mixes, flips_and_crops.mixes
    (True, False)

    Reference: arXiv:2102.06171, section 5 and appendix A.
    """

    randaugment_magnitude: float = 5.0
    randaugment_layers: int = 4
    mixup: float = 0.2
    cutmix: float = 1.0
    flip: bool = True
    crop_area: tuple = (0.08, 1.0)
    crop_aspect: tuple = (3 / 4, 4 / 3)

    def __post_init__(self):
        check_fields(self, _CHECKS)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return bool(self.mixup or self.cutmix)

    def replace(self, **changes: Any) -> "Augmentation":
        """A copy with other values."""
        return dataclasses.replace(self, **changes)


# Names that a recipe may give.
AUGMENTATIONS = ("digits",)


def check(augment, argument="augment"):
    """Refuses what is no augmentation, without loading TensorFlow.

    Args:
        augment: An `Augmentation`, a name in `AUGMENTATIONS`, a function
            `(image, seed) -> image`, or `None`.
        argument: Name of the caller's argument, for errors.

    Raises:
        ValueError: If it is none of these.
    """
    if augment is None or isinstance(augment, Augmentation):
        return
    if callable(augment):
        return
    if not isinstance(augment, str) or augment not in AUGMENTATIONS:
        refuse(
            argument,
            augment,
            "`None`, an `Augmentation`, a function of an image and a seed, "
            f"or one of {', '.join(AUGMENTATIONS)}",
        )


def get(augment):
    """What an augmentation's name stands for; all else passes through.

    Args:
        augment: An `Augmentation`, a name in `AUGMENTATIONS`, a function
            `(image, seed) -> image`, or `None`.

    Returns:
        An `Augmentation`, a function or `None`.

    Raises:
        ValueError: If it is none of these.
    """
    check(augment)
    if augment == "digits":
        from keras_nfnet.data.training_image import shift_zoom_rotate

        return shift_zoom_rotate
    return augment
