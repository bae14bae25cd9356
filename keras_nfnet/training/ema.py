"""The exponential moving average of a model's weights, as a model."""

import inspect

import keras
from keras import ops, tree

from keras_nfnet.optimizers.composed import parts_of


def ema_model(
    model: keras.Model, into: keras.Model | None = None
) -> keras.Model:
    """A copy of a model that holds the moving average of its weights.

    The average is kept by the optimizer (`ema_decay`) beside the weights,
    with the paper's warm-up of the decay. The model itself is not changed.
    A weight that the optimizer does not train is its own average.

    Args:
        model: A model compiled with an optimizer that has `ema_decay`, and
            trained for at least one step.
        into: A copy from an earlier call, to be brought up to date; `None`
            makes one.

    Returns:
        A model of the same class, compiled for `evaluate`.

    Raises:
        ValueError: If the optimizer keeps no average, or a layer cannot be
            copied.

    Example:

    >>> config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> optimizer = keras_nfnet.SGDAGC(0.1, ema_decay=0.99999)
    >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    >>> images, labels = np.ones((4, 32, 32, 3)), np.arange(4)
    >>> history = model.fit(images, labels, verbose=0)
    >>> average = keras_nfnet.ema_model(model)
    >>> bias = model.get_layer("predictions").bias  # began as 0
    >>> np.allclose(average.get_layer("predictions").bias, 0.9 * bias)
    True

    Reference: arXiv:2102.06171, section 6 and appendix A.
    """
    averages = [
        pair
        for part in parts_of(getattr(model, "optimizer", None))
        for pair in getattr(part, "averages", [])
    ]
    if not averages:
        raise ValueError(
            "`model` must be compiled with an optimizer that keeps a moving "
            "average, such as `SGDAGC(0.1, ema_decay=0.99999)`, and trained "
            "for a step. Received: optimizer="
            f"{getattr(model, 'optimizer', None)!r}"
        )
    if keras.backend.backend() == "jax":
        # Within `fit` the values are with the loop, not in the variables.
        model.jax_state_sync()
    copy = _untrained_copy(model) if into is None else into
    values = [
        (variable, ops.convert_to_numpy(average))
        for variable, average in averages
    ]
    # Layers save and load their own state; some keep more than weights.
    with keras.StatelessScope(state_mapping=values):
        states = [_state(layer) for layer in _layers(model)]
    for layer, state in zip(_layers(copy), states, strict=True):
        layer.load_own_variables(state)
    return copy


def _state(layer):
    """What a layer saves of itself, as arrays."""
    state = {}
    layer.save_own_variables(state)
    return {key: ops.convert_to_numpy(value) for key, value in state.items()}


def _layers(model):
    """A model's layers and theirs, in an order that its copies share."""
    if not _is_graph(model):
        return model._flatten_layers()
    named = sorted(model.layers, key=lambda layer: layer.name)
    return [model, *(each for layer in named for each in _layers(layer))]


def _is_graph(model):
    """Whether it is a functional or sequential model."""
    return isinstance(model, keras.Model) and bool(
        getattr(model, "outputs", None)
    )


def _untrained_copy(model):
    """A model of the same layers and compiled alike, for `evaluate`."""
    is_compiled, model.compiled = model.compiled, False
    try:
        # Keras would compile the copy from a configuration, which a loss of
        # the user's own may not have.
        if _is_graph(model):
            copy = keras.models.clone_model(
                model, clone_function=_clone, recursive=True
            )
        else:
            copy = _clone(model)
            copy.build_from_config(model.get_build_config())
    # What Keras raises for a layer without `get_config`, or one whose
    # configuration does not fit its constructor.
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "`model` holds a layer that cannot be copied from its "
            "configuration; give the layer a `get_config`. "
            f"Received: model={model!r} ({error})"
        ) from error
    finally:
        model.compiled = is_compiled
    arguments = dict(model._compile_config.config)
    # None: it is not to be trained, and saves no optimizer.
    arguments["optimizer"] = None
    for name in ("metrics", "weighted_metrics"):
        # The copy has metrics of its own: their states must not be shared.
        arguments[name] = tree.map_structure(_fresh, arguments.get(name))
    copy.compile(**arguments)
    return copy


def _clone(layer):
    # Keras cannot create a lambda from a configuration; a copy can share it.
    functions = {
        name: value
        for name in layer.get_config()
        if inspect.isfunction(value := getattr(layer, name, None))
    }
    with keras.saving.custom_object_scope(_own_objects(layer)):
        if isinstance(layer, keras.layers.Lambda):
            return type(layer)(**{**layer.get_config(), **functions})
        try:
            return type(layer).from_config(layer.get_config())
        # A configuration with a lambda in it, which is handed over below; any
        # other error is the layer's.
        except (TypeError, ValueError):
            if not functions:
                raise
        return type(layer).from_config({**layer.get_config(), **functions})


def _own_objects(layer):
    """Classes and functions of a layer and its own, by name."""
    layers = layer._flatten_layers()
    functions = [
        value
        for each in layers
        for value in vars(each).values()
        if inspect.isfunction(value)
    ]
    return {value.__name__: value for value in [*map(type, layers), *functions]}


def _fresh(metric):
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
