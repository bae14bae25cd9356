"""The residual block of the normalizer-free networks."""

import contextlib

import keras

from keras_nfnet.architecture import CHECKS
from keras_nfnet.block_spec import bottleneck_groups
from keras_nfnet.layers import (
    EfficientChannelAttention,
    ScaledActivation,
    ScaledWSConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
)
from keras_nfnet.layers.activation import serialize_activation
from keras_nfnet.layers.convolution import convolution_options
from keras_nfnet.layers.rematerialization import recomputed
from keras_nfnet.utils.arguments import (
    choice,
    count,
    integer,
    optional,
    positive,
)
from keras_nfnet.utils.moved import moved_names


def call_layer(layer, *args):
    """The function for `walk` that calls each layer."""
    return layer(*args)


# What `NFBlock` is made of, and what each argument must be.
_ARGUMENTS = {
    "filters": integer,
    "strides": choice(1, 2),
    "beta": positive,
    "seed": optional(count),
    "bottleneck": optional(integer),
    "groups": optional(integer),
    "stage": optional(integer),
    "first_dilation": integer,
    "dilation_rate": integer,
    **{
        name: CHECKS[name]
        for name in (
            *("alpha", "bottleneck_ratio", "group_width", "se_ratio"),
            *("stochastic_depth_rate", "use_two_convs", "activation"),
            *("attention", "attention_position", "shortcut", "skip"),
            *("gain_in", "eps", "eps_mode", "padding", "channel_multiple"),
            "rescale_stochastic_depth",
        )
    },
}


