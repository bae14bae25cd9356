"""Adaptive gradient clipping (AGC) of one tensor.

Reference: arXiv:2102.06171, section 4, eq. 3.
"""

from keras import ops

# Above this sum of magnitudes the squares of float32 may overflow.
_LARGE = 1e18


def unitwise_norm(x):
    """Euclidean norm of each unit of a parameter.

    Args:
        x: A tensor of any shape. A vector or scalar is one unit; else
            each index of the last axis (an output channel of a kernel, an
            output column of a matrix) is one.

    Returns:
        A tensor that broadcasts against `x`: as many axes, each of length 1
        but for that of the units.

    Example:

    >>> w = keras.ops.convert_to_tensor([[3.0, 5.0], [4.0, 12.0]])
    >>> print(np.round(keras_nfnet.optimizers.unitwise_norm(w), 4))
    [[ 5. 13.]]

    Reference: arXiv:2102.06171, section 4, eq. 3.
    """
    axes = None if len(x.shape) < 2 else list(range(len(x.shape) - 1))
    return ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True))


def units_of(shape):
    """Number of units of a parameter of a shape."""
    return 1 if len(shape) < 2 else int(shape[-1])


def adaptive_clip(gradient, parameter, clipping=0.01, eps=1e-3):
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

    Returns:
        A tensor like `gradient`.

    Raises:
        ValueError: If the shapes differ, or `clipping` or `eps` is not
            above 0.

    Example:

    >>> w = np.float32([[3], [4]])  # norm 5
    >>> g = np.float32([[30], [40]])  # norm 50
    >>> print(np.round(keras_nfnet.adaptive_clip(g, w), 4))
    [[0.03]
     [0.04]]

    Reference: arXiv:2102.06171, section 4, eq. 3.
    """
    check_clipping(clipping, eps)
    gradient = ops.convert_to_tensor(gradient)
    parameter = ops.convert_to_tensor(parameter)
    if tuple(gradient.shape) != tuple(parameter.shape):
        raise ValueError(
            "`gradient` and `parameter` must have the same shape. Received: "
            f"gradient of shape {tuple(gradient.shape)}, parameter of shape "
            f"{tuple(parameter.shape)}"
        )
    return clip_units(gradient, parameter, clipping, eps)[0]


def clip_units(gradient, parameter, clipping, eps):
    """As `adaptive_clip`, unchecked, with the number of units clipped.

    Returns:
        The clipped gradient, and a float32 scalar.
    """
    dtype = gradient.dtype
    full = ops.cast(gradient, "float32")
    parameter = ops.cast(parameter, "float32")
    # Dividing by 1 changes nothing; by more, it keeps the squares of an
    # enormous gradient from overflowing.
    total = ops.sum(ops.abs(full))
    scale = ops.where(total > _LARGE, total, ops.ones_like(total))
    norm = unitwise_norm(full / scale) * scale
    bound = clipping * ops.maximum(unitwise_norm(parameter), eps)
    # 1e-6 guards the division, as in the authors' code.
    factor = bound / ops.maximum(norm, 1e-6)
    exceeds = norm > bound
    clipped = ops.where(exceeds, full * factor, full)
    return ops.cast(clipped, dtype), ops.sum(ops.cast(exceeds, "float32"))


def check_clipping(clipping, eps):
    """Refuses bounds that are not numbers above 0."""
    for name, value in (("clipping", clipping), ("eps", eps)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(
                f"`{name}` must be above 0. Received: {name}={value!r}"
            )
