"""Sharpness-Aware Minimization: the step uphill, and on which examples.

Reference: Foret et al., arXiv:2010.01412.
"""

import numpy as np
from keras import ops, tree

from keras_nfnet.optimizers.clipping import power_scale


def uphill(values, gradients, rho):
    """The point `w + rho * g / ‖g‖`, ‖g‖ over all gradients together.

    Args:
        values: The weights w, as tensors.
        gradients: Their gradients g; `None` where there is none.
        rho: SAM's radius.

    Returns:
        A list of tensors like `values`.

    Reference: arXiv:2010.01412, eq. 2.
    """
    full = [None if g is None else ops.cast(g, "float32") for g in gradients]
    present = [g for g in full if g is not None]
    largest = ops.max(ops.stack([ops.max(ops.abs(g)) for g in present]))
    scale, _ = power_scale(largest)
    norm = ops.sqrt(sum(ops.sum(ops.square(g * scale)) for g in present))
    factor = rho / ops.maximum(norm, 1e-30)  # For a gradient of zero.
    return [
        value
        if g is None
        else value + ops.cast(g * scale * factor, value.dtype)
        for value, g in zip(values, full, strict=True)
    ]


def share_of(data, fraction, parts=1):
    """A fraction of the examples of a batch, evenly spread over it.

    Args:
        data: Tensors, in any structure, whose first axis is the batch.
        fraction: The share of the examples, in (0, 1]; rounded, and at
            least one.
        parts: Parts of the batch that lie on devices of their own; each
            gives its share. A batch that they do not divide is one part.

    Returns:
        `data` with a shorter first axis.
    """
    if fraction == 1:
        return data

    def of(x):
        if x is None:  # No targets, or no weights of examples.
            return None
        size = x.shape[0]
        if size is None:
            size = ops.shape(x)[0]
            return ops.take(x, _spread(size, fraction), axis=0)
        count = parts if size % parts == 0 else 1
        # Taken along an axis that is not spread over the devices.
        x = ops.reshape(x, (count, size // count, *x.shape[1:]))
        x = ops.take(x, _spread(size // count, fraction), axis=1)
        return ops.reshape(x, (-1, *x.shape[2:]))

    return tree.map_structure(of, data)


def _spread(size, fraction):
    """Indices of `round(size * fraction)` of `size` examples."""
    if isinstance(size, int):
        count = max(1, round(size * fraction))
        return np.arange(count) * size // count
    count = ops.round(ops.cast(size, "float32") * fraction)
    count = ops.maximum(ops.cast(count, "int32"), 1)
    return ops.arange(count) * size // count
