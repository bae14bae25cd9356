"""Scaled weight standardization of Keras's own layers.

`ScaledWSMixin` is put before a layer of Keras, whose dilation, regularizers,
constraints and LoRA stay as they are. A subclass names its kernels and the
axes of their units in `unit_axes`; standardization, AGC and `fold` read it.
"""

import inspect
import itertools
import math
from typing import Any

import keras
from keras import ops

from keras_nfnet.layers.grouped_convolution import convolve
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.kernels import full, merged, restart, standardize
from keras_nfnet.layers.sharding import creating
from keras_nfnet.utils.arguments import initializer, integer, positive
from keras_nfnet.utils.types import Tensor


class ScaledWSMixin:
    """Standardizes the kernels of a Keras layer, with a gain per unit.

    Put it before the layer: `class Mine(ScaledWSMixin, keras.layers.Conv2D)`.
    The subclass sets `unit_axes`, a dictionary from the name of each kernel
    to the axes that are summed over in one unit, such as
    `{"kernel": (0, 1, 2)}`. A layer without `convolution_op` also gets one:
    a function of the inputs and the standardized kernels. It must not add
    the bias or apply the activation.

    Each `kernel` gets a vector `gain`, and each `..._kernel` a `..._gain`.
    Both are standardized in float32 at least; the layer's operation runs in
    the compute dtype. LoRA changes the kernel before it is standardized.

    Unlike in Keras, `padding` is `"same"` by default, and kernels start from
    a normal distribution of variance 1 / fan-in, so that each unit has a norm
    near 1.

    Args:
        *args: As for the layer of Keras.
        gain_initializer: Of the gains; defaults to ones.
        eps: As for `standardize`, above 0.
        **kwargs: As for the layer of Keras.

    Input shape:
        As for the layer of Keras.

    Output shape:
        As for the layer of Keras.

    Raises:
        ValueError: If `unit_axes` is empty, a unit has a single value, `eps`
            is not above 0, or the layer is to be quantized.

    Example:

    >>> class Pointwise(keras_nfnet.layers.ScaledWSMixin, keras.layers.Conv2D):
    ...     unit_axes = {"kernel": (0, 1, 2)}
    >>> layer = Pointwise(16, 1, kernel_regularizer="l2")
    >>> y = layer(keras.random.normal((64, 8, 8, 32), seed=0))
    >>> round(float(keras.ops.var(y)), 1)
    1.0

    Reference: arXiv:2101.08692, section 4, eq. 2.
    """

    unit_axes = {}

    def __init__(
        self,
        *args: Any,
        gain_initializer: Any = "ones",
        eps: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        eps = positive("eps", eps)
        gain_initializer = initializer("gain_initializer", gain_initializer)
        if not self.unit_axes:
            raise ValueError(
                "`unit_axes` of the class must name the layer's kernels, such "
                'as {"kernel": (0, 1, 2)}. Received: '
                f"{type(self).__name__}.unit_axes={self.unit_axes!r}"
            )
        signature = inspect.signature(super().__init__)
        given = signature.bind_partial(*args, **kwargs).arguments
        defaults = {
            "padding": "same",
            "kernel_initializer": None,
            "depthwise_initializer": None,
            "pointwise_initializer": None,
        }
        for name, value in defaults.items():
            if name in signature.parameters and name not in given:
                kwargs[name] = value
        super().__init__(*args, **kwargs)
        if getattr(self, "quantization_mode", None):
            raise ValueError(
                "A standardized layer cannot be quantized; quantize what "
                f"`keras_nfnet.fold` returns. Received: dtype="
                f"{self.dtype_policy.name!r}"
            )
        self.eps = eps
        self.gain_initializer = gain_initializer

    def add_weight(
        self, *args: Any, name: str | None = None, **kwargs: Any
    ) -> Any:
        """As `keras.layers.Layer.add_weight`; adds the gain of a kernel."""
        if "kernel" in (name or ""):
            # Standardization needs the float32 values.
            kwargs["autocast"] = False
        if name not in self.unit_axes:
            return super().add_weight(*args, name=name, **kwargs)
        shape = kwargs["shape"]
        axes = self.unit_axes[name]
        fan_in = math.prod(shape[axis] for axis in axes)
        if self.fewest_values(shape, axes) < 2:
            raise ValueError(
                f"`{name}` must have two values or more in each unit: one "
                f"alone is its own mean. Received: {name} of shape "
                f"{tuple(shape)}, whose axes {axes} are summed over"
            )
        if kwargs.get("initializer") is None:
            kwargs["initializer"] = ScaledNormal(stddev=fan_in**-0.5)
        with creating(name, shape, axes):
            kernel = super().add_weight(*args, name=name, **kwargs)
        gain = super().add_weight(
            name=_gain_of(name),
            shape=(math.prod(shape) // fan_in,),
            initializer=self.gain_initializer,
            autocast=False,
        )
        setattr(self, _gain_of(name), gain)
        return kernel

    def fewest_values(self, shape: tuple[int, ...], axis: Any) -> int:
        """Number of values of a kernel that are standardized together."""
        return math.prod(shape[each] for each in axis)

    def standardized_kernel(self, name: str = "kernel") -> Tensor:
        """The kernel that the layer's operation uses.

        Args:
            name: A name of `unit_axes`.

        Returns:
            A tensor like the kernel, in float32 at least.
        """
        variables = {variable.name: variable for variable in self.weights}
        return self.standardize(
            merged(self, variables[name]),
            full(variables[_gain_of(name)]),
            self.unit_axes[name],
        )

    def standardize(self, kernel: Tensor, gain: Tensor, axis: Any) -> Tensor:
        """`keras_nfnet.layers.standardize` as this layer needs it."""
        return standardize(kernel, gain, self.eps, axis=axis)

    def call(self, inputs):
        """`convolution_op` of the standardized kernels, bias, activation."""
        outputs = self.convolution_op(
            inputs,
            *(
                ops.cast(self.standardized_kernel(name), self.compute_dtype)
                for name in self.unit_axes
            ),
        )
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias, dtype=self.compute_dtype)
            if getattr(self, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (-1, *(1,) * (len(inputs.shape) - 2)))
            outputs = outputs + bias
        if self.activation is not None:
            outputs = self.activation(outputs)
        return outputs

    def quantize(self, mode=None, **kwargs):
        """Refuses: quantize what `keras_nfnet.fold` returns."""
        # No stub: this is Keras's own sign that a layer does not quantize.
        # `Model.quantize` warns of it and goes on with the others; another
        # error would end it with half of the layers quantized.
        raise NotImplementedError(
            "A standardized layer cannot be quantized; quantize what "
            f"`keras_nfnet.fold` returns. Received: mode={mode!r}"
        )

    # Keras's layers with LoRA write the kernel and the bias only, and merge
    # LoRA into the kernel in the compute dtype.
    def save_own_variables(self, store):
        """Writes each variable under its key; LoRA is merged."""
        for key, variable in self._saved_variables().items():
            store[key] = ops.cast(merged(self, variable), variable.dtype)

    def load_own_variables(self, store):
        """Reads each variable by its key; LoRA starts anew."""
        expected = self._saved_variables()
        if set(store.keys()) != set(expected):
            raise ValueError(
                f"The file must have the variables of the layer {self.name!r}, "
                f"{[variable.name for variable in expected.values()]}. "
                f"Received: {sorted(store.keys())}"
            )
        for key, variable in expected.items():
            variable.assign(store[key])
        restart(self)

    def _saved_variables(self):
        """The variables that a file has, by their keys in it: their names."""
        return {
            variable.name: variable
            for variable in self.weights
            if not variable.name.startswith("lora_")
        }

    def plain_config(self) -> dict[str, Any]:
        """The configuration of the same layer of Keras, without its own parts.

        The bias is there in any case, for what `fold` puts into it.
        """
        config = super().get_config()
        for name in ("lora_rank", "lora_alpha"):
            config.pop(name, None)
        return {**config, "use_bias": True}

    def get_config(self):
        """As the layer of Keras, with `gain_initializer` and `eps`."""
        config = super().get_config()
        config.update(
            gain_initializer=keras.initializers.serialize(
                self.gain_initializer
            ),
            eps=self.eps,
        )
        return config


def _gain_of(kernel_name):
    return kernel_name.replace("kernel", "gain")


class Convolution(ScaledWSMixin):
    """Convolutions; channels-last they run as `grouped_convolution.py` says."""

    def enable_lora(self, rank: int, *args: Any, **kwargs: Any) -> None:
        """As the layer of Keras; refuses a `rank` that is below 1."""
        super().enable_lora(integer("rank", rank), *args, **kwargs)

    def convolution_op(self, inputs, kernel):
        padding = self.padding
        if padding == "causal":  # Of `Conv1D` only.
            before = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            pads = [(0, 0)] * 3
            is_last = self.data_format == "channels_last"
            pads[1 if is_last else 2] = (before, 0)
            inputs, padding = ops.pad(inputs, pads), "valid"
        if self.data_format == "channels_last":
            return convolve(
                inputs,
                kernel,
                self.strides,
                padding,
                self.groups,
                self.dilation_rate,
            )
        return ops.conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


class Depthwise(ScaledWSMixin):
    """Depthwise convolutions."""

    def convolution_op(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


class Separable(ScaledWSMixin):
    """Separable convolutions, of two kernels."""

    def convolution_op(self, inputs, depthwise_kernel, pointwise_kernel):
        return ops.separable_conv(
            inputs,
            depthwise_kernel,
            pointwise_kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


class Transposed(ScaledWSMixin):
    """Standardizes the values that meet at one output, for each phase.

    With strides of 2, every second value of the kernel along an axis meets
    at one output: as many kernels lie interleaved as there are positions
    modulo the strides. Each is standardized, so that every output has the
    variance of the inputs. Their gain is the same.
    """

    def build(self, input_shape):
        pairs = zip(self.kernel_size, self.strides, strict=True)
        if any(stride > side for side, stride in pairs):
            raise ValueError(
                "`strides` must not be above `kernel_size`: no value of the "
                "kernel would meet at some outputs. Received: "
                f"strides={self.strides}, kernel_size={self.kernel_size}"
            )
        super().build(input_shape)

    def fewest_values(self, shape, axis):
        values = super().fewest_values(shape, axis)
        for side, stride in zip(self.kernel_size, self.strides, strict=True):
            values = values // side * (side // stride)
        return values

    def standardize(self, kernel, gain, axis):
        rank = len(self.strides)
        sides, channels = kernel.shape[:rank], kernel.shape[rank:]
        longest = [
            -(-side // stride)
            for side, stride in zip(sides, self.strides, strict=True)
        ]
        phases = []
        for first in itertools.product(*map(range, self.strides)):
            values = zip(first, self.strides, strict=True)
            phase = super().standardize(
                kernel[tuple(slice(a, None, step) for a, step in values)],
                gain,
                axis,
            )
            pads = [
                (0, most - side)
                for most, side in zip(longest, phase.shape[:rank], strict=True)
            ]
            phases.append(ops.pad(phase, [*pads, (0, 0), (0, 0)]))
        kernel = ops.reshape(
            ops.stack(phases), (*self.strides, *longest, *channels)
        )
        # (q, stride) for each axis: value `q * stride + phase`.
        order = [a for axis in range(rank) for a in (rank + axis, axis)]
        kernel = ops.transpose(kernel, (*order, 2 * rank, 2 * rank + 1))
        whole = [
            most * stride
            for most, stride in zip(longest, self.strides, strict=True)
        ]
        kernel = ops.reshape(kernel, (*whole, *channels))
        return kernel[tuple(slice(side) for side in sides)]

    def convolution_op(self, inputs, kernel):
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
