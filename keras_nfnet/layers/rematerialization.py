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

    values = [keras.ops.convert_to_tensor(variable) for variable in variables]
    return keras.remat(compute)(inputs, *values)


def has_lost_gradients(layer):
    """Whether Keras recomputes a layer's variables as constants.

    It does on the TensorFlow backend inside of a `keras.StatelessScope`.
    """
    mode = getattr(layer, "_remat_mode", None)
    own = type(layer).rematerialized_call
    return (
        mode is not None
        and own is keras.layers.Layer.rematerialized_call
        and bool(layer.trainable_variables)
        and (
            mode.mode in ("full", "larger_than")
            or (
                mode.mode == "list_of_layers" and layer.name in mode.layer_names
            )
        )
    )
