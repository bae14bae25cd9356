"""Adaptive gradient clipping (AGC) of one tensor.

Reference: arXiv:2102.06171, section 3, eq. 3.
"""

from keras import ops


def unitwise_norm(x):
    """Euclidean norm of each unit of a parameter, in float32 at least.

    Args:
        x: A tensor. A vector or scalar is one unit; of any other shape,
            each index of the last axis (an output channel of a kernel, an
            output column of a matrix) is one.

    Returns:
        A tensor that broadcasts against `x`.
    """
    axes = None if len(x.shape) < 2 else list(range(len(x.shape) - 1))
    return ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True))


def adaptive_clip(gradient, parameter, clipping=0.01, eps=1e-3):
    """Clips a gradient unit by unit, relative to the parameter's norm.

    A unit whose gradient norm exceeds `clipping * max(‖w‖, eps)` is scaled
    down to that bound; others are returned as they came.

    Args:
        gradient: Gradient of the whole batch, summed over replicas.
        parameter: The parameter, of the same shape.
        clipping: Largest ratio of gradient norm to parameter norm, λ.
        eps: Floor of the parameter norm.

    Returns:
        A tensor like `gradient`.

    Raises:
        ValueError: If the shapes differ, or `clipping` or `eps` is not
            above 0.

    Example:

    >>> w, g = keras.ops.ones((3, 2)), keras.ops.ones((3, 2))
    >>> round(float(adaptive_clip(g, w)[0, 0]), 4)
    0.01

    Reference: arXiv:2102.06171, section 3, eq. 3.
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
    dtype = gradient.dtype
    full = ops.cast(gradient, "float32")
    parameter = ops.cast(parameter, "float32")
    norm = unitwise_norm(full)
    bound = clipping * ops.maximum(unitwise_norm(parameter), eps)
    # 1e-6 guards the division, as in the authors' code.
    clipped = full * (bound / ops.maximum(norm, 1e-6))
    return ops.cast(ops.where(norm > bound, clipped, full), dtype)


def check_clipping(clipping, eps):
    """Refuses bounds that are not numbers above 0."""
    for name, value in (("clipping", clipping), ("eps", eps)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(
                f"`{name}` must be above 0. Received: {name}={value!r}"
            )
