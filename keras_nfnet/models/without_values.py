"""Models that have shapes, but hold no memory."""

import contextlib

import keras
from keras.src.backend.common import global_state

_WAITING = "uninitialized_variables"


@contextlib.contextmanager
def without_values():
    """Models built inside have variables with shapes and no values.

    Good for counting: F7+ would take 3.3 GB. They cannot be called.

    NOTE: Keras keeps a list of such variables and gives all of them values
    when it next leaves any stateless scope, which would be 22 GB for the
    whole family. It has no public way to take them off that list.
    """
    waiting = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_WAITING, waiting)
