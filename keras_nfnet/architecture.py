"""What a network is, as one row of values, and all that is counted through it.

Reference: Brock et al., arXiv:2102.06171 and arXiv:2101.08692.
"""

import dataclasses
from dataclasses import dataclass

from keras_nfnet.block_spec import (
    BlockSpec,
    Stem,
    bottleneck_groups,
    positive_integers,
    round_channels,
)
from keras_nfnet.layers.activation import resolve_activation
from keras_nfnet.utils.arguments import (
    boolean,
    check_fields,
    choice,
    count,
    fraction,
    integer,
    not_negative,
    optional,
    positive,
    probability,
    refuse,
    sequence,
)


def _group_width(name, value):
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return positive_integers(name, value)
    return integer(name, value)


def _activation(name, value):
    resolve_activation(value, name)
    return value


def _stem(name, value):
    if not isinstance(value, Stem):
        refuse(name, value, "a `Stem`")
    return value


def _rand_augment(name, value):
    if value is None:
        return None
    expected = "(layers, magnitude), or `None`"
    values = sequence(name, value, expected)
    if len(values) != 2:
        refuse(name, value, expected)
    return count(name, values[0]), not_negative(name, values[1])


# What each field must be that a recipe needs beside the architecture.
RECIPE_CHECKS = {
    "drop_rate": probability,
    "train_size": optional(integer),
    "test_size": optional(integer),
    "rand_augment": _rand_augment,
    "crop_fraction": optional(fraction),
}
# What each field must be.
CHECKS = {
    "widths": positive_integers,
    "depths": positive_integers,
    "group_width": _group_width,
    "bottleneck_ratio": positive,
    "stochastic_depth_rate": probability,
    "activation": _activation,
    "se_ratio": positive,
    "alpha": positive,
    "use_two_convs": boolean,
    "final_conv_mult": optional(positive),
    "final_filters": optional(integer),
    "stem": _stem,
    "eps": positive,
    "channel_multiple": integer,
    "rescale_stochastic_depth": boolean,
    "first_stride": choice(1, 2),
    "bottleneck_of": choice("out", "in"),
    "attention": choice("se", "eca", None),
    "attention_position": choice("last", "middle"),
    "shortcut": choice("pool", "strided"),
    "skip": choice("skip_init", "gain"),
    "gain_in": choice("activation", "kernel"),
    "eps_mode": choice("floor", "add"),
    "padding": choice("same", "symmetric"),
    "head_initializer": choice("normal", "zeros"),
    **RECIPE_CHECKS,
}


