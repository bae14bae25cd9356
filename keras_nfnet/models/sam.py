"""Sharpness-Aware Minimization: the step uphill.

Reference: Foret et al., arXiv:2010.01412.
"""

from keras import ops


def sam_perturbation(gradients, rho):
    """SAM's step uphill, `rho * g / ‖g‖`, over all gradients together.

    Reference: arXiv:2010.01412, eq. 2.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    total = sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in present)
    # 1e-12 guards a gradient of zero, as in the authors' code of SAM.
    factor = rho / (ops.sqrt(total) + 1e-12)
    return [
        None
        if gradient is None
        else gradient * ops.cast(factor, gradient.dtype)
        for gradient in gradients
    ]
