"""What becomes of a layer's kernel before its operation uses it.

LoRA is Keras's, but is added before standardization: the sum of the kernel
and the product of the factors is itself a kernel, so that merging, as in
every file, changes nothing.
"""

import math

import keras
from keras import ops

from keras_nfnet.layers import tensorflow_graphs
from keras_nfnet.utils.arguments import array, axes, one_of, positive, refuse
from keras_nfnet.utils.types import Axes, Tensor


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
    if gain is not None:
        gain = array("gain", gain)
        shape = [
            1 if axis in summed else side
            for axis, side in enumerate(kernel.shape)
        ]
        units = math.prod(shape)
        if math.prod(gain.shape) != units:
            refuse("gain", gain, f"one value for each of the {units} units")
        gain = ops.reshape(gain, shape)
        if gain.dtype == kernel.dtype and tensorflow_graphs.takes(kernel):
            return tensorflow_graphs.standardize(
                kernel, gain, fan_in, eps, eps_mode, summed
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
        scale = scale * gain
    return centred * scale


def full(variable):
    """A variable's value in float32 at least, as a tensor."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype in ("float16", "bfloat16"):
        dtype = "float32"
    # On TensorFlow `convert_to_tensor` gives back the variable itself, which
    # each use would read once more.
    return ops.cast(variable, dtype)


def merged(layer, variable):
    """A variable's value in float32 at least, LoRA included.

    Args:
        layer: Its layer, with LoRA or without.
        variable: A variable; LoRA changes the one named `kernel`.

    Reference: Hu et al., arXiv:2106.09685.
    """
    value = full(variable)
    if variable.name == "kernel" and getattr(layer, "lora_enabled", False):
        change = ops.matmul(
            full(layer.lora_kernel_a), full(layer.lora_kernel_b)
        )
        value = value + (layer.lora_alpha / layer.lora_rank) * change
    return value


def restart(layer):
    """Lets LoRA start anew, from a kernel that has it merged."""
    if getattr(layer, "lora_enabled", False):
        # The other factor stays: from two of zeros nothing would be learned.
        layer.lora_kernel_b.assign(ops.zeros(layer.lora_kernel_b.shape))
