"""Adaptive gradient clipping (AGC), of one tensor and of many.

Reference: arXiv:2102.06171, section 4, eq. 3.
"""

import itertools
import math

import keras
from keras import ops

from keras_nfnet.utils.arguments import array, axes, positive
from keras_nfnet.utils.types import Axes, Tensor

# By type: beyond 2**±limit values are scaled by 2**∓shift before they are
# squared. The sum of 2**32 squares then stays within the type's range.
_SCALES = {"float32": (46, 80), "float64": (400, 700)}
# Bounds of a unit's norm beside which squares that underflow are nothing.
_SMALLEST_BOUND = 1e-10


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
    wide, axes = _wide([x]), [unit_axes(x.shape, axis)]
    norm, _, unscale = _norms(wide, axes, 0)
    norm = ops.reshape(norm * unscale, *_unit_shapes(wide, axes))
    return ops.cast(norm, x.dtype)


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
    wide, axes = _wide([gradient, parameter]), [axes]
    norms = [_norms([x], axes, clipping * eps) for x in wide]
    scale, factors, exceeds = _factors(norms, clipping, eps)
    # A unit that is not finite stays so.
    (is_finite,) = _split(ops.isfinite(norms[0][0]), wide[:1], axes)
    (scaled,) = _times(wide[:1], scale, axes)
    scaled = ops.where(is_finite, scaled, wide[0])
    (clipped,) = _times([scaled], factors, axes)
    count = ops.sum(ops.cast(exceeds, "float32"))
    return ops.cast(clipped, gradient.dtype), count


def clip_all(gradients, parameters, clipping, eps, axes, usable=True):
    """Clips many gradients, in as few passes over the values as can be.

    Args:
        gradients: A list of tensors.
        parameters: A list of tensors of the same shapes.
        clipping: As for `adaptive_clip`.
        eps: As for `adaptive_clip`.
        axes: A list of tuples, as from `unit_axes`.
        usable: Whether the gradients that are not clipped can be used.

    Returns:
        The clipped gradients, all 0 if one cannot be used; the numbers of
        units clipped, float32 scalars, NaN if one cannot be used; and
        whether all are usable, a boolean tensor: each is finite.
    """
    usable = ops.convert_to_tensor(usable, "bool")
    if not gradients:
        return [], [], usable
    wide = _wide([*gradients, *parameters])
    groups = _alike([x.shape for x in gradients], axes)
    units = [
        number_of_units(gradients[index].shape, axes[index])
        for index in itertools.chain(*groups)
    ]
    wide, parameters = (
        [_stacked(values, group) for group in groups]
        for values in (wide[: len(gradients)], wide[len(gradients) :])
    )
    axes = [
        tuple(axis + (len(group) > 1) for axis in axes[group[0]])
        for group in groups
    ]
    squares = _sums_of_squares(wide, axes)
    w_squares = _sums_of_squares(parameters, axes)

    def plain():
        norms = [(ops.sqrt(x), 1.0, 1.0) for x in (squares, w_squares)]
        _, factors, exceeds = _factors(norms, clipping, eps)
        factors = _where(usable, factors, 0)
        return _times(wide, factors, axes), exceeds, usable

    def scaled():
        norms = [
            _norms(wide, axes, clipping * eps, squares),
            _norms(parameters, axes, clipping * eps, w_squares),
        ]
        scale, factors, exceeds = _factors(norms, clipping, eps)
        finite = ops.all(ops.isfinite(norms[0][0]))
        finite = ops.logical_and(finite, usable)
        # Chosen between the two products: of two factors in a row TensorFlow
        # makes one, which would be zero here.
        within = [_where(finite, x, 0) for x in _times(wide, scale, axes)]
        return _times(within, factors, axes), exceeds, finite

    # A NaN, an infinity or an overflow of any of them is in the sum.
    fits = ops.isfinite(ops.sum(squares) + ops.sum(w_squares))
    if clipping * eps < _SMALLEST_BOUND:
        clipped, exceeds, finite = scaled()
    else:
        clipped, exceeds, finite = ops.cond(fits, plain, _apart(scaled))
    counts = _where(finite, _counts(exceeds, units), float("nan"))
    parts = itertools.chain(*map(_unstacked, clipped, groups))
    order = itertools.chain(*groups)
    found = dict(
        zip(order, zip(parts, ops.unstack(counts), strict=True), strict=True)
    )
    clipped = [
        ops.cast(found[index][0], gradient.dtype)
        for index, gradient in enumerate(gradients)
    ]
    return clipped, [found[index][1] for index in range(len(found))], finite


