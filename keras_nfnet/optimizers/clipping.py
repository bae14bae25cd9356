"""Adaptive gradient clipping (AGC) of one tensor.

Reference: arXiv:2102.06171, section 4, eq. 3.
"""

import math
import numbers
from collections.abc import Iterable

from keras import ops

from keras_nfnet.optimizers.arguments import positive

# The squares of what is below, summed over a unit of 1e10 values, stay
# within float32.
_LARGE = 1e14


def unitwise_norm(x, axis=None):
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
    x = ops.convert_to_tensor(x)
    scale, norm = _scaled_norm(x, unit_axes(x.shape, axis))
    return scale * norm


def adaptive_clip(gradient, parameter, clipping=0.01, eps=1e-3, axis=None):
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
    gradient = ops.convert_to_tensor(gradient)
    parameter = ops.convert_to_tensor(parameter)
    if tuple(gradient.shape) != tuple(parameter.shape):
        raise ValueError(
            "`gradient` and `parameter` must have the same shape. Received: "
            f"gradient of shape {tuple(gradient.shape)}, parameter of shape "
            f"{tuple(parameter.shape)}"
        )
    axes = unit_axes(parameter.shape, axis)
    return clip_units(gradient, parameter, clipping, eps, axes)[0]


def unit_axes(shape, axis=None):
    """The axes summed over in one unit, as a tuple of numbers from 0."""
    rank = len(shape)
    if axis is None:
        return tuple(range(rank if rank < 2 else rank - 1))
    entries = list(axis) if isinstance(axis, Iterable) else [axis]
    if all(_is_integer(entry) and -rank <= entry < rank for entry in entries):
        axes = tuple(sorted(int(entry) % rank for entry in entries))
        if len(set(axes)) == len(axes):
            return axes
    raise ValueError(
        f"`axis` must name axes of a tensor of shape {tuple(shape)}, each "
        f"once, or be `None`. Received: axis={axis!r}"
    )


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


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
    dtype = gradient.dtype
    full = ops.cast(gradient, "float32")
    scale, norm = _scaled_norm(full, axes)
    w_scale, w_norm = _scaled_norm(ops.cast(parameter, "float32"), axes)
    bound = clipping * ops.maximum(w_scale * w_norm, eps)
    # 1e-6 guards the division, as in the authors' code.
    factor = bound / ops.maximum(norm, 1e-6)
    exceeds = scale * norm > bound
    clipped = ops.where(exceeds, full / scale * factor, full)
    return ops.cast(clipped, dtype), ops.sum(ops.cast(exceeds, "float32"))


def _scaled_norm(x, axes):
    """`(scale, norm)` of each unit, whose product is the Euclidean norm.

    The scale is 1, or the largest magnitude in a unit whose squares would
    overflow. Dividing by 1 changes no bit.
    """
    if not axes:
        return ops.ones_like(x), ops.abs(x)
    largest = ops.max(ops.abs(x), axis=axes, keepdims=True)
    scale = ops.where(largest > _LARGE, largest, ops.ones_like(largest))
    squares = ops.square(x / scale)
    return scale, ops.sqrt(ops.sum(squares, axis=axes, keepdims=True))
