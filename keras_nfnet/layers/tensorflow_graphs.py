"""Operations for graphs of TensorFlow, with gradients written by hand.

A gradient that TensorFlow derives goes over all values once more for each
operation. And `tf.custom_gradient` keeps the graph that it is called in: the
whole step, for each model that is trained. So each operation is a function
with a graph of its own, which may be kept for good.
"""

import functools

import keras

# As in `tf.nn.gelu`: sqrt(2 / pi), and the factor of the cubic term.
_ROOT, _CUBIC = 0.7978845608028654, 0.044715


def takes(x):
    """Whether a value is a tensor of a graph that TensorFlow traces."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(x, tf.Tensor) and not tf.executing_eagerly()


def silu(x, factor=1.0):
    """SiLU times a constant factor."""
    return _called(_silu, x, factor)


def gelu(x, factor):
    """GELU's tanh form times a constant factor."""
    return _called(_gelu, x, factor)


def standardize(kernel, gain, fan_in, eps, eps_mode, axes):
    """What `keras_nfnet.layers.standardize` computes.

    Args:
        kernel: A tensor.
        gain: Of the kernel's dtype and rank, of size 1 along `axes`.
        fan_in: Number of values in a unit.
        eps: As there.
        eps_mode: As there.
        axes: The axes summed over in one unit.
    """
    import tensorflow as tf

    is_added = eps_mode == "add"
    floor = eps * fan_in if is_added else eps
    # Else the shape of the gradient would not be known, which a function for
    # tensors of any shape returns.
    kernel = tf.reshape(kernel, kernel.shape)
    return _called(
        _standardize, kernel, gain, 1 / fan_in, floor, (axes, is_added)
    )


def _called(make, *arguments):
    """Calls the function of one operation on tensors, with its own graph.

    Args:
        make: Function that returns the function of tensors.
        *arguments: Tensors and numbers, and at last a tuple for `make`.
            The result has the first tensor's shape.
    """
    import tensorflow as tf

    options = ()
    if isinstance(arguments[-1], tuple):
        *arguments, options = arguments
    first = arguments[0]
    function = _function(make, first.dtype, len(arguments), options)
    arguments = [tf.convert_to_tensor(x, first.dtype) for x in arguments]
    outputs = function(*arguments)
    outputs.set_shape(first.shape)
    return outputs


@functools.cache
def _function(make, dtype, count, options):
    import tensorflow as tf

    signature = [tf.TensorSpec(None, dtype)] * count
    return tf.function(make(*options), signature, autograph=False)


def _silu():
    import tensorflow as tf

    @tf.custom_gradient
    def silu(x, factor):
        def gradient(upstream):
            # Computed anew, as `tf.nn.silu` does: it need not be kept.
            with tf.control_dependencies([upstream]):
                gate = tf.sigmoid(x)
            return upstream * (gate * factor * (1 + x * (1 - gate))), None

        return x * (tf.sigmoid(x) * factor), gradient

    return silu


def _gelu():
    import tensorflow as tf

    @tf.custom_gradient
    def gelu(x, factor):
        # Python's numbers take the tensor's dtype.
        half = 0.5 * factor
        squares = (_ROOT * _CUBIC) * (x * x)
        tanh = tf.tanh(x * (_ROOT + squares))
        gate = 1 + tanh

        def gradient(upstream):
            inner = x * (_ROOT + 3 * squares)
            slope = half * (gate + inner * (1 - tanh * tanh))
            return upstream * slope, None

        return x * (half * gate), gradient

    return gelu


def _standardize(axes, is_added):
    import tensorflow as tf

    @tf.custom_gradient
    def standardize(kernel, gain, share, floor):
        total = tf.reduce_sum(kernel, axes, keepdims=True)
        centred = kernel - total * share
        squares = tf.reduce_sum(centred * centred, axes, keepdims=True)
        if is_added:
            inverse = tf.math.rsqrt(squares + floor)
        else:
            inverse = tf.math.rsqrt(tf.maximum(squares, floor))
        scale = inverse * gain

        def gradient(upstream):
            product = tf.reduce_sum(upstream * centred, axes, keepdims=True)
            along = product * (inverse * inverse)
            if not is_added:
                along = tf.where(squares < floor, tf.zeros_like(along), along)
            mean = tf.reduce_sum(upstream, axes, keepdims=True) * share
            by_kernel = (upstream - mean - centred * along) * scale
            return by_kernel, product * inverse, None, None

        return centred * scale, gradient

    return standardize
