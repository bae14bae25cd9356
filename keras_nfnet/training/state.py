"""All that a training model holds, as arrays by name, and back."""

import contextlib
import re

import keras
import numpy as np
from keras import ops

from keras_nfnet.weights.check import assign

# Keras counts the names of what has no name of its own: `dropout_3`.
_COUNT = re.compile(r"_\d+(?=[_/]|$)")
_NAMED = 5  # Names listed in a message before "and N more".


def state_of(model):
    """Copies all that decides how a compiled model trains on.

    These are the weights, the states of the seed generators, and the
    variables of the optimizer (step, momentum, moving averages, loss scale)
    and of the metrics. Order and augmentation of the data are not among
    them.

    Args:
        model: A compiled Keras model. It may be within `fit`, in a callback.

    Returns:
        `{name: NumPy array}`. A name is what holds the variable, the
        variable's index and its readable path: `model/0003/stem_conv0/gain`.
        It is the same for every model built by the same code. Under a
        `tf.distribute` strategy the values are those of the first replica,
        and of metrics the sum over the replicas.

    Raises:
        ValueError: If the model is not compiled.

    Example:

    >>> checkpoints.save(100, state_of(model))
    """
    variables = _variables(model)
    with _scope(model):
        return {
            name: ops.convert_to_numpy(variable)
            for name, variable in variables.items()
        }


def restore_state(model, arrays, batch=None):
    """Puts back what `state_of` returned: all of it or nothing.

    Args:
        model: A model built and compiled by the same code as the one that
            `state_of` was called on. It may be within `fit`, in a callback.
        arrays: `{name: array}`. They need not be finite.
        batch: One batch, `(images, labels)`, as the model is trained on, of
            which only shapes and types are read. A model that was not
            trained yet needs it if it has metrics: Keras makes their
            variables when it sees the first batch.

    Returns:
        The names of the arrays that hold a value that is not finite. The
        optimizer's `clipped_units` are NaN after a step that was skipped.

    Raises:
        ValueError: If the model is not compiled, or naming the arrays that
            are missing, unexpected, or of another shape or type. The
            model's variables are unchanged.

    Example:

    >>> restore_state(model, checkpoint.arrays, batch=next(iter(dataset)))
    []
    """
    variables = _variables(model, batch)
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    _refuse_misfits(variables, arrays)
    not_finite = [
        name for name in variables if not np.isfinite(arrays[name]).all()
    ]
    with _scope(model):
        assign(variables, arrays)
    return not_finite


def _variables(model, batch=None):
    """`{name: variable}` of a model, made if Keras has not made them yet."""
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "`model` must be compiled with an optimizer. "
            f"Received: model={model!r}"
        )
    if keras.backend.backend() == "jax":
        # Within `fit` the values are with the loop, not in the variables,
        # and the loop looks into the variables only after a sync.
        model.jax_state_sync()
    with _scope(model):
        if batch is not None:
            model._symbolic_build(data_batch=tuple(batch))
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    # Take only the ends of the paths of optimizers and metrics: they start
    # with the scope in which Keras happened to create the variable.
    groups = {
        "model": (model.variables, 0),
        "optimizer": (model.optimizer.variables, -1),
        "metrics": (model.metrics_variables, -2),
    }
    named = {}
    for group, (variables, start) in groups.items():
        for index, variable in enumerate(variables):
            path = "/".join(variable.path.split("/")[start:])
            named[f"{group}/{index:04d}/{_COUNT.sub('', path)}"] = variable
    return named


def _scope(model):
    """Where all replicas of a variable are read and assigned together."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


def _refuse_misfits(variables, arrays):
    expected, received = (
        {name: f"{tuple(a.shape)} {a.dtype}" for name, a in found.items()}
        for found in (variables, arrays)
    )
    problems = {
        "missing": [name for name in expected if name not in received],
        "unexpected": [name for name in received if name not in expected],
        "of another shape or type": [
            f"{name}: {expected[name]}, received {received[name]}"
            for name in expected
            if received.get(name, expected[name]) != expected[name]
        ],
    }
    if not any(problems.values()):
        return
    text = ", ".join(
        f"{len(names)} {problem} ({_listing(names)})"
        for problem, names in problems.items()
        if names
    )
    if any(name.startswith("metrics/") for name in problems["unexpected"]):
        text += "; if the model was not trained yet, pass a `batch`"
    raise ValueError(
        "`arrays` must be the state of such a model; nothing was changed. "
        f"Received: {text}"
    )


def _listing(names):
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" * (more > 0))
