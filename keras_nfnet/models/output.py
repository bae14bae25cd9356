"""What a classifier's outputs mean, and its logits.

Losses are computed from logits: of a probability that has been rounded to 0
or to 1, Keras's losses know neither the value nor the gradient.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_nfnet")
class Logits(keras.layers.Wrapper):
    """A classifier layer without its activation, sharing its variables.

    Of a layer with one unit, whose sigmoid is the probability of the second
    of two classes, the logits are 0 and the unit's value: their softmax is
    that sigmoid.

    Args:
        layer: The layer, which has an `activation`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape: that of `layer`.

    Output shape: that of `layer`, with two classes for one unit.
    """

    def call(self, inputs):
        # The layer's own arithmetic, whatever its kind and its dtypes.
        activation, self.layer.activation = self.layer.activation, None
        try:
            return two_logits(self.layer(inputs))
        finally:
            self.layer.activation = activation


def two_logits(logits):
    """Logits of two classes for one unit; others as they are."""
    if logits.shape[-1] != 1:
        return logits
    return ops.pad(logits, [(0, 0)] * (len(logits.shape) - 1) + [(1, 0)])


def last_operation(model):
    """The operation whose output is a model's, also in nested models."""
    last = model.outputs[0]._keras_history.operation
    if isinstance(last, keras.Model) and getattr(last, "outputs", None):
        return last_operation(last)
    return last


def activation_of(model):
    """The activation of a classifier: `"softmax"`, `"sigmoid"`, `"linear"`.

    Args:
        model: A functional or sequential model.

    Returns:
        The name, `"other"` for another activation, or `None` if the last
        layer has none.
    """
    return _activation(last_operation(model))


def _activation(last):
    kind = type(last).__name__
    if isinstance(last, keras.layers.Softmax) or kind in ("Softmax", "Sigmoid"):
        return kind.lower() if kind == "Sigmoid" else "softmax"
    if isinstance(last, Logits):
        return "linear"
    activation = getattr(last, "activation", None)
    # What only casts is not where a network ends, such as
    # `Activation("linear", dtype="float32")` under mixed precision.
    passes = isinstance(last, keras.layers.Identity) or kind == "Cast"
    if isinstance(last, keras.layers.Activation):
        passes = keras.activations.get(activation) is keras.activations.linear
    if passes and len(last._inbound_nodes) == 1:
        (x, *others) = last._inbound_nodes[0].input_tensors
        before = x._keras_history.operation
        if isinstance(before, keras.Model) and getattr(before, "outputs", 0):
            before = last_operation(before)
        return None if others else _activation(before)
    if activation is None:
        return None
    for name in ("softmax", "sigmoid", "linear"):
        if keras.activations.get(activation) is keras.activations.get(name):
            return name
    return "other"


def is_one_sigmoid(model):
    """Whether the model has one unit, the logit or sigmoid of two classes."""
    return model.outputs[0].shape[-1] == 1 and activation_of(model) in (
        "sigmoid",
        "linear",
    )


def labelled_classes(model):
    """The number of labels of a classifier: two for one sigmoid unit."""
    return 2 if is_one_sigmoid(model) else model.outputs[0].shape[-1]


def probabilities(outputs, is_logits, is_one_sigmoid=False):
    """What a classifier returns, as probabilities of its labels.

    Args:
        outputs: Tensor `(batch, units)`.
        is_logits: Whether they are logits.
        is_one_sigmoid: Whether one unit tells two classes apart.

    Returns:
        A float32 tensor `(batch, classes)`.
    """
    outputs = ops.cast(outputs, "float32")
    if is_one_sigmoid:
        if is_logits:
            return ops.softmax(two_logits(outputs))
        return ops.concatenate([1 - outputs, outputs], axis=-1)
    return ops.softmax(outputs) if is_logits else outputs


def logits_model(model):
    """A model of the same layers and variables that ends in logits.

    Args:
        model: A classifier whose last layer has the activation softmax, or
            none, or sigmoid for one unit.

    Returns:
        A model of the same class with outputs `(batch, classes)`, not
        compiled; `model` itself if it ends in such logits.

    Raises:
        ValueError: If it ends in something else.

    Example:

    >>> config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> images = keras.random.normal((2, 32, 32, 3))
    >>> logits = logits_model(model)(images)
    >>> np.allclose(keras.ops.softmax(logits), model(images))
    True
    """
    activation = activation_of(model)
    units = model.outputs[0].shape[-1]
    fits = activation in ("softmax", "linear")
    if units == 1:
        fits = activation in ("sigmoid", "linear")
    if not fits:
        raise ValueError(
            "`model` must end in a softmax, in logits, or in the sigmoid of "
            f"one unit. Received: {units} units with the activation "
            f"{activation or 'of no layer'}"
        )
    if units > 1 and activation == "linear":
        return model
    last = model.outputs[0]._keras_history.operation
    x = _input_of(model, last)
    if isinstance(last, keras.Model):
        return _like(model, logits_model(last)(x))
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation):
        return _like(model, two_logits(x))
    head = Logits(last, name=f"{last.name}_logits", dtype=last.dtype_policy)
    return _like(model, head(x))


def probabilities_model(model):
    """The classifier that a model made by `logits_model` belongs to.

    Returns:
        A model of the same class, layers and variables, not compiled, that
        ends in the layer itself, with its activation.
    """
    head = last_operation(model)
    return _like(model, head.layer(_input_of(model, head)))


def _input_of(model, operation):
    """The tensor that goes into a model's last operation."""
    _, node_index, _ = model.outputs[0]._keras_history
    return operation._inbound_nodes[node_index].input_tensors[0]


def _like(model, outputs):
    cls = keras.Model if isinstance(model, keras.Sequential) else type(model)
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    new = cls(inputs, outputs, name=model.name)
    new.dtype_policy = model.dtype_policy
    return new
