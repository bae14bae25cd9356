"""Scaled weight standardization: arXiv:2101.08692, section 4, eq. 2."""

import math
from typing import Any

import keras
from keras import ops

from keras_nfnet.layers.activation import activation_gain
from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.grouped_convolution import (
    convolve,
    symmetric_padding,
)
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.low_rank import LowRank, NotQuantized, merged
from keras_nfnet.layers.rematerialization import NotRecomputed
from keras_nfnet.layers.sharding import creating
from keras_nfnet.utils.arguments import (
    array,
    axes,
    boolean,
    constraint,
    initializer,
    integer,
    integers,
    number,
    one_of,
    positive,
    refuse,
    regularizer,
)
from keras_nfnet.utils.types import Axes, Size, Tensor


def standardize(
    kernel: Tensor,
    gain: Tensor | None = None,
    eps: float = 1e-4,
    eps_mode: str = "floor",
    axis: Axes | None = None,
) -> Tensor:
    """Standardizes a kernel, unit by unit.

    `(W - mean) * s` with `s = gain / sqrt(max(var * fan_in, eps))`, or with
    `eps_mode="add"` `s = gain / sqrt((var + eps) * fan_in)`.

    NOTE: the variance is the biased one and `eps` is a floor, as in the
    authors' code. timm's networks were trained with `eps` added, which
    moves the logits by more than 1%.

    Args:
        kernel: `(..., filters)`, such as `(height, width, channels,
            filters)`, or of any shape with `axis`.
        gain: `(filters,)`, or a vector of one value for each unit, or `None`
            for 1.
        eps: Floor of `var * fan_in`, or what is added to `var`, above 0.
        eps_mode: `"floor"` or `"add"`.
        axis: The axes summed over in one unit, a tuple. `None` for all but
            the last. For a depthwise kernel `(height, width, channels,
            multiplier)` it is `(0, 1)`.

    Returns:
        A tensor like `kernel`.

    Raises:
        ValueError: If a unit has a single value: it has no variance.

    Example:

    >>> kernel = keras.random.normal((3, 3, 16, 32))
    >>> squares = keras.ops.square(keras_nfnet.layers.standardize(kernel))
    >>> round(float(keras.ops.sum(squares[..., 0])), 4)
    1.0

    Reference: arXiv:2101.08692, section 4, eq. 2.
    """
    positive("eps", eps)
    one_of("eps_mode", eps_mode, ("floor", "add"))
    kernel = array("kernel", kernel)
    rank = len(kernel.shape)
    summed = tuple(range(rank - 1))
    if axis is not None:
        summed = axes("axis", axis, rank)
    fan_in = math.prod(kernel.shape[axis] for axis in summed)
    if fan_in < 2:
        raise ValueError(
            "`kernel` must have two values or more in each unit: one alone "
            "is its own mean. Received: kernel of shape "
            f"{tuple(kernel.shape)}, whose axes {summed} are summed over"
        )
    # Of sums alone: the gradient of a mean or a difference goes over the whole
    # kernel once more.
    total = ops.sum(kernel, axis=summed, keepdims=True)
    centred = kernel + total * ops.cast(-1 / fan_in, kernel.dtype)
    squares = ops.sum(ops.square(centred), axis=summed, keepdims=True)
    if eps_mode == "add":
        scale = ops.rsqrt(squares + ops.cast(eps * fan_in, kernel.dtype))
    else:
        scale = ops.rsqrt(ops.maximum(squares, ops.cast(eps, kernel.dtype)))
    if gain is not None:
        gain = array("gain", gain)
        units = math.prod(total.shape)
        if math.prod(gain.shape) != units:
            refuse("gain", gain, f"one value for each of the {units} units")
        scale = scale * ops.reshape(gain, total.shape)
    return centred * scale


