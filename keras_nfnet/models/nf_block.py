"""The residual block of the NFNets."""

import keras
from keras import ops

from keras_nfnet.layers import (
    ScaledActivation,
    ScaledWSConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
)
from keras_nfnet.layers.activation import serialize_activation
from keras_nfnet.layers.convolution import whole


def bottleneck_groups(filters, bottleneck_ratio, group_width):
    """Returns `(channels, groups)` of a block's 3×3 convolutions.

    The channels are rounded down to a multiple of the group width, as in
    the authors' code.

    NOTE: a bottleneck narrower than one group is one group of its own
    width; the authors' code fails there.
    """
    channels = max(1, int(filters * bottleneck_ratio))
    groups = channels // group_width
    if groups == 0:
        return channels, 1
    return groups * group_width, groups


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFBlock(keras.layers.Layer):
    """A normalizer-free residual bottleneck, one node of the graph.

    `out = act(x) * beta`; the shortcut is `x`, or a 1×1 convolution of
    `out` (average-pooled where the block has stride 2); the branch is 1×1,
    3×3 grouped (carries the stride), 3×3 grouped, 1×1 with activations
    between, squeeze-and-excite, stochastic depth, SkipInit times `alpha`.

    Args:
        filters: Output channels.
        strides: 1 or 2.
        beta: 1 / standard deviation expected of the input.
        alpha: Scale of the residual branch, above 0.
        bottleneck_ratio: Bottleneck channels over `filters`, above 0.
        group_width: Channels of one group in the 3×3 convolutions, 1 or
            more.
        se_ratio: Hidden channels of squeeze-and-excite over `filters`,
            above 0.
        stochastic_depth_rate: Probability to drop the branch, per sample
            and in training, in [0, 1).
        use_two_convs: Whether there is a second 3×3 convolution.
        activation: Name or function, see `ScaledActivation`.
        seed: Integer seed of stochastic depth, or `None`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Example:

    >>> from keras_nfnet.models.nf_block import NFBlock
    >>> x = keras.random.normal((1, 8, 8, 32))
    >>> keras.ops.shape(NFBlock(64, strides=2, group_width=16)(x))
    (1, 4, 4, 64)

    Reference: arXiv:2102.06171, section 5 and figure 5.
    """

    def __init__(
        self,
        filters,
        strides=1,
        beta=1.0,
        alpha=0.2,
        bottleneck_ratio=0.5,
        group_width=128,
        se_ratio=0.5,
        stochastic_depth_rate=0.0,
        use_two_convs=True,
        activation="gelu",
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        whole("filters", filters)
        whole("group_width", group_width)
        for name, value in (
            ("beta", beta),
            ("alpha", alpha),
            ("bottleneck_ratio", bottleneck_ratio),
        ):
            if not value > 0:
                raise ValueError(
                    f"`{name}` must be above 0. Received: {name}={value!r}"
                )
        self.filters = filters
        self.strides = strides
        self.beta = beta
        self.alpha = alpha
        self.bottleneck_ratio = bottleneck_ratio
        self.group_width = group_width
        self.se_ratio = se_ratio
        self.stochastic_depth_rate = stochastic_depth_rate
        self.use_two_convs = use_two_convs
        self.activation = serialize_activation(activation)
        self.seed = seed
        self.input_spec = keras.layers.InputSpec(ndim=4)

        channels, groups = bottleneck_groups(
            filters, bottleneck_ratio, group_width
        )
        self.preactivation = self._part(
            ScaledActivation, "preact", activation, scale=beta
        )
        self.act = self._part(ScaledActivation, "act", activation)
        self.conv0 = self._part(ScaledWSConv2D, "conv0", channels, 1)
        self.conv1 = self._part(
            ScaledWSConv2D,
            "conv1",
            channels,
            3,
            strides=strides,
            groups=groups,
        )
        self.conv1b = (
            self._part(ScaledWSConv2D, "conv1b", channels, 3, groups=groups)
            if use_two_convs
            else None
        )
        self.conv2 = self._part(ScaledWSConv2D, "conv2", filters, 1)
        self.squeeze_excite = self._part(SqueezeExcite, "se", se_ratio)
        self.stochastic_depth = self._part(
            StochasticDepth, "drop", stochastic_depth_rate, seed=seed
        )
        self.skip_init = self._part(SkipInit, "skip", scale=alpha)
        self.pool = None
        self.conv_shortcut = None

    def _part(self, layer, name, *args, **kwargs):
        kwargs.update(name=f"{self.name}_{name}", dtype=self.dtype_policy)
        return layer(*args, **kwargs)

    def build(self, input_shape):
        shape = tuple(input_shape)
        if self.strides > 1 or shape[-1] != self.filters:
            self.conv_shortcut = self._part(
                ScaledWSConv2D, "conv_shortcut", self.filters, 1
            )
            self.conv_shortcut.build(shape)
        if self.strides > 1:
            # SAME pooling that does not count the padding.
            self.pool = self._part(
                keras.layers.AveragePooling2D,
                "pool",
                2,
                strides=self.strides,
                padding="same",
                data_format="channels_last",
            )
        for conv in filter(
            None, (self.conv0, self.conv1, self.conv1b, self.conv2)
        ):
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
        self.squeeze_excite.build(shape)
        self.skip_init.build(shape)
        self.built = True

    def branches(self, inputs):
        """The shortcut and the residual before stochastic depth and gain.

        Args:
            inputs: `(batch, height, width, channels)`.

        Returns:
            A pair of tensors of the block's output shape.
        """
        out = self.preactivation(inputs)
        shortcut = inputs
        if self.conv_shortcut is not None:
            shortcut = self.conv_shortcut(self.pool(out) if self.pool else out)
        out = self.conv0(out)
        out = self.conv1(self.act(out))
        if self.conv1b is not None:
            out = self.conv1b(self.act(out))
        out = self.conv2(self.act(out))
        return shortcut, self.squeeze_excite(out)

    def join(self, shortcut, residual, training=False):
        """The block's output from its two branches."""
        residual = self.stochastic_depth(residual, training=training)
        return shortcut + self.skip_init(residual)

    def call(self, inputs, training=False):
        return self.join(*self.branches(inputs), training=training)

    def compute_output_shape(self, input_shape):
        return self.conv1.compute_output_shape(input_shape)[:-1] + (
            self.filters,
        )

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            strides=self.strides,
            beta=self.beta,
            alpha=self.alpha,
            bottleneck_ratio=self.bottleneck_ratio,
            group_width=self.group_width,
            se_ratio=self.se_ratio,
            stochastic_depth_rate=self.stochastic_depth_rate,
            use_two_convs=self.use_two_convs,
            activation=self.activation,
            seed=self.seed,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_nfnet")
class GlobalAveragePooling(keras.layers.GlobalAveragePooling2D):
    """Global average pooling that sums in float32 under mixed precision."""

    def call(self, inputs):
        from keras_nfnet.layers.residual import global_average

        average = global_average(inputs)
        if self.keepdims:
            return ops.expand_dims(average, (1, 2))
        return average