def _alike(shapes, axes):
    """Indices of tensors in groups: vectors and scalars of one shape.

    There are many of them, and a graph needs as many operations for one of
    them as for a group. Others are alone, since to stack is to copy.
    """
    groups = {}
    for index, (shape, axis) in enumerate(zip(shapes, axes, strict=True)):
        key = (tuple(shape), axis) if len(shape) < 2 else index
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _stacked(values, group):
    """The values of a group in one tensor."""
    if len(group) == 1:
        return values[group[0]]
    return ops.stack([values[index] for index in group])


def _unstacked(value, group):
    return [value] if len(group) == 1 else ops.unstack(value, len(group))


def _apart(function):
    """Keeps a branch that is hardly ever taken out of TensorFlow's graph.

    The time of its graph optimizer grows faster than the graph. A function
    that is not inlined is optimized by itself.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    if tf.executing_eagerly():
        return function
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


# What has a value for each unit of each of some tensors is one vector here.


def _factors(norms, clipping, eps):
    """What units are multiplied by, first and then; and which exceed."""
    (norm, scale, _), (w_norm, w_scale, w_unscale) = norms
    bound = clipping * ops.maximum(w_norm, eps * w_scale) * w_unscale
    # 1e-6 guards the division, as in the authors' code.
    factor = bound / ops.maximum(norm, 1e-6 * scale)
    exceeds = norm > bound * scale
    if not isinstance(scale, float):
        scale = _where(exceeds, scale, 1)
    return scale, _where(exceeds, factor, 1), exceeds


def _counts(exceeds, units):
    """How many of the first units exceed, of the next, …: a float32 vector.

    Args:
        exceeds: A boolean vector.
        units: Integers; their sum is its length.
    """
    # Exact up to 2**24 units.
    counted = ops.cumsum(ops.cast(exceeds, "float32"))
    counted = ops.take(counted, [n - 1 for n in itertools.accumulate(units)])
    return counted - ops.concatenate([ops.zeros((1,)), counted[:-1]])


def _norms(values, axes, bound, squares=None):
    """Norms of values of any size.

    Args:
        values: A list of tensors of one type, float32 or float64.
        axes: A list of tuples.
        bound: A norm from `_SMALLEST_BOUND` on, beside which smaller ones
            need not be exact; or any other number.
        squares: Their sums of squares, where they are known.

    Returns:
        `(norm * scale, scale, 1 / scale)`, each a vector: a norm alone may
        be beyond the range of the type. The scales are powers of two: to
        multiply by one and back changes no bit.
    """
    dtype = keras.backend.standardize_dtype(values[0].dtype)
    limit, shift = _SCALES[dtype]
    if squares is None:
        squares = _sums_of_squares(values, axes)
    norm, scale, unscale = ops.sqrt(squares), 1.0, 1.0
    ranges = [(ops.logical_not(squares < 2.0 ** (2 * limit)), -shift)]
    if bound < _SMALLEST_BOUND:
        ranges.append((squares < 2.0 ** (-2 * limit), shift))
    for is_beyond, power in ranges:
        factor = ops.cast(2.0**power, dtype)
        others = _sums_of_squares([x * factor for x in values], axes)
        norm = ops.where(is_beyond, ops.sqrt(others), norm)
        scale = ops.where(is_beyond, factor, ops.cast(scale, dtype))
        factor = ops.cast(2.0**-power, dtype)
        unscale = ops.where(is_beyond, factor, ops.cast(unscale, dtype))
    return norm, scale, unscale


# Each reshape that is not needed is two operations less for each variable,
# in each branch of the step.


def _sums_of_squares(values, axes):
    sums = []
    for x, axis in zip(values, axes, strict=True):
        x = ops.square(x)
        if axis:
            x = ops.sum(x, axis=axis, keepdims=len(axis) == len(x.shape))
        sums.append(x if len(x.shape) == 1 else ops.reshape(x, (-1,)))
    return ops.concatenate(sums)


def _unit_shapes(values, axes):
    return [
        [1 if index in axis else size for index, size in enumerate(x.shape)]
        for x, axis in zip(values, axes, strict=True)
    ]


def _split(vector, values, axes):
    """The vector in parts that broadcast against the values."""
    shapes = _unit_shapes(values, axes)
    ends = list(itertools.accumulate(map(math.prod, shapes)))[:-1]
    parts = ops.split(vector, ends) if ends else [vector]
    return [
        part
        if shape and max(shape[:-1], default=1) == 1
        # Of the last axis it broadcasts as it is.
        else ops.reshape(part, shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]


def _times(values, vector, axes):
    factors = _split(vector, values, axes)
    return [x * factor for x, factor in zip(values, factors, strict=True)]


def _where(condition, x, otherwise):
    return ops.where(condition, x, ops.cast(otherwise, x.dtype))


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


def _wide(tensors):
    """Tensors in float32, or all in float64 if one is."""
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in tensors}
    dtype = "float64" if "float64" in dtypes else "float32"
    return [ops.cast(x, dtype) for x in tensors]
