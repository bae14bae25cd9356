"""The one place that chooses how a grouped convolution runs.

Keras lowers every grouped convolution on the TensorFlow backend to a nested
function compiled with XLA. That makes a training step on CPU four times
slower, cannot be read by ONNX, and compiles in the server that loads an
exported SavedModel. So this module chooses by backend and device:

- GPU and TPU: the device's own grouped convolution.
- CPU: one ordinary convolution per group; the groups of an NFNet are wide
  enough that each runs at full speed. Exports take this form too
  (`portable_convolutions`), because every runtime can run it.
"""

import contextlib
import contextvars

import keras
from keras import ops

_PORTABLE = contextvars.ContextVar("portable_convolutions", default=False)


@contextlib.contextmanager
def portable_convolutions():
    """What is traced inside runs on any device, whatever this machine has."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def convolve(inputs, kernel, strides, padding, groups, dilation_rate=1):
    """A 2D convolution of channels-last images, grouped or not.

    Args:
        inputs: `(batch, height, width, channels)`.
        kernel: `(height, width, channels // groups, filters)`.
        strides: One integer or a pair.
        padding: `"same"` or `"valid"`.
        groups: Number of groups; divides channels and filters.
        dilation_rate: One integer or a pair.

    Returns:
        `(batch, new_height, new_width, filters)`.
    """
    options = {
        "strides": strides,
        "padding": padding,
        "data_format": "channels_last",
        "dilation_rate": dilation_rate,
    }
    if groups == 1:
        return ops.conv(inputs, kernel, **options)
    if _native():
        return _native_convolution(inputs, kernel, options)
    # ops.conv accepts kernels whose group count follows from the shapes, so
    # each part must really have its own channels: split both.
    parts = zip(
        ops.split(inputs, groups, axis=-1),
        ops.split(kernel, groups, axis=-1),
        strict=True,
    )
    return ops.concatenate(
        [ops.conv(part, filters, **options) for part, filters in parts],
        axis=-1,
    )


def _native_convolution(inputs, kernel, options):
    if keras.backend.backend() != "tensorflow":
        return ops.conv(inputs, kernel, **options)
    # tf.nn.convolution reads the groups from the shapes and, unlike
    # keras.ops.conv, does not wrap them in a compiled function.
    import tensorflow as tf

    return tf.nn.convolution(
        inputs,
        kernel,
        options["strides"],
        options["padding"].upper(),
        data_format="NHWC",
        dilations=options["dilation_rate"],
    )


def _native():
    """Whether the device that will run this has a fast grouped kernel."""
    if _PORTABLE.get():
        return False
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(
            tf.config.list_logical_devices("GPU")
            or tf.config.list_logical_devices("TPU")
        )
    return True
