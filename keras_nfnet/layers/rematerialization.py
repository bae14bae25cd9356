"""What `keras.RematScope` does with the layers of this package.

Keras hands a layer's whole `call` to `keras.remat`. On TensorFlow that takes
no keyword arguments, on JAX it traces `training`, and a random draw would be
made again. So a block recomputes itself, see `NFBlock`, and a layer where
there is nothing to gain keeps its results.
"""

import keras


class NotRecomputed:
    """Keeps a layer's results: recomputing them would free no memory.

    Put it before `keras.layers.Layer`.
    """

    def rematerialized_call(self, layer_call, *args, **kwargs):
        return layer_call


def recomputed(layer, function, inputs):
    """A function of a tensor, computed again in the backward pass.

    The layer's variables go in as arguments: inside of a
    `keras.StatelessScope`, as under SAM, they are tensors, and
    `keras.remat` knows no gradient of tensors but its arguments.

    Args:
        layer: The layer, whose random seeds the function must not use.
        function: A function of the inputs that calls parts of the layer.
        inputs: A tensor.

    Returns:
        `function(inputs)`.
    """
    variables = layer.weights

    def compute(inputs, *values):
        state = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state):
            return function(inputs)

    # Tensors, not TensorFlow's variables: run eagerly, those would get their
    # gradient twice.
    values = [
        keras.ops.reshape(variable, variable.shape) for variable in variables
    ]
    return keras.remat(compute)(inputs, *values)


def keep_results_of_others(layers):
    """Takes `keras.RematScope` from the layers that Keras would recompute.

    Blocks and activations hold nearly all that a network keeps. What is left
    would fail: a `Dropout` for its argument `training`; and on TensorFlow,
    under SAM, a `Dense` would get no gradient. What Keras does in the mode
    `"activations"` is right everywhere.

    Args:
        layers: Of a network, those within others too.
    """
    for layer in layers:
        mode = getattr(layer, "_remat_mode", None)
        own = type(layer).rematerialized_call
        if (
            mode is not None
            and mode.mode != "activations"
            and own is keras.layers.Layer.rematerialized_call
        ):
            layer._remat_mode = None
