"""The exponential moving average of a model's weights, as a model."""

import keras
import numpy as np


def ema_model(model, into=None):
    """A copy of a model that holds the moving average of its weights.

    The average is kept by the optimizer (`ema_decay`) beside the weights,
    with the paper's warm-up of the decay. The model itself is not changed.

    Args:
        model: A model compiled with an optimizer that has `ema_decay`, and
            trained for at least one step.
        into: A copy from an earlier call, to be brought up to date; `None`
            makes one.

    Returns:
        A model of the same class, compiled for `evaluate`.

    Raises:
        ValueError: If the optimizer keeps no average.

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
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    averages = getattr(optimizer, "averages", {})
    if not averages:
        raise ValueError(
            "`model` must be compiled with an optimizer that keeps a moving "
            "average, such as `SGDAGC(0.1, ema_decay=0.99999)`, and trained "
            f"for a step. Received: optimizer={optimizer!r}"
        )
    copy = into
    if copy is None:
        copy = type(model).from_config(model.get_config())
        # A loss and metrics of its own: their states are not to be shared.
        config = model.get_compile_config()
        for key in ("optimizer", "sam_rho", "clipped_by_stage"):
            config.pop(key, None)
        config = keras.saving.deserialize_keras_object(config)
        # None: it is not to be trained, and saves no optimizer.
        copy.compile(optimizer=None, **config)
    trainable = {id(variable) for variable in model.trainable_variables}
    for source, target in zip(model.variables, copy.variables, strict=True):
        value = source
        if id(source) in trainable:
            value = averages[source.path]
        target.assign(np.asarray(keras.ops.convert_to_numpy(value)))
    return copy
