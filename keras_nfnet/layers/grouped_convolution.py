"""The one place that chooses how a grouped convolution runs.

Keras lowers every grouped convolution on the TensorFlow backend to a nested
function compiled with XLA. That makes a training step on CPU four times
slower, cannot be read by ONNX, and compiles in the server that loads an
exported SavedModel. So this module chooses by backend and device:

- PyTorch: its own convolution, of tensors whose axes alone are in another
  order. Keras copies images and kernels to channels first, and then back.
- GPU and TPU: the device's own grouped convolution.
- CPU: one ordinary convolution per group where the groups are wide enough
  that each runs at full speed, as an NFNet's are. Narrow groups share one,
  whose kernel has zeros between them: XLA takes 0.02 s for the gradients of
  48 groups of 8 channels in blocks of 64, as for the groups one by one, but
  1.4 s to compile it, not 20; in its own grouped convolution they take 6 s
  (16×16 pixels, batch 8). TensorFlow runs narrow
  groups, such as the 8 channels of an NF-RegNet, faster by its own grouped
  convolution (measured at 16×16 pixels and 384 channels: 1.8 ms against
  8.3 ms, and 7.0 against 25 for the gradients), where it has gradients: on
  processors without AVX-512 its oneDNN kernels are off, and the others know
  the forward pass only. Exports take the forward pass as it is
  (`portable_convolutions`), because every runtime can run it.
"""

import contextlib
import contextvars
import functools
import math

import keras
from keras import ops

# Channels of a group from which a convolution of its own is faster on CPU.
WIDE = 32
# Channels of the convolution that narrower groups share.
BLOCK = 64
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
    """A channels-last convolution of 1 to 3 axes, grouped or not.

    Args:
        inputs: Such as images `(batch, height, width, channels)`.
        kernel: `(height, width, channels // groups, filters)`.
        strides: One integer or a pair.
        padding: `"same"`, `"valid"` or, of images, `"symmetric"`.
        groups: Number of groups; divides channels and filters.
        dilation_rate: One integer or a pair.

    Returns:
        `(batch, new_height, new_width, filters)`.
    """
    if padding == "symmetric":
        inputs, padding = padded(inputs, kernel.shape, strides, dilation_rate)
    options = {
        "strides": strides,
        "padding": padding,
        "data_format": "channels_last",
        "dilation_rate": dilation_rate,
    }
    if keras.backend.backend() == "torch":
        return _torch_convolution(inputs, kernel, groups, options)
    if groups == 1:
        return ops.conv(inputs, kernel, **options)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if _native(inputs.shape[-1] // groups, len(inputs.shape) - 2, dtype):
        return _native_convolution(inputs, kernel, options)
    kernel, groups = _in_blocks(kernel, groups)
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


def _in_blocks(kernel, groups):
    """A kernel in which neighbours of narrow groups are one, and its groups.

    NOTE: an infinite value makes those of the groups in its block NaN.
    """
    *sides, width, filters = kernel.shape
    size = 1
    if width < WIDE:
        fitting = range(1, BLOCK // width + 1)
        size = max(n for n in fitting if groups % n == 0)
    if size == 1:
        return kernel, groups
    # With rows one group longer than those of the result, each row begins one
    # group further on. The product with ones and zeros would give the same,
    # but XLA's gradient of it crashes on CPU for two groups (jaxlib 0.10.2).
    groups //= size
    shape = (-1, width, groups, size, filters // groups // size)
    kernel = ops.transpose(ops.reshape(kernel, shape), (3, 0, 1, 2, 4))
    _, *group = kernel.shape
    values = math.prod(kernel.shape)
    rows = ops.pad(ops.reshape(kernel, (size, -1)), [(0, 0), (0, values)])
    blocks = ops.reshape(rows, (-1,))[: size * values]
    blocks = ops.reshape(blocks, (size, size, *group))
    blocks = ops.transpose(blocks, (2, 0, 3, 4, 1, 5))
    return ops.reshape(blocks, (*sides, size * width, filters)), groups


def symmetric_padding(side, dilation_rate=1):
    """Pixels on each side of an image, for one side of a kernel."""
    return (side - 1) * dilation_rate // 2


def padded(inputs, kernel_shape, strides, dilation_rate):
    """Images for a symmetric convolution, and the padding that is left."""
    dilations = (
        dilation_rate
        if isinstance(dilation_rate, tuple)
        else (dilation_rate,) * 2
    )
    pads = [
        symmetric_padding(side, dilation)
        for side, dilation in zip(kernel_shape[:2], dilations, strict=True)
    ]
    odd = all(side % 2 for side in kernel_shape[:2])
    if odd and strides in (1, (1, 1)):
        return inputs, "same"  # The same, without a copy.
    if any(pads):
        inputs = ops.pad(inputs, [(0, 0), *((p, p) for p in pads), (0, 0)])
    return inputs, "valid"


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
        data_format={3: "NWC", 4: "NHWC", 5: "NDHWC"}[len(inputs.shape)],
        dilations=options["dilation_rate"],
    )


def _torch_convolution(inputs, kernel, groups, options):
    from torch.nn import functional

    rank = len(inputs.shape) - 2
    strides, dilations = (
        value if isinstance(value, tuple) else (value,) * rank
        for value in (options["strides"], options["dilation_rate"])
    )
    inputs, kernel = map(ops.convert_to_tensor, (inputs, kernel))
    images = inputs.movedim(-1, 1)
    padding = (0,) * rank
    if options["padding"] == "same":
        totals = [
            max((-(-side // s) - 1) * s + (k - 1) * d + 1 - side, 0)
            for side, k, s, d in zip(
                images.shape[2:],
                kernel.shape[:rank],
                strides,
                dilations,
                strict=True,
            )
        ]
        padding = tuple(total // 2 for total in totals)
        if any(total % 2 for total in totals):
            pads = [side for t in totals[::-1] for side in (t // 2, t - t // 2)]
            images, padding = functional.pad(images, pads), (0,) * rank
    convolution = getattr(functional, f"conv{rank}d")
    outputs = convolution(
        images,
        kernel.movedim((-1, -2), (0, 1)),
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=groups,
    )
    return outputs.movedim(1, -1)


def _native(width, axes, dtype):
    """Whether the device has a faster kernel for groups of this width."""
    backend = keras.backend.backend()
    is_narrow = width < WIDE
    if backend == "tensorflow":
        # On CPU it has no such gradient in float16, and none of volumes.
        is_narrow &= dtype in ("float32", "bfloat16") and axes < 3
    if _PORTABLE.get():
        return is_narrow
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU") or (
            tf.config.list_logical_devices("TPU")
        ):
            return True
        return is_narrow and _has_gradients(dtype)
    return True


@functools.cache
def _has_gradients(dtype):
    """Whether TensorFlow differentiates grouped convolutions on this CPU."""
    import tensorflow as tf

    options = {"strides": [1, 1, 1, 1], "padding": "SAME"}
    # Not by a tape: within init_scope none records.
    with tf.init_scope(), tf.device("CPU"):
        images = tf.ones((1, 3, 3, 4), dtype)
        kernel = tf.ones((3, 3, 2, 4), dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=images.shape,
                filter=kernel,
                out_backprop=images,
                **options,
            )
            tf.raw_ops.Conv2DBackpropFilter(
                input=images,
                filter_sizes=kernel.shape,
                out_backprop=images,
                **options,
            )
        except tf.errors.OpError:  # What was to be found out.
            return False
    return True
