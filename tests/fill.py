"""Parameter values and images made from names alone, for the tests.

The reference figures in `figures/` were computed with exactly these values,
so the rule (generator, order of operations, float32) must not change.
"""

import zlib

import numpy as np


def _normal(key, shape, seed):
    bits = np.random.PCG64([zlib.crc32(key.encode()), seed])
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)


def _scalar(z):
    return np.asarray(0.5 + 0.1 * z, dtype=np.float32)


def haiku_parameter(module, name, shape, seed):
    """A parameter under DeepMind's names; kernels HWIO, matrices IO."""
    z = _normal(f"{module}:{name}", shape, seed)
    if name == "skip_gain":
        return _scalar(z)
    if name == "gain":
        return 1 + np.float32(0.1) * z
    if name in ("b", "bias"):
        return np.float32(0.1) * z
    if name != "w":
        raise KeyError(name)
    deviation = np.float32(np.sqrt(np.prod(shape[:-1])))
    # A mean of 0.25, so that standardization has one to remove.
    return (z + 0.25) / deviation if len(shape) == 4 else z / deviation


def timm_parameter(key, shape, seed):
    """An entry of a timm state dict; kernels OIHW, matrices OI."""
    z = _normal(key, shape, seed)
    if key.endswith("skipinit_gain"):
        return _scalar(z)
    if key.endswith("gain"):
        return 1 + np.float32(0.1) * z
    if key.endswith("bias"):
        return np.float32(0.1) * z
    if len(shape) == 4:
        return (z + 0.25) / np.float32(np.sqrt(np.prod(shape[1:])))
    if len(shape) == 3:  # The one-dimensional convolution of ECA.
        return z
    return z / np.float32(np.sqrt(shape[1]))


def images(height, width, seed, batch=2):
    """Standard-normal images, `(batch, height, width, 3)`."""
    shape = (batch, height, width, 3)
    return _normal(f"image:{height}x{width}", shape, seed)
