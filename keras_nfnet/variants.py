"""The table of variants. This module imports nothing of the package.

Reference: Brock et al. 2021, arXiv:2102.06171, table 1 and appendix (the
F+ widths).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NFNetConfig:
    """One Normalizer-Free Network as a row of data.

    Only `widths` and `depths` are required; the rest defaults to what all
    NFNets share.

    Args:
        widths: Output channels of each stage.
        depths: Blocks of each stage, as many numbers as `widths` has.
        group_width: Channels of one group in the 3×3 convolutions, 1 or
            more, one number or one per stage. A bottleneck is rounded down
            to a multiple of it, and is one group where it is narrower.
        bottleneck_ratio: Bottleneck channels over output channels, above 0.
        drop_rate: Dropout before the classifier, in [0, 1).
        train_size: Side of the training images in pixels, or `None`.
        test_size: Side of the evaluation images in pixels, or `None`.
        stochastic_depth_rate: Rate of stochastic depth, in [0, 1): block
            `k` of `n`, counted from 0, is dropped with `rate * k / n`.
        activation: Name of the activation, such as one of
            `keras_nfnet.layers.ACTIVATIONS`.
        se_ratio: Hidden channels of squeeze-and-excite over output channels,
            above 0.
        alpha: Scale of each residual branch, above 0.
        use_two_convs: Whether the bottleneck has a second 3×3 convolution.
            `False` is the paper's ablation.
        final_conv_mult: Channels of the last convolution over the last
            stage's, above 0.
        rand_augment: RandAugment `(layers, magnitude)` of the training
            recipe, or `None`.

    Raises:
        ValueError: If a value is out of its range; the message names it.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 2), group_width=16)
    >>> config.strides, config.alpha
    ((1, 2), 0.2)

    Reference: arXiv:2102.06171, table 1.
    """

    widths: tuple
    depths: tuple
    group_width: int | tuple = 128
    bottleneck_ratio: float = 0.5
    drop_rate: float = 0.0
    train_size: int | None = None
    test_size: int | None = None
    stochastic_depth_rate: float = 0.0
    activation: str = "gelu"
    se_ratio: float = 0.5
    alpha: float = 0.2
    use_two_convs: bool = True
    final_conv_mult: float = 2.0
    rand_augment: tuple | None = None

    def __post_init__(self):
        for field in ("widths", "depths"):
            values = getattr(self, field)
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(
                    f"`{field}` must be a tuple with one number per stage. "
                    f"Received: {field}={values!r}"
                )
            object.__setattr__(self, field, _positive(field, tuple(values)))
        if len(self.widths) != len(self.depths):
            raise ValueError(
                "`widths` and `depths` must have one number per stage each. "
                f"Received: widths={self.widths}, depths={self.depths}"
            )
        groups = self.group_width
        if isinstance(groups, list | tuple):
            if len(groups) != len(self.widths):
                raise ValueError(
                    "`group_width` must be one number or one per stage "
                    f"({len(self.widths)}). Received: group_width={groups}"
                )
            groups = _positive("group_width", tuple(groups))
        else:
            (groups,) = _positive("group_width", (groups,))
        object.__setattr__(self, "group_width", groups)
        for field in ("drop_rate", "stochastic_depth_rate"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(
                    f"`{field}` must be a number in [0, 1). "
                    f"Received: {field}={value!r}"
                )
        for field in (
            "bottleneck_ratio",
            "se_ratio",
            "alpha",
            "final_conv_mult",
        ):
            value = getattr(self, field)
            if not _is_number(value) or not value > 0:
                raise ValueError(
                    f"`{field}` must be a number above 0. "
                    f"Received: {field}={value!r}"
                )
        for field in ("train_size", "test_size"):
            if getattr(self, field) is not None:
                _positive(field, (getattr(self, field),))
        if self.rand_augment is not None:
            object.__setattr__(self, "rand_augment", tuple(self.rand_augment))

    @property
    def strides(self):
        """Stride of each stage's first block (the stem has stride 4)."""
        return (1,) + (2,) * (len(self.widths) - 1)

    @property
    def group_widths(self):
        """Group width of each stage."""
        if isinstance(self.group_width, tuple):
            return self.group_width
        return (self.group_width,) * len(self.widths)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(field, values):
    for value in values:
        try:
            whole = int(value) == value and not isinstance(value, bool)
        except (TypeError, ValueError):
            whole = False
        if not whole or value < 1:
            raise ValueError(
                f"`{field}` must hold whole numbers above 0. "
                f"Received: {field}={values!r}"
            )
    return tuple(int(value) for value in values)


# (dropout, train px, test px, RandAugment magnitude) of F0 … F7; the depths
# of FN are (1, 2, 6, 3) times N + 1.  arXiv:2102.06171, table 1.
_ROWS = (
    (0.2, 192, 256, 5),
    (0.3, 224, 320, 10),
    (0.4, 256, 352, 10),
    (0.4, 320, 416, 15),
    (0.5, 384, 512, 15),
    (0.5, 416, 544, 15),
    (0.5, 448, 576, 15),
    (0.5, 480, 608, 15),
)


def _row(n, widths, group_width):
    drop_rate, train_size, test_size, magnitude = _ROWS[n]
    return NFNetConfig(
        widths=widths,
        depths=tuple(depth * (n + 1) for depth in (1, 2, 6, 3)),
        group_width=group_width,
        drop_rate=drop_rate,
        train_size=train_size,
        test_size=test_size,
        stochastic_depth_rate=0.25,
        rand_augment=(4, magnitude),
    )


# NOTE: the paper's F4+ (527M parameters) has a stage-1 bottleneck of 192
# channels in one group; the authors' released code rounds 192 down to 128.
# We build the paper's; `group_width=128` gives the released code's.
VARIANTS = {
    **{f"F{n}": _row(n, (256, 512, 1536, 1536), 128) for n in range(8)},
    **{
        f"F{n}+": _row(n, (384, 768, 2048, 2048), (192, 128, 128, 128))
        for n in range(8)
    },
}
