"""The classifier, found by its role and not by its name.

The classifier's kernel is not clipped; arXiv:2102.06171, section 4.1.
"""

import keras
from keras import layers

from keras_nfnet.optimizers.owners import is_vector

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


def head_kernels(optimizer, variables, candidates):
    """The kernels of the classifiers among an optimizer's variables.

    Args:
        optimizer: The optimizer.
        variables: The variables that it is built with.
        candidates: Layers, of which the models are looked at: those
            compiled with the optimizer; else those whose trainable
            variables are all among `variables`, the largest first; else
            those that have others too, the smallest first.

    Returns:
        Variables; none if no such model is functional or sequential.

    Raises:
        ValueError: If two models of the same variables end differently.
    """
    given = {id(variable) for variable in variables}
    models = {}
    for layer in candidates:
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            trained = {id(v) for v in layer.trainable_variables}
            if trained & given:
                models[id(layer)] = layer, trained
    models = list(models.values())
    compiled = [
        (model, trained)
        for model, trained in models
        if _holds(getattr(model, "optimizer", None), optimizer)
    ]
    inner = _outermost([(m, t) for m, t in models if t <= given])
    if compiled:
        chosen = compiled
    elif inner:
        chosen = inner
    else:
        smallest = min((len(t) for _, t in models), default=0)
        chosen = [(m, t) for m, t in models if len(t) == smallest]
    heads = {}
    for model, trained in chosen:
        seen = set()
        kernels = {
            id(kernel): kernel
            for tensor in model.outputs
            for kernel in last_kernels(tensor, seen)
        }
        known = heads.setdefault(frozenset(trained), kernels)
        if set(known) != set(kernels):
            raise ValueError(
                "Two models have these variables and end in other layers, so "
                "the classifier is not known. Compile the one to train with "
                "the optimizer, or set `exclude_from_clipping`. Received: "
                f"the variables of the model {model.name!r}"
            )
    return [
        kernel
        for kernels in heads.values()
        for identity, kernel in kernels.items()
        if identity in given
    ]


def _outermost(models):
    """Leaves out the models that are part of another."""
    return [
        (model, trained)
        for model, trained in models
        if not any(trained < other for _, other in models)
    ]


def _holds(outer, optimizer):
    """Whether an optimizer is, or wraps, another."""
    if outer is None or outer is optimizer:
        return outer is optimizer
    parts = [getattr(outer, "inner_optimizer", None)]
    parts += getattr(outer, "optimizers", [])
    return any(_holds(part, optimizer) for part in parts)


def last_kernels(tensor, seen):
    """Kernels of the classifiers that a Keras tensor comes from."""
    operation, node_index, tensor_index = tensor._keras_history
    if _kernels(operation):
        if isinstance(operation, keras.Model) and operation.outputs:
            return last_kernels(operation.outputs[tensor_index], seen)
        return _classifier_kernels(operation)
    # Activation, softmax, rescaling, cast, pooling, dropout, …
    node = operation._inbound_nodes[node_index]
    if id(node) in seen:
        return []
    seen.add(id(node))
    return [
        kernel
        for before in node.input_tensors
        for kernel in last_kernels(before, seen)
    ]


def _kernels(operation):
    if not isinstance(operation, layers.Layer):
        return []
    return [v for v in operation.weights if not is_vector(v, [operation])]


def _classifier_kernels(layer):
    """The kernel of a dense layer or 1x1 convolution, as a list."""
    while isinstance(layer, layers.Wrapper):
        layer = layer.layer
    is_classifier = isinstance(layer, layers.Dense) or (
        isinstance(layer, _CONVOLUTIONS)
        and all(size == 1 for size in layer.kernel_size)
    )
    # The scale of a standardized kernel does not reach the output.
    if hasattr(layer, "standardized_kernel"):
        is_classifier = False
    return _kernels(layer) if is_classifier else []
