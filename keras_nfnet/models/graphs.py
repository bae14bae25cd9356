"""The functional graph of a Keras model, for all that walks through one."""

import collections
import inspect

import keras


def functional_graph(model):
    """The functional model itself, or that of a sequential one.

    Raises:
        ValueError: If `model` is another kind of model.
    """
    graph = model
    if isinstance(model, keras.Sequential):
        graph = model._functional
    if not hasattr(graph, "_run_through_graph"):
        raise ValueError(
            "`model` must be a functional Keras model, or a sequential one "
            f"that is built. Received: model={model!r}"
        )
    return graph


def is_graph(model):
    """Whether a model is functional, or sequential and built."""
    return hasattr(getattr(model, "_functional", model), "_run_through_graph")


def run_graph(graph, inputs, apply):
    """Walks through a functional graph, one operation after the other.

    Args:
        graph: What `functional_graph` returns.
        inputs: What stands for the inputs, in their structure.
        apply: Function of an operation and what it is called with.

    Returns:
        What `apply` returned for the outputs, in their structure.
    """
    # Keras 3.12 has no default for the first function.
    return graph._run_through_graph(
        inputs, operation_fn=lambda operation: operation, call_fn=apply
    )


def uses_of_tensors(graph):
    """How often each tensor of a functional graph is used, by its `id`."""
    used = list(graph.outputs)
    for nodes in graph._nodes_by_depth.values():
        for node in nodes:
            used.extend(node.input_tensors)
    return collections.Counter(map(id, used))


def calls_of_operations(graph):
    """How often each operation of a functional graph is called, by `id`."""
    return collections.Counter(
        id(node.operation)
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
    )


def inputs_of_calls(operation):
    """The tensors of each call of an operation in functional graphs."""
    return [node.input_tensors for node in operation._inbound_nodes]


def first_argument(args, kwargs):
    """What an operation is called on, also if it is called by keyword."""
    if args:
        return args[0]
    return kwargs.get("inputs", next(iter(kwargs.values())))


def takes_training(operation):
    """Whether a layer takes the argument `training`."""
    return isinstance(operation, keras.layers.Layer) and (
        "training" in inspect.signature(operation.call).parameters
    )
