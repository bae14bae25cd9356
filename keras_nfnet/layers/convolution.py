"""The standardized convolution of images: arXiv:2101.08692, section 4."""

from typing import Any

import keras
from keras import ops

from keras_nfnet.layers.activation import activation_gain
from keras_nfnet.layers.formats import require_channels_last
from keras_nfnet.layers.grouped_convolution import symmetric_padding
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.kernels import standardize
from keras_nfnet.layers.rematerialization import NotRecomputed
from keras_nfnet.layers.standardized import Convolution
from keras_nfnet.utils.arguments import (
    boolean,
    constraint,
    initializer,
    integer,
    integers,
    number,
    one_of,
    regularizer,
)
from keras_nfnet.utils.types import Size, Tensor


@keras.saving.register_keras_serializable(package="keras_nfnet")
class ScaledWSConv2D(NotRecomputed, Convolution, keras.layers.Conv2D):
    """2D convolution with a scaled, weight-standardized kernel.

    `keras.layers.Conv2D` with `ScaledWSMixin` before it: the variables are
    standardized in float32 at least; the convolution runs in the compute
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
        **kwargs: As for `keras.layers.Conv2D`, such as `activation`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, filters)`.

    Raises:
        ValueError: On arguments out of range, `channels_first`, channels that
            `groups` does not divide, or a dtype to quantize to.

    Example:

    >>> x = keras.random.normal((2, 32, 32, 16))
    >>> layer = keras_nfnet.layers.ScaledWSConv2D(64, 3, strides=2, groups=4)
    >>> keras.ops.shape(layer(x))
    (2, 16, 16, 64)

    Reference: arXiv:2101.08692, section 4; `keras.layers.Conv2D`.
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
        one_of("padding", padding, ("same", "valid", "symmetric"))
        size = integers("strides", strides)
        dilation = integers("dilation_rate", dilation_rate)
        if max(size) > 1 and max(dilation) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` must not both be above 1. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )
        if integer("filters", filters) % integer("groups", groups):
            raise ValueError(
                "`filters` must be a multiple of `groups`. "
                f"Received: filters={filters}, groups={groups}"
            )
        if kernel_initializer is None:
            kernel_initializer = ScaledNormal()
        for argument, get, value in (
            ("kernel_initializer", initializer, kernel_initializer),
            ("bias_initializer", initializer, bias_initializer),
            ("kernel_regularizer", regularizer, kernel_regularizer),
            ("bias_regularizer", regularizer, bias_regularizer),
            ("kernel_constraint", constraint, kernel_constraint),
            ("bias_constraint", constraint, bias_constraint),
        ):
            kwargs[argument] = get(argument, value)
        super().__init__(
            int(filters),
            integers("kernel_size", kernel_size),
            size,
            groups=int(groups),
            use_bias=boolean("use_bias", use_bias),
            gain_initializer=gain_initializer,
            eps=eps,
            data_format=require_channels_last(data_format),
            dilation_rate=dilation,
            **kwargs,
        )
        self.padding = padding  # Keras knows no "symmetric".
        self.eps_mode = one_of("eps_mode", eps_mode, ("floor", "add"))
        self.scale = number("scale", scale)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                "The number of input channels must be known and a multiple "
                f"of `groups`. Received: input_shape={tuple(input_shape)}, "
                f"groups={self.groups}"
            )
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def standardize(self, kernel: Tensor, gain: Tensor, axis: Any) -> Tensor:
        if self.scale != 1:
            gain = gain * ops.cast(self.scale, gain.dtype)
        return standardize(kernel, gain, self.eps, self.eps_mode, axis)

    def compute_output_shape(self, input_shape):
        return convolved_shape(self, input_shape)

    def _saved_variables(self):
        """As `ScaledWSMixin`, by number: kernel, gain, bias."""
        variables = super()._saved_variables().values()
        return {str(index): value for index, value in enumerate(variables)}

    def get_config(self):
        config = super().get_config()
        # A file has LoRA merged, of a layer without it.
        for name in ("lora_rank", "lora_alpha"):
            config.pop(name, None)
        return {**config, "eps_mode": self.eps_mode, "scale": self.scale}


def convolution_options(style):
    """Keyword arguments of every `ScaledWSConv2D` of a network.

    Args:
        style: An `NFNetConfig`, or a block with the same fields.
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


def convolved_shape(layer, input_shape):
    """The output's shape of a convolution whose channels are last."""
    batch, *sides, _ = input_shape
    sides = output_sides(
        sides,
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
    )
    return (batch, *sides, layer.filters)


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
        padded = side
        if padding == "symmetric":
            padded += 2 * symmetric_padding(kernel, dilation)
        if padded < reach:
            raise ValueError(
                "The image is smaller than the kernel and `padding` is "
                f'"{padding}". Received: side={side}, kernel_size={kernel}'
            )
        outputs.append((padded - reach) // stride + 1)
    return outputs
