"""Random initial values, drawn by NumPy on all cores.

Keras's own initializers spend, for half a billion parameters, most of the
time a model takes to build in single-use tensors, and hold two of them at a
time. Here values are drawn where the variable keeps them.
"""

import contextvars
import functools
import os
import random
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_nfnet.layers.fresh_memory import FreshMemory

_CHUNK = 1 << 18  # values drawn by one generator; fixes the result

_BACKGROUND = contextvars.ContextVar("background_draws", default=None)


def _draw(part, seed, stddev, truncated):
    generator = np.random.Generator(np.random.SFC64(seed))
    generator.standard_normal(dtype=np.float32, out=part)
    if truncated:
        (outside,) = np.nonzero(np.abs(part) > 2)
        while len(outside):
            part[outside] = generator.standard_normal(
                len(outside), dtype=np.float32
            )
            outside = outside[np.abs(part[outside]) > 2]
    part *= stddev


class _Background:
    """Draws that go on while the model is being built."""

    def __init__(self, pool):
        self.memory = FreshMemory()
        self._pool = pool
        self._futures = []
        self._tensors = []

    def draw(self, chunks, tensor):
        self._futures += [self._pool.submit(chunk) for chunk in chunks]
        self._tensors.append(tensor)

    def finish(self, variables):
        """Waits; returns whether the variables hold what was drawn.

        They do where TensorFlow gives a variable the memory of the tensor
        it starts from, and do not where it copies, for then it copied too
        early.
        """
        for future in self._futures:
            future.result()
        if not self._tensors:
            return True
        held = {_address(variable.value.read_value()) for variable in variables}
        return all(_address(tensor) in held for tensor in self._tensors)


def _address(tensor):
    return np.asarray(memoryview(tensor)).ctypes.data


def built_while_drawing(build):
    """Builds a model, with its initial values drawn on other threads.

    Building a large model is half Python and half drawing.

    Args:
        build: Function without arguments that returns a Keras model. It is
            called once more, without other threads, should TensorFlow have
            copied values that were not drawn yet.

    Returns:
        The model.
    """
    if not _can_draw_in_background():
        return build()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        background = _Background(pool)
        token = _BACKGROUND.set(background)
        try:
            model = build()
        finally:
            _BACKGROUND.reset(token)
        if background.finish(model.variables):
            return model
    return build()


def _can_draw_in_background():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return (
        tf.executing_eagerly()
        and not tf.distribute.has_strategy()
        and len(tf.config.list_logical_devices()) == 1
    )


@keras.saving.register_keras_serializable(package="keras_nfnet")
class ScaledNormal(keras.initializers.Initializer):
    """A normal distribution of variance `stddev**2`, or of 1 / fan-in.

    Args:
        stddev: Standard deviation, or `None` for 1/sqrt(fan-in), where the
            fan-in is the product of all sides of the shape but the last.
        truncated: Whether to redraw values beyond two standard deviations.
            As in haiku's `TruncatedNormal`, `stddev` is that before
            truncation.
        seed: Integer, or `None` for a new one from Python's generator,
            which `keras.utils.set_random_seed` seeds.

    Raises:
        ValueError: If `stddev` is negative.

    Example:

    >>> ScaledNormal(seed=0)((3, 3, 16, 32)).shape
    TensorShape([3, 3, 16, 32])
    """

    def __init__(self, stddev=None, truncated=False, seed=None):
        if stddev is not None and not stddev >= 0:
            raise ValueError(
                f"`stddev` must not be negative. Received: stddev={stddev!r}"
            )
        self.stddev = stddev
        self.truncated = truncated
        self.seed = seed
        self._drawn_seed = random.randint(1, 10**9) if seed is None else seed

    def __call__(self, shape, dtype=None):
        dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
        stddev = self.stddev
        if stddev is None:
            stddev = max(1, int(np.prod(shape[:-1]))) ** -0.5
        background = _BACKGROUND.get()
        # By itself, one draw must not hold a piece of 64 MiB.
        memory = FreshMemory(0) if background is None else background.memory
        values, tensor = memory.take(tuple(shape))
        chunks = [
            functools.partial(
                _draw,
                values[start : start + _CHUNK],
                (self._drawn_seed, start),
                np.float32(stddev),
                self.truncated,
            )
            for start in range(0, len(values), _CHUNK)
        ]
        if background is not None and dtype == "float32":
            background.draw(chunks, tensor)
        elif len(chunks) > 1:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda chunk: chunk(), chunks))
        else:
            for chunk in chunks:
                chunk()
        return keras.ops.convert_to_tensor(tensor, dtype)

    def get_config(self):
        return {
            "stddev": self.stddev,
            "truncated": self.truncated,
            "seed": self.seed,
        }