@dataclass(frozen=True, kw_only=True)
class NFNetConfig:
    """One Normalizer-Free Network as a row of data.

    Beside the architecture it holds what a recipe needs.

    Only `widths` and `depths` are required; the rest defaults to what all
    NFNets share.

    Args:
        widths: Output channels of each stage.
        depths: Blocks of each stage, as many numbers as `widths` has.
        group_width: Channels of one group in the 3×3 convolutions, 1 or
            more, one number or one per stage; `None` for one group. A
            bottleneck is rounded down to a multiple of it, and is one group
            where it is narrower.
        bottleneck_ratio: Bottleneck channels over the block's output (or
            input) channels, above 0.
        drop_rate: Dropout before the classifier, in [0, 1).
        train_size: Side of the training images in pixels, or `None`.
        test_size: Side of the evaluation images in pixels, or `None`.
        stochastic_depth_rate: Rate of stochastic depth, in [0, 1).
        activation: Name of the activation, such as one of
            `keras_nfnet.layers.ACTIVATIONS`, or a registered function.
        se_ratio: Hidden channels of squeeze-and-excite over its channels,
            above 0.
        alpha: Scale of each residual branch, above 0.
        use_two_convs: Whether the bottleneck has a second 3×3 convolution.
        final_conv_mult: Channels of the last convolution over the last
            stage's, above 0; `None` for no last convolution.
        final_filters: Channels of the last convolution, in place of
            `final_conv_mult`.
        stem: A `Stem`.
        first_stride: Stride of the first stage.
        bottleneck_of: Whether the ratio is of the block's `"out"` or `"in"`
            channels. With `"in"` the first block of the network has the
            ratio 1.
        attention: `"se"`, `"eca"` or `None`.
        attention_position: `"last"` (after the last 1×1 convolution) or
            `"middle"` (before the last activation).
        shortcut: A stage's first shortcut is an average pooling and a 1×1
            convolution (`"pool"`) or a 1×1 convolution of the block's
            stride (`"strided"`).
        skip: `"skip_init"`, a scalar that starts at 0, or `"gain"`: the gain
            of a block's last convolution starts at 0.
        gain_in: The activation's gain multiplies the `"activation"` or
            every standardized `"kernel"`.
        eps: Constant of the standardization, above 0.
        eps_mode: `"floor"` (of variance times fan-in) or `"add"` (to the
            variance, as in batch normalization).
        padding: `"same"`, or `"symmetric"`: `(kernel - 1) // 2` pixels on
            each side.
        channel_multiple: Bottlenecks and the hidden channels of
            squeeze-and-excite are rounded to a multiple of it.
        rescale_stochastic_depth: Whether what survives is divided by the
            probability to survive. The rates then run from 0 to
            `stochastic_depth_rate` over all blocks; else block `k` of `n`,
            counted from 0, has `rate * k / n`.
        head_initializer: The classifier starts `"normal"`, N(0, 0.01²), or
            at `"zeros"`.
        rand_augment: RandAugment `(layers, magnitude)` of the training recipe,
            or `None`.
        crop_fraction: The centre that evaluation crops, over the image with its
            shorter side resized, in (0, 1]; `None` for DeepMind's evaluation, a
            resize to 32 pixels more on each side.

    Raises:
        ValueError: If a value is out of its range; the message names it.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 2), group_width=16)
    >>> config.strides, config.alpha
    ((1, 2), 0.2)

    Reference: arXiv:2102.06171, table 1; arXiv:2101.08692, section 5.
    """

    widths: tuple = dataclasses.field(kw_only=False)
    depths: tuple = dataclasses.field(kw_only=False)
    group_width: int | tuple | None = dataclasses.field(
        default=128, kw_only=False
    )
    bottleneck_ratio: float = dataclasses.field(default=0.5, kw_only=False)
    stochastic_depth_rate: float = 0.0
    activation: str = "gelu"
    se_ratio: float = 0.5
    alpha: float = 0.2
    use_two_convs: bool = True
    final_conv_mult: float | None = 2.0
    final_filters: int | None = None
    stem: Stem = dataclasses.field(default=Stem())
    first_stride: int = 1
    bottleneck_of: str = "out"
    attention: str | None = "se"
    attention_position: str = "last"
    shortcut: str = "pool"
    skip: str = "skip_init"
    gain_in: str = "activation"
    eps: float = 1e-4
    eps_mode: str = "floor"
    padding: str = "same"
    channel_multiple: int = 1
    rescale_stochastic_depth: bool = False
    head_initializer: str = "normal"
    # What a recipe needs beside the architecture.
    drop_rate: float = dataclasses.field(default=0.0, kw_only=False)
    train_size: int | None = dataclasses.field(default=None, kw_only=False)
    test_size: int | None = dataclasses.field(default=None, kw_only=False)
    rand_augment: tuple | None = None
    crop_fraction: float | None = None

    def __post_init__(self):
        if isinstance(self.stem, dict):
            object.__setattr__(self, "stem", Stem(**self.stem))
        check_fields(self, CHECKS)
        if len(self.widths) != len(self.depths):
            raise ValueError(
                "`widths` and `depths` must have one number per stage each. "
                f"Received: widths={self.widths}, depths={self.depths}"
            )
        groups = self.group_width
        if isinstance(groups, tuple) and len(groups) != len(self.widths):
            raise ValueError(
                "`group_width` must be one number or one per stage "
                f"({len(self.widths)}). Received: group_width={groups}"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's first block."""
        return (self.first_stride,) + (2,) * (len(self.widths) - 1)

    @property
    def group_widths(self) -> tuple[int | None, ...]:
        """Group width of each stage, `None` for one group."""
        if isinstance(self.group_width, tuple):
            return self.group_width
        return (self.group_width,) * len(self.widths)

    @property
    def final_channels(self) -> int | None:
        """Channels of the last convolution, or `None` if there is none."""
        if self.final_filters is not None:
            return self.final_filters
        if self.final_conv_mult is None:
            return None
        # 1e-6: a ratio such as 1280 / 440 is rounded to a float.
        return int(self.final_conv_mult * self.widths[-1] + 1e-6)

    def blocks(self, output_stride: int = 32) -> list[BlockSpec]:
        """The blocks in order: the one place that counts through a network.

        Args:
            output_stride: Stride at which later stages are dilated instead
                of strided.

        Returns:
            A list of `BlockSpec`.
        """
        specs = []
        total = sum(self.depths)
        stem = self.stem.resolved(self.widths[0])
        channels, net_stride, dilation = stem.filters[-1], stem.stride, 1
        variance = 1.0
        for stage, (filters, depth, stride, group_width) in enumerate(
            zip(
                self.widths,
                self.depths,
                self.strides,
                self.group_widths,
                strict=True,
            ),
            start=1,
        ):
            before = dilation
            if stride > 1 and net_stride >= output_stride:
                dilation, stride = dilation * stride, 1
            net_stride *= stride
            for index in range(depth):
                bottleneck, groups = self._bottleneck(
                    channels, filters, group_width, is_first=not specs
                )
                specs.append(
                    BlockSpec(
                        name=f"stage{stage}_block{index}",
                        stage=stage,
                        is_first=index == 0,
                        filters=filters,
                        bottleneck=bottleneck,
                        groups=groups,
                        strides=stride if index == 0 else 1,
                        first_dilation=before if index == 0 else dilation,
                        dilation=dilation,
                        # A stage's first block sees the grown variance of
                        # the stage before; 1 for the first stage.
                        expected_variance=variance,
                        stochastic_depth_rate=self._drop_rate(
                            len(specs), total
                        ),
                    )
                )
                if index == 0:
                    variance = 1.0
                variance += self.alpha**2
                channels = filters
        return specs

    def _bottleneck(self, channels, filters, group_width, is_first):
        """`(channels, groups)` of a block's 3×3 convolutions."""
        if self.bottleneck_of == "out":
            inner = filters * self.bottleneck_ratio
        else:
            inner = channels * (1 if is_first else self.bottleneck_ratio)
        if self.channel_multiple > 1:
            inner = round_channels(inner, self.channel_multiple)
        return bottleneck_groups(inner, group_width)

    def _drop_rate(self, index, total):
        if self.rescale_stochastic_depth:
            return self.stochastic_depth_rate * index / max(1, total - 1)
        return self.stochastic_depth_rate * index / total

    def scaled(self, width: float) -> "NFNetConfig":
        """The configuration with all widths multiplied by a number.

        An NFNet's stem keeps its channels, as in the authors' code.
        """
        if width == 1:
            return self
        stem = self.stem
        if stem.filters[-1] != 1.0:
            stem = stem.resolved(self.widths[0])
        final = self.final_filters
        return dataclasses.replace(
            self,
            widths=tuple(max(1, int(w * width)) for w in self.widths),
            stem=stem,
            final_filters=final and max(1, int(final * width)),
        )
