"""Memory for values that are about to be drawn, in large pages.

Most of the time it takes to build half a billion parameters goes into the
first touch of fresh memory, 4 KiB at a time (measured on 2 cores: 6.8 s for
2 GB, and 0.3 s in pages of 2 MiB). Linux gives large pages to those who ask,
and TensorFlow does not ask.
"""

import ctypes
import functools
import math
import mmap

import keras
import numpy as np

_ARENA = 1 << 24  # values cut from one piece of memory: 64 MiB
_ALIGNMENT = 16  # values; TensorFlow copies a slice that starts elsewhere


class FreshMemory:
    """Float32 values to write, and the tensors or arrays that hold them.

    On TensorFlow the values are those of the tensors themselves, so that
    nothing is copied. Tensors are cut from larger pieces of memory: a large
    page cannot hold the end of one piece and the start of the next. A
    variable leaves its piece at its first update.

    Args:
        arena: Values of one piece; 0 to give every tensor its own memory,
            which is right for one draw by itself.
    """

    def __init__(self, arena=_ARENA):
        self._arena = arena
        self._piece = None
        self._used = 0

    def take(self, shape):
        """Takes memory for one tensor.

        Args:
            shape: Tuple of integers.

        Returns:
            A flat, writable NumPy array, and what to give to
            `keras.ops.convert_to_tensor`. Write the array before anyone
            else sees the tensor.
        """
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            if tf.executing_eagerly():
                with tf.device("CPU:0"):
                    return self._take_tensor(tf, shape)
        values = np.empty(shape, np.float32)
        flat = values.reshape(-1)
        _advise_large_pages(flat)
        return flat, values

    def _take_tensor(self, tf, shape):
        size = math.prod(shape)
        if size % _ALIGNMENT or not 0 < size <= self._arena:
            return _empty(tf, shape)
        if self._piece is None or self._used + size > self._arena:
            self._piece = _empty(tf, (self._arena,))
            self._used = 0
        values, tensor = self._piece
        start = self._used
        self._used += size
        cut = tf.reshape(tf.slice(tensor, [start], [size]), shape)
        return values[start : self._used], cut


def _empty(tf, shape):
    tensor = tf.raw_ops.Empty(shape=shape, dtype=tf.float32)
    # The view that TensorFlow gives is read-only, since tensors are taken
    # as constant; this one is not in use yet.
    view = np.asarray(memoryview(tensor))
    values = np.ctypeslib.as_array(
        (ctypes.c_float * view.size).from_address(view.ctypes.data)
    )
    _advise_large_pages(values)
    return values, tensor


def _advise_large_pages(values):
    """Asks for large pages where that is possible; advice, so never fails."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or values.nbytes < 1 << 21:
        return
    start = -(-values.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = values.ctypes.data + values.nbytes
    length = (end - start) // mmap.PAGESIZE * mmap.PAGESIZE
    _madvise()(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


@functools.cache
def _madvise():
    return ctypes.CDLL(None).madvise
