"""The layers of a folded network: plain convolutions, no gains.

They hold no standardization and no scale of their own, and every kernel is
a constant of the graph, so that each runtime can run them at full speed.
"""

import mmap

import keras
import numpy as np
from keras import ops

from keras_nfnet.layers.activation import (
    resolve_activation,
    serialize_activation,
)
from keras_nfnet.layers.convolution import convolved_shape
from keras_nfnet.layers.grouped_convolution import WIDE, convolve

HALF = ("float16", "bfloat16")
# Layers that do nothing outside of training: a folded network is without.
ONLY_TRAINING = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if name
    in (
        *("ActivityRegularization", "AlphaDropout", "AugMix", "CutMix"),
        *("Dropout", "GaussianDropout", "GaussianNoise", "MixUp"),
        *("RandAugment", "SpatialDropout1D", "SpatialDropout2D"),
        "SpatialDropout3D",
    )
    or (name.startswith("Random") and name != "RandomCrop")
)


def numpy_value(variable):
    """The values of a variable, also while TensorFlow traces a function.

    On a CPU the array shares the variable's memory, so that an export keeps
    one copy of each value. It must not be written.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.convert_to_numpy(variable)
    import tensorflow as tf

    with tf.init_scope():
        return np.asarray(tf.convert_to_tensor(variable))


def _released_with_it(value):
    """A tensor whose memory is returned to the system with its last reference.

    TensorFlow's allocator keeps its memory. An export deletes the folded
    network before a runtime loads the file, which can then use that memory.
    """
    if keras.backend.backend() != "tensorflow" or not value.size:
        return value
    import tensorflow as tf

    memory = mmap.mmap(-1, value.nbytes)
    array = np.frombuffer(memory, value.dtype).reshape(value.shape)
    array[...] = value
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def copy_state(layer, copy):
    """Copies variables as Keras saves them: each part its own way."""
    theirs, ours = (
        list(part._flatten_layers(include_self=True, recursive=True))
        for part in (layer, copy)
    )
    for part, own in zip(theirs, ours, strict=True):
        store = {}
        part.save_own_variables(store)
        if store:
            own.load_own_variables(store)


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainActivation(keras.layers.Layer):
    """An activation of `ScaledActivation` without its gain.

    Args:
        activation: As for `ScaledActivation`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, activation="gelu", **kwargs):
        super().__init__(**kwargs)
        self.function, _ = resolve_activation(activation)
        self.activation = serialize_activation(activation)
        self.built = True

    def call(self, inputs):
        return self.function(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


def _in_8_bits(kernel):
    """A kernel as 8-bit integers, and what each filter is multiplied by.

    Keeps each filter's sum: the values nearest to the middle of two integers
    are rounded the other way. An error of the sum would shift a whole channel,
    since images have a mean, and pooling would keep that shift. F0's logits
    with random values have a cosine of 0.9996 with the float ones, 0.9947
    without this.

    Args:
        kernel: NumPy array `(..., filters)`.
    """
    axes = tuple(range(kernel.ndim - 1))
    integers, scale = keras.quantizers.abs_max_quantize(
        kernel, axis=axes, to_numpy=True
    )
    integers = np.asarray(integers, "int32")
    rest = np.float64(kernel) * np.float64(scale) - integers
    rest = rest.reshape(-1, kernel.shape[-1])
    missing = np.round(rest.sum(axis=0))
    place = rest.argsort(axis=0).argsort(axis=0)
    up = place >= len(rest) - missing
    down = place < -missing
    integers += (up.astype("int32") - down).reshape(kernel.shape)
    return np.clip(integers, -127, 127).astype("int8"), scale


@keras.saving.register_keras_serializable(package="keras_nfnet")
class PlainConvolution(keras.layers.Layer):
    """A convolution with a kernel per group, so that none is split.

    `quantize("int8")` keeps the kernels as 8-bit integers with a scale for
    each filter, and computes in the compute dtype.

    Narrow groups share a kernel where they run as one convolution, see
    `grouped_convolution.py`.

    Args:
        filters: Output channels.
        kernel_size: A tuple, one entry for each of 1 to 3 axes.
        strides: Likewise.
        padding: `"same"`, `"valid"` or `"symmetric"`.
        groups: Divides input channels and `filters`.
        dilation_rate: As `kernel_size`.
        **kwargs: As for `keras.layers.Layer`.
    """

    FIELDS = ("filters", "kernel_size", "strides", "padding", "groups")
    FIELDS += ("dilation_rate",)

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="same",
        groups=1,
        dilation_rate=(1, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.padding = padding
        self.groups = groups
        self.dilation_rate = tuple(dilation_rate)

    def build(self, input_shape):
        width = input_shape[-1] // self.groups
        parts = self.groups if width >= WIDE else 1
        shape = (*self.kernel_size, width, self.filters // parts)
        self._add_kernels(parts, shape)
        self.bias = self.add_weight(
            name="bias", shape=(self.filters,), initializer="zeros"
        )
        self.built = True

    def _add_kernels(self, parts, shape):
        is_int8 = self.quantization_mode is not None
        options = {"dtype": "int8", "trainable": False} if is_int8 else {}
        # Zeros: values are assigned later, and random ones would cost time.
        self.kernels = [
            self.add_weight(shape, "zeros", name=f"kernel{index}", **options)
            for index in range(parts)
        ]
        options = {"trainable": False, "autocast": False}
        self.scales = [
            self.add_weight(shape[-1:], "ones", name=f"scale{index}", **options)
            for index in range(parts if is_int8 else 0)
        ]

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantizes the kernels, as `keras.layers.Layer.quantize`.

        Activations stay in floating point.

        Args:
            mode: `"int8"`.
            type_check: Ignored.
            config: `None`, or a `keras.quantizers.Int8QuantizationConfig`
                without a quantizer of weights.

        Raises:
            NotImplementedError: On another mode or a quantizer of one's own.
                `keras.Model.quantize` makes it a warning.
        """
        own = getattr(config, "weight_quantizer", None)
        if mode != "int8" or own is not None:
            # `keras.Model.quantize` expects this error of a layer that does
            # not quantize: it warns, and quantizes the others.
            raise NotImplementedError(
                f"The convolution {self.name!r} can be quantized to int8 "
                "alone, with one scale for each filter. Received: "
                f"mode={mode!r}, weight_quantizer={own!r}"
            )
        values = [_in_8_bits(numpy_value(kernel)) for kernel in self.kernels]
        shape = self.kernels[0].shape
        for kernel in self.kernels:
            self._untrack_variable(kernel)
        self._is_quantized = True  # As Keras's own layers say it.
        self.dtype_policy = keras.dtype_policies.get(
            f"int8_from_{self.dtype_policy.name}"
        )
        self._add_kernels(len(values), shape)
        for kernel, scale, (value, factor) in zip(
            self.kernels, self.scales, values, strict=True
        ):
            kernel.assign(value)
            scale.assign(ops.reshape(factor, scale.shape))

    def quantized_call(self, *args, **kwargs):
        return self.call(*args, **kwargs)

    def _kernel_values(self):
        """The kernels in the compute dtype."""
        kernels = [ops.cast(k, self.compute_dtype) for k in self.kernels]
        if not self.scales:
            return kernels
        return [
            kernel / ops.cast(scale, self.compute_dtype)
            for kernel, scale in zip(kernels, self.scales, strict=True)
        ]

    def set_values(self, kernel, bias):
        """Assigns a kernel `(..., channels // groups, filters)` and a bias."""
        parts = np.split(kernel, len(self.kernels), axis=-1)
        for variable, part in zip(self.kernels, parts, strict=True):
            variable.assign(_released_with_it(part))
        self.bias.assign(bias)

    def values(self):
        """The kernel and the bias of all groups, as NumPy arrays."""
        kernels = list(map(numpy_value, self.kernels))
        if self.scales:
            kernels = [
                kernel.astype("float32") / numpy_value(scale)
                for kernel, scale in zip(kernels, self.scales, strict=True)
            ]
        kernel = kernels[0]
        if len(kernels) > 1:
            kernel = np.concatenate(kernels, axis=-1)
        return kernel, numpy_value(self.bias)

    def call(self, inputs):
        parts = len(self.kernels)
        options = self.strides, self.padding, self.groups // parts
        images = ops.split(inputs, parts, axis=-1) if parts > 1 else [inputs]
        outputs = [
            convolve(part, kernel, *options, self.dilation_rate)
            for part, kernel in zip(images, self._kernel_values(), strict=True)
        ]
        if parts > 1:
            outputs = [ops.concatenate(outputs, axis=-1)]
        return outputs[0] + ops.cast(self.bias, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return convolved_shape(self, input_shape)

    def get_config(self):
        own = {name: getattr(self, name) for name in self.FIELDS}
        return {**super().get_config(), **own}
