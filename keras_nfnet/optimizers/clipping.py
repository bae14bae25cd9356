"""Adaptive gradient clipping (AGC) of one tensor.

Reference: arXiv:2102.06171, section 4, eq. 3.
"""

import math

import keras
from keras import ops

from keras_nfnet.utils.arguments import array, axes, positive
from keras_nfnet.utils.types import Axes, Tensor

# By type: beyond 2**±limit values are scaled by 2**∓shift before they are
# squared. The sum of 2**32 squares then stays within the type's range.
_SCALES = {"float32": (46, 80), "float64": (400, 700)}


def unitwise_norm(x: Tensor, axis: Axes | None = None) -> Tensor:
    """Euclidean norm of each unit of a parameter.

    Args:
        x: A tensor of any shape.
        axis: The axes summed over in one unit, an integer or several.
            `None` for all but the last: each output channel of a kernel,
            or output column of a matrix, is one unit. A vector or scalar
            is then one unit as a whole.

    Returns:
        A tensor that broadcasts against `x`: as many axes, each of length 1
        but for those of the units.

    Raises:
        ValueError: If `axis` does not name axes of `x`, each once.

    Example:

    >>> w = keras.ops.convert_to_tensor([[3.0, 5.0], [4.0, 12.0]])
    >>> print(np.round(keras_nfnet.optimizers.unitwise_norm(w), 4))
    [[ 5. 13.]]

    Reference: arXiv:2102.06171, section 4, eq. 3.
    """
    x = array("x", x)
    norm, _, unscale = _scaled_norm(_wide(x), unit_axes(x.shape, axis))
    return ops.cast(norm * unscale, x.dtype)


def adaptive_clip(
    gradient: Tensor,
    parameter: Tensor,
    clipping: float = 0.01,
    eps: float = 1e-3,
    axis: Axes | None = None,
) -> Tensor:
    """Clips a gradient unit by unit, relative to the parameter's norm.

    A unit whose gradient norm exceeds `clipping * max(‖w‖, eps)` is scaled
    down to that bound; others are returned as they came. A gradient that is
    not finite stays so: the optimizers of this package then skip the step.

    Args:
        gradient: Gradient of the global batch, summed over replicas; a
            tensor of any shape.
        parameter: The parameter, of the same shape.
        clipping: Largest ratio of gradient norm to parameter norm, λ, above
            0.
        eps: Floor of the parameter norm, above 0.
        axis: The axes summed over in one unit, an integer or several.
            `None` for all but the last, which is right for dense layers and
            ordinary convolutions; a vector or scalar is then one unit. For
            a depthwise kernel `(height, width, channels, multiplier)` it is
            `(0, 1)`.

    Returns:
        A tensor like `gradient`.

    Raises:
        ValueError: If the shapes differ, `clipping` or `eps` is not above
            0, or `axis` does not name axes of `parameter`, each once.

    Example:

    >>> w = np.float32([[3], [4]])  # norm 5
    >>> g = np.float32([[30], [40]])  # norm 50
    >>> print(np.round(keras_nfnet.adaptive_clip(g, w), 4))
    [[0.03]
     [0.04]]

    Reference: arXiv:2102.06171, section 4, eq. 3.
    """
    clipping = positive("clipping", clipping)
    eps = positive("eps", eps)
    gradient = array("gradient", gradient)
    parameter = array("parameter", parameter)
    if tuple(gradient.shape) != tuple(parameter.shape):
        raise ValueError(
            "`gradient` and `parameter` must have the same shape. Received: "
            f"gradient of shape {tuple(gradient.shape)}, parameter of shape "
            f"{tuple(parameter.shape)}"
        )
    axis = unit_axes(parameter.shape, axis)
    return clip_units(gradient, parameter, clipping, eps, axis)[0]


def unit_axes(shape, axis=None):
    """The axes summed over in one unit, as a tuple of numbers from 0."""
    rank = len(shape)
    if axis is None:
        return tuple(range(rank if rank < 2 else rank - 1))
    return axes("axis", axis, rank)


def number_of_units(shape, axes):
    """Number of units of a parameter of a shape."""
    return math.prod(
        size for index, size in enumerate(shape) if index not in axes
    )


def clip_units(gradient, parameter, clipping, eps, axes):
    """As `adaptive_clip`, unchecked, with the number of units clipped.

    Returns:
        The clipped gradient, and a float32 scalar.
    """
    wide = _wide(gradient)
    norm, scale, _ = _scaled_norm(wide, axes)
    w_norm, w_scale, w_unscale = _scaled_norm(_wide(parameter), axes)
    bound = clipping * ops.maximum(w_norm, eps * w_scale) * w_unscale
    # 1e-6 guards the division, as in the authors' code.
    factor = bound / ops.maximum(norm, 1e-6 * scale)
    exceeds = norm > bound * scale
    clipped = ops.where(exceeds, wide * scale * factor, wide)
    count = ops.sum(ops.cast(exceeds, "float32"))
    return ops.cast(clipped, gradient.dtype), count


def power_scale(largest):
    """What values of any size are multiplied by, so that squares fit.

    A power of two: to multiply by it and back changes no bit. (A quotient
    would not do: XLA computes `x * (1 / y)`, and `1 / 3e38` is zero there.)

    Args:
        largest: The largest magnitude, a float32 or float64 tensor.

    Returns:
        `(scale, 1 / scale)`, tensors like `largest`; 1 where the values are
        neither large nor small.
    """
    dtype = keras.backend.standardize_dtype(largest.dtype)
    limit, shift = _SCALES[dtype]
    is_large, is_small = largest > 2.0**limit, largest < 2.0**-limit
    up, down, one = (ops.cast(2.0**n, dtype) for n in (shift, -shift, 0))
    scale = ops.where(is_large, down, ops.where(is_small, up, one))
    unscale = ops.where(is_large, up, ops.where(is_small, down, one))
    return scale, unscale


def _wide(x):
    """A tensor in float32, or float64 if it is of that type."""
    is_double = keras.backend.standardize_dtype(x.dtype) == "float64"
    return ops.cast(x, "float64" if is_double else "float32")


def _scaled_norm(x, axes):
    """`(norm * scale, scale, 1 / scale)` of each unit.

    The norm alone may be beyond the range of the type.
    """
    magnitudes = ops.abs(x)
    largest = (
        ops.max(magnitudes, axis=axes, keepdims=True) if axes else magnitudes
    )
    scale, unscale = power_scale(largest)
    if not axes:
        return magnitudes * scale, scale, unscale
    squares = ops.sum(ops.square(x * scale), axis=axes, keepdims=True)
    return ops.sqrt(squares), scale, unscale