# What a `BlockSpec` says in place of the architecture.
_OF_SPEC = {"bottleneck_ratio", "group_width", "stochastic_depth_rate"}


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFBlock(keras.layers.Layer):
    """A normalizer-free residual bottleneck, one node of the graph.

    `out = act(x) * beta`; the shortcut is `x`, or a 1×1 convolution of
    `out` (average-pooled where the block has stride 2); the branch is 1×1,
    3×3 grouped (carries the stride), 3×3 grouped, 1×1 with activations
    between, squeeze-and-excite, stochastic depth, SkipInit times `alpha`.
    The keyword arguments are what the other families have in place of it.

    Args:
        filters: Output channels.
        strides: 1 or 2.
        beta: 1 / standard deviation expected of the input.
        alpha: Scale of the residual branch, above 0.
        bottleneck_ratio: Bottleneck channels over `filters`, above 0.
        group_width: Channels of one group in the 3×3 convolutions, 1 or
            more.
        se_ratio: Hidden channels of squeeze-and-excite over its channels,
            above 0.
        stochastic_depth_rate: Probability to drop the branch, per sample
            and in training, in [0, 1).
        use_two_convs: Whether there is a second 3×3 convolution.
        activation: Name or function, see `ScaledActivation`.
        seed: Integer seed of stochastic depth, or `None`.
        bottleneck: Bottleneck channels, in place of `bottleneck_ratio`.
        groups: Groups of the 3×3 convolutions, in place of `group_width`.
        stage: Index of the stage, from 1, or `None`.
        first_dilation: Dilation of the first 3×3 convolution.
        dilation_rate: Dilation of the second one. Where the two differ, the
            block stands for one of stride 2.
        attention: As for `NFNetConfig`, as those below.
        attention_position: `"last"` or `"middle"`.
        shortcut: `"pool"` or `"strided"`.
        skip: `"skip_init"` or `"gain"`.
        gain_in: `"activation"` or `"kernel"`.
        eps: Constant of the standardization, above 0.
        eps_mode: `"floor"` or `"add"`.
        padding: `"same"` or `"symmetric"`.
        channel_multiple: Positive integer.
        rescale_stochastic_depth: Boolean.
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
        *,
        bottleneck=None,
        groups=None,
        stage=None,
        first_dilation=1,
        dilation_rate=1,
        attention="se",
        attention_position="last",
        shortcut="pool",
        skip="skip_init",
        gain_in="activation",
        eps=1e-4,
        eps_mode="floor",
        padding="same",
        channel_multiple=1,
        rescale_stochastic_depth=False,
        **kwargs,
    ):
        given = locals()
        super().__init__(**kwargs)
        for argument, check in _ARGUMENTS.items():
            setattr(self, argument, check(argument, given[argument]))
        self.activation = serialize_activation(activation)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        with self._parts_scope():
            self._compose()

    @classmethod
    def of(cls, spec, architecture):
        """The block of a network.

        Args:
            spec: One of `architecture.blocks()`.
            architecture: An `NFNetConfig`.
        """
        shared = {
            name: getattr(architecture, name)
            for name in _ARGUMENTS.keys() & CHECKS.keys() - _OF_SPEC
        }
        return cls(
            spec.filters,
            strides=spec.strides,
            beta=spec.expected_variance**-0.5,
            stochastic_depth_rate=spec.stochastic_depth_rate,
            bottleneck=spec.bottleneck,
            groups=spec.groups,
            stage=spec.stage,
            first_dilation=spec.first_dilation,
            dilation_rate=spec.dilation,
            name=spec.name,
            **shared,
        )

    def _compose(self):
        """Makes the parts whose form does not depend on the input."""
        channels, groups = self.bottleneck, self.groups
        if channels is None:
            channels, groups = bottleneck_groups(
                self.filters * self.bottleneck_ratio, self.group_width
            )
        use_gain = self.gain_in == "activation"
        self.preactivation = self._part(
            ScaledActivation,
            "preact",
            self.activation,
            scale=self.beta,
            use_gain=use_gain,
        )
        self.act = self._part(
            ScaledActivation, "act", self.activation, use_gain=use_gain
        )
        self.conv0 = self._convolution("conv0", channels)
        self.conv1 = self._convolution(
            "conv1",
            channels,
            3,
            strides=self.strides,
            groups=groups,
            dilation_rate=self.first_dilation,
        )
        self.conv1b = self.pool = self.conv_shortcut = None
        if self.use_two_convs:
            self.conv1b = self._convolution(
                "conv1b",
                channels,
                3,
                groups=groups,
                dilation_rate=self.dilation_rate,
            )
        self.conv2 = self._convolution(
            "conv2",
            self.filters,
            gain_initializer="zeros" if self.skip == "gain" else "ones",
        )
        # One of these or none. What lies in the middle has a name of its
        # own, so that a file's names alone say where it is.
        self.squeeze_excite = self.middle_squeeze_excite = None
        self.eca = self.middle_eca = None
        middle = "middle_" if self.attention_position == "middle" else ""
        if self.attention == "se":
            part = self._part(
                SqueezeExcite,
                "se",
                self.se_ratio,
                multiple=self.channel_multiple,
            )
            setattr(self, f"{middle}squeeze_excite", part)
        elif self.attention == "eca":
            part = self._part(EfficientChannelAttention, "eca")
            setattr(self, f"{middle}eca", part)
        self.stochastic_depth = self._part(
            StochasticDepth,
            "drop",
            self.stochastic_depth_rate,
            seed=self.seed,
            rescale=self.rescale_stochastic_depth,
        )
        self.skip_init = self.rescale = None
        if self.skip == "skip_init":
            self.skip_init = self._part(SkipInit, "skip", scale=self.alpha)
        else:
            self.rescale = self._part(
                keras.layers.Rescaling, "rescale", self.alpha
            )
        self.add = self._part(keras.layers.Add, "add")

    def _convolution(self, name, filters, kernel_size=1, **kwargs):
        return self._part(
            ScaledWSConv2D,
            name,
            filters,
            kernel_size,
            **convolution_options(self),
            **kwargs,
        )

    def _part(self, layer, name, *args, **kwargs):
        kwargs.update(name=f"{self.name}_{name}", dtype=self.dtype_policy)
        return layer(*args, **kwargs)

    def compose_shortcut(self, channels):
        """Makes the parts of the shortcut, for a number of input channels."""
        # A dilated block stands for one of stride 2, with all its parts.
        shrinks = self.strides > 1 or self.first_dilation != self.dilation_rate
        if self.conv_shortcut is not None or not (
            shrinks or channels != self.filters
        ):
            return
        pools = self.shortcut == "pool"
        if pools and shrinks:
            # SAME pooling that does not count the padding.
            self.pool = self._part(
                keras.layers.AveragePooling2D,
                "pool",
                2,
                strides=self.strides,
                padding="same",
                data_format="channels_last",
            )
        self.conv_shortcut = self._convolution(
            "conv_shortcut",
            self.filters,
            strides=1 if pools else self.strides,
        )

    def build(self, input_shape):
        def build_layer(layer, shape, *others):
            if not layer.built:
                layer.build(shape)
            if isinstance(layer, keras.layers.Add):
                return shape[0]
            return layer.compute_output_shape(shape)

        with self._parts_scope():
            self.compose_shortcut(input_shape[-1])
            self.walk(build_layer, tuple(input_shape))
        self.built = True

    def walk(self, apply, x):
        """The one description of the block, in layers.

        Args:
            apply: Function of a layer and what it is called with: a tensor,
                or for `keras.layers.Add` a list of two. It returns the
                layer's result: a tensor, or whatever the caller computes
                instead, such as shapes.
            x: What stands for the input, such as a tensor `(batch, height,
                width, channels)`.

        Returns:
            What stands for the output.
        """
        shortcut = x
        out = apply(self.preactivation, x)
        if self.conv_shortcut is not None:
            shortcut = out if self.pool is None else apply(self.pool, out)
            shortcut = apply(self.conv_shortcut, shortcut)
        out = apply(self.conv0, out)
        out = apply(self.conv1, apply(self.act, out))
        if self.conv1b is not None:
            out = apply(self.conv1b, apply(self.act, out))
        for attention in (self.middle_squeeze_excite, self.middle_eca):
            if attention is not None:
                out = apply(attention, out)
        out = apply(self.conv2, apply(self.act, out))
        for attention in (self.squeeze_excite, self.eca):
            if attention is not None:
                out = apply(attention, out)
        out = apply(self.stochastic_depth, out)
        for skip in (self.skip_init, self.rescale):
            if skip is not None:
                out = apply(skip, out)
        return apply(self.add, [shortcut, out])

    def call(self, inputs, training=False):
        # The parts take `training` from the call that they are in.
        return self.walk(call_layer, inputs)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """Recomputes the block as a whole, under `keras.RematScope`."""
        of_keras = super().rematerialized_call(layer_call, *args, **kwargs)
        if of_keras == layer_call or self._remat_mode.mode == "activations":
            return layer_call
        return self._recomputed_call

    def _recomputed_call(self, inputs, training=False):
        # Drawn once: the second pass must drop the same samples.
        survivors = None
        if training and self.stochastic_depth.rate:
            survivors = self.stochastic_depth.survivors(inputs)

        def apply(layer, *args):
            if layer is not self.stochastic_depth:
                return layer(*args)
            return args[0] if survivors is None else args[0] * survivors

        return recomputed(self, lambda x: self.walk(apply, x), inputs)

    def _parts_scope(self):
        """Where the parts are made: a block is recomputed as a whole."""
        mode = self._remat_mode and self._remat_mode.mode
        if mode in ("full", "larger_than"):
            return keras.RematScope(mode=None)
        return contextlib.nullcontext()

    def compute_output_shape(self, input_shape):
        return self.conv1.compute_output_shape(input_shape)[:-1] + (
            self.filters,
        )

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        own = {name: getattr(self, name) for name in _ARGUMENTS}
        return {**super().get_config(), **own}


__getattr__ = moved_names(__name__)
