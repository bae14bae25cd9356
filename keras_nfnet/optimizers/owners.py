"""The layers that own variables, and what they say of its units.

Keras hands an optimizer a list of variables, and keeps no way from a
variable to its layer. So the layers that are alive are searched for them,
once, when the optimizer is built (0.1 s beside an F0).
"""

import gc

import keras
from keras import layers

from keras_nfnet.optimizers.clipping import unit_axes

# Where a layer keeps what is a vector by role, whatever its shape: the bias
# of an attention head is `(heads, size)`, that of a GRU `(2, 3 * units)`.
_VECTORS = ("bias", "gamma", "beta", "gain", "scale")

_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
# Layers of other frameworks order their axes in their own way.
_FOREIGN = tuple(
    getattr(layers, name)
    for name in ("TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
    if hasattr(layers, name)
)


def live_layers():
    """All Keras layers and models of this process."""
    return [
        value
        for value in gc.get_objects()
        if issubclass(type(value), layers.Layer)
    ]


def owners_of(variables, candidates):
    """The layers that hold each variable itself, not in a layer of theirs.

    Args:
        variables: Keras variables.
        candidates: The layers to look at.

    Returns:
        A list of layers for each variable; empty if none holds it.
    """
    owners = {id(variable): [] for variable in variables}
    for layer in candidates:
        held = {
            id(entry)
            for value in list(vars(layer).values())
            for entry in _entries(value)
            if isinstance(entry, keras.Variable)
        }
        for identity in held:
            if identity in owners:
                owners[identity].append(layer)
    return [owners[id(variable)] for variable in variables]


def _entries(value):
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    return [value]


def is_vector(variable, owners):
    """Whether a variable is a bias, a gain or their like, by shape or role."""
    if len(variable.shape) < 2:
        return True
    for layer in owners:
        roles = _VECTORS
        if isinstance(layer, layers.PReLU):
            roles = ("alpha",)
        if any(vars(layer).get(role) is variable for role in roles):
            return True
    return False


def axes_of_unit(variable, owners):
    """The axes summed over in one unit of a variable.

    Args:
        variable: A Keras variable.
        owners: The layers that hold it.

    Returns:
        A tuple of axes. A vector is one unit. The units of a kernel are its
        output channels, wherever its layer has them; of a variable that no
        known layer owns, the last axis.

    Raises:
        ValueError: If its layers disagree, or wrap another framework.
    """
    rank = len(variable.shape)
    if is_vector(variable, owners):
        return tuple(range(rank))
    known = {
        axes
        for layer in owners
        if (axes := _axes_by_layer(layer, variable)) is not None
    }
    if len(known) > 1:
        names = ", ".join(f"{layer.name!r}" for layer in owners)
        raise ValueError(
            f"The layers {names} share a variable, and its units are other "
            "axes in each; name it in `exclude_from_clipping`. Received: "
            f"{variable.path}"
        )
    if known:
        return known.pop()
    if any(isinstance(layer, _FOREIGN) for layer in owners):
        raise ValueError(
            "The units of a variable of another framework are not known: "
            'give its layer an attribute `unit_axes`, such as `{"kernel": '
            "(1, 2, 3)}`, or name the variable in `exclude_from_clipping`. "
            f"Received: {variable.path}"
        )
    return unit_axes(variable.shape)


def _axes_by_layer(layer, variable):
    """The axes as the layer has them; `None` where it is not known."""
    rank = len(variable.shape)
    declared = getattr(layer, "unit_axes", None)
    if isinstance(declared, dict) and variable.name in declared:
        return unit_axes(variable.shape, declared[variable.name])
    spatial = tuple(range(rank - 2))
    if isinstance(layer, _DEPTHWISE) and variable.name == "kernel":
        return spatial  # (…, channels, multiplier)
    if isinstance(layer, _SEPARABLE) and variable.name == "depthwise_kernel":
        return spatial
    if isinstance(layer, _TRANSPOSED) and variable.name == "kernel":
        return (*spatial, rank - 1)  # (…, filters, channels)
    if isinstance(layer, layers.EinsumDense) and variable.name == "kernel":
        operands, result = layer.equation.replace(" ", "").split("->")
        kernel = operands.split(",")[1]
        return tuple(
            axis for axis, index in enumerate(kernel) if index not in result
        )
    return None