@keras.saving.register_keras_serializable(package="keras_nfnet")
class ScaledWSConv2D(NotRecomputed, NotQuantized, LowRank, keras.layers.Layer):
    """2D convolution with a scaled, weight-standardized kernel.

    The variables stay in the variable dtype and are standardized in it
    (float32 under mixed precision); the convolution runs in the compute
    dtype.

    Args:
        filters: Number of output channels.
        kernel_size: Side of the kernel in pixels, or `(height, width)`.
        strides: Stride in pixels, or one along the height and one along
            the width.
        padding: `"same"`, `"valid"`, or `"symmetric"`: `(kernel_size - 1) //
            2` pixels on each side, as PyTorch's networks have it.
        groups: Number of groups; divides input channels and `filters`.
        use_bias: Whether to add a bias (all NFNets do).
        kernel_initializer: Defaults to a normal of variance 1 / fan-in.
        bias_initializer: Defaults to zeros.
        gain_initializer: Defaults to ones.
        eps: Constant of the standardization, above 0, as for `standardize`.
        data_format: `"channels_last"`, the only one supported.
        eps_mode: As for `standardize`.
        scale: Constant factor of the standardized kernel, such as the gain
            of an activation.
        dilation_rate: Distance between the kernel's pixels, or one along
            the height and one along the width.
        kernel_regularizer: As for `keras.layers.Conv2D`, of the kernel
            before standardization.
        bias_regularizer: As for `keras.layers.Conv2D`.
        kernel_constraint: As `kernel_regularizer`.
        bias_constraint: As for `keras.layers.Conv2D`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, filters)`.

    Raises:
        ValueError: On arguments out of range, `channels_first`, or channels
            that `groups` does not divide.

    Example:

    >>> x = keras.random.normal((2, 32, 32, 16))
    >>> layer = keras_nfnet.layers.ScaledWSConv2D(64, 3, strides=2, groups=4)
    >>> keras.ops.shape(layer(x))
    (2, 16, 16, 64)

    Reference: arXiv:2101.08692, section 4.
    """

    unit_axes = {"kernel": (0, 1, 2)}

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "same",
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        gain_initializer: Any = "ones",
        eps: float = 1e-4,
        data_format: str | None = None,
        eps_mode: str = "floor",
        scale: float = 1.0,
        dilation_rate: Size = 1,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = integer("filters", filters)
        self.kernel_size = integers("kernel_size", kernel_size)
        self.strides = integers("strides", strides)
        self.groups = integer("groups", groups)
        self.dilation_rate = integers("dilation_rate", dilation_rate)
        one_of("padding", padding, ("same", "valid", "symmetric"))
        one_of("eps_mode", eps_mode, ("floor", "add"))
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` must not both be above 1. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )
        if self.filters % self.groups:
            raise ValueError(
                "`filters` must be a multiple of `groups`. "
                f"Received: filters={filters}, groups={groups}"
            )
        self.padding = padding
        self.use_bias = boolean("use_bias", use_bias)
        if kernel_initializer is None:
            kernel_initializer = ScaledNormal()
        for argument, get, value in (
            ("kernel_initializer", initializer, kernel_initializer),
            ("bias_initializer", initializer, bias_initializer),
            ("gain_initializer", initializer, gain_initializer),
            ("kernel_regularizer", regularizer, kernel_regularizer),
            ("bias_regularizer", regularizer, bias_regularizer),
            ("kernel_constraint", constraint, kernel_constraint),
            ("bias_constraint", constraint, bias_constraint),
        ):
            setattr(self, argument, get(argument, value))
        self.eps = positive("eps", eps)
        self.eps_mode = eps_mode
        self.scale = number("scale", scale)
        self.data_format = require_channels_last(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                "The number of input channels must be known and a multiple "
                f"of `groups`. Received: input_shape={tuple(input_shape)}, "
                f"groups={self.groups}"
            )
        # autocast=False: standardization needs the float32 values.
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        with creating("kernel", shape, self.unit_axes["kernel"]):
            self.kernel = self.add_weight(
                name="kernel",
                shape=shape,
                initializer=self.kernel_initializer,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                autocast=False,
            )
        self.gain = self.add_weight(
            name="gain",
            shape=(self.filters,),
            initializer=self.gain_initializer,
            autocast=False,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        else:
            self.bias = None
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.built = True

    def standardized_kernel(self) -> Tensor:
        """The kernel that the convolution uses, in the variable dtype."""
        gain = ops.convert_to_tensor(self.gain)
        if self.scale != 1:
            gain = gain * ops.cast(self.scale, gain.dtype)
        kernel = ops.convert_to_tensor(self.kernel)
        if self.lora_enabled:
            kernel = merged(self, self.kernel)
        return standardize(
            kernel,
            gain,
            self.eps,
            self.eps_mode,
            self.unit_axes["kernel"],
        )

    def call(self, inputs):
        outputs = convolve(
            inputs,
            ops.cast(self.standardized_kernel(), self.compute_dtype),
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            dilation_rate=self.dilation_rate,
        )
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, self.compute_dtype)
        return outputs

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        return (
            batch,
            *output_sides(
                sides,
                self.kernel_size,
                self.strides,
                self.padding,
                self.dilation_rate,
            ),
            self.filters,
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            use_bias=self.use_bias,
            kernel_initializer=keras.initializers.serialize(
                self.kernel_initializer
            ),
            bias_initializer=keras.initializers.serialize(
                self.bias_initializer
            ),
            gain_initializer=keras.initializers.serialize(
                self.gain_initializer
            ),
            eps=self.eps,
            data_format=self.data_format,
            eps_mode=self.eps_mode,
            scale=self.scale,
            dilation_rate=self.dilation_rate,
            kernel_regularizer=keras.regularizers.serialize(
                self.kernel_regularizer
            ),
            bias_regularizer=keras.regularizers.serialize(
                self.bias_regularizer
            ),
            kernel_constraint=keras.constraints.serialize(
                self.kernel_constraint
            ),
            bias_constraint=keras.constraints.serialize(self.bias_constraint),
        )
        return config


def convolution_options(style):
    """Keyword arguments of every `ScaledWSConv2D` of a network.

    Args:
        style: An `Architecture`, or a block with the same fields.
    """
    gain = 1.0
    if style.gain_in == "kernel":
        gain = activation_gain(style.activation)
    return {
        "padding": style.padding,
        "eps": style.eps,
        "eps_mode": style.eps_mode,
        "scale": gain,
    }


def output_sides(sides, kernel_size, strides, padding, dilation_rate=(1, 1)):
    """Height and width of a convolution's output; `None` stays `None`."""
    outputs = []
    for side, kernel, stride, dilation in zip(
        sides, kernel_size, strides, dilation_rate, strict=True
    ):
        reach = (kernel - 1) * dilation + 1
        if side is None:
            outputs.append(None)
            continue
        if padding == "same":
            outputs.append(-(-side // stride))
            continue
        if padding == "symmetric":
            side += 2 * symmetric_padding(kernel, dilation)
        if side < reach:
            raise ValueError(
                "The image is smaller than the kernel and `padding` is "
                f'"{padding}". Received: side={side}, kernel_size={kernel}'
            )
        outputs.append((side - reach) // stride + 1)
    return outputs
