"""A network's stem and blocks as numbers."""

import dataclasses
import functools
import math
from dataclasses import dataclass

from keras_nfnet.utils.arguments import (
    boolean,
    check_fields,
    integer,
    integers,
    positive,
    sequence,
)

positive_integers = functools.partial(integers, count=None)


def _numbers(name, value):
    return tuple(positive(name, each) for each in sequence(name, value))


@dataclass(frozen=True)
class Stem:
    """The convolutions in front of the first stage.

    Args:
        filters: Output channels of each convolution: an integer, or a float
            for that fraction of the first stage's width.
        strides: Stride of each convolution.
        kernel_size: Side of all kernels.
        max_pool: Whether a 3×3 max pooling of stride 2 follows.
    """

    filters: tuple = (16, 32, 64, 0.5)
    strides: tuple = (2, 1, 1, 2)
    kernel_size: int = 3
    max_pool: bool = False

    def __post_init__(self):
        check_fields(
            self,
            {
                "filters": _numbers,
                "strides": positive_integers,
                "kernel_size": integer,
                "max_pool": boolean,
            },
        )
        if len(self.filters) != len(self.strides):
            raise ValueError(
                "`filters` and `strides` of a `Stem` must have one number "
                f"per convolution each. Received: filters={self.filters}, "
                f"strides={self.strides}"
            )

    def resolved(self, width):
        """The stem with integers only, for a first stage of a width."""
        filters = tuple(
            max(1, int(value * width)) if isinstance(value, float) else value
            for value in self.filters
        )
        return dataclasses.replace(self, filters=filters)

    @property
    def stride(self):
        """Stride of the whole stem."""
        return math.prod(self.strides) * (2 if self.max_pool else 1)


@dataclass(frozen=True)
class BlockSpec:
    """One residual block of a network, as numbers.

    Attributes:
        name: `"stage1_block0"`.
        stage: Index of its stage, from 1.
        is_first: Whether it is the first block of its stage.
        filters: Output channels.
        bottleneck: Channels of the 3×3 convolutions.
        groups: Groups of the 3×3 convolutions.
        strides: 1 or 2.
        first_dilation: Dilation of the first 3×3 convolution.
        dilation: Dilation of the second one.
        expected_variance: Variance expected of the input.
        stochastic_depth_rate: Probability to drop the branch.
    """

    name: str
    stage: int
    is_first: bool
    filters: int
    bottleneck: int
    groups: int
    strides: int
    first_dilation: int
    dilation: int
    expected_variance: float
    stochastic_depth_rate: float


def bottleneck_groups(channels, group_width):
    """Returns `(channels, groups)` of a block's 3×3 convolutions.

    The channels are rounded down to a multiple of the group width, as in
    the authors' code.

    NOTE: a bottleneck narrower than one group is one group of its own
    width; the authors' code fails there.

    Args:
        channels: A number above 0.
        group_width: Positive integer, or `None` for one group.
    """
    channels = max(1, int(channels))
    groups = channels // group_width if group_width else 0
    return (groups * group_width, groups) if groups else (channels, 1)


def round_channels(channels, multiple, may_lose=0.1):
    """Channels rounded to a multiple, as timm's `make_divisible`.

    Args:
        channels: A number above 0.
        multiple: Positive integer.
        may_lose: Largest fraction that rounding down may take off; more is
            rounded up. `None` for any.
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    if may_lose is not None and rounded < (1 - may_lose) * channels:
        rounded += multiple
    return rounded
