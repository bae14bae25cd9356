"""Models that have shapes, but hold no memory."""

from concurrent.futures import ThreadPoolExecutor

import keras


def without_values(build):
    """Builds a model whose variables have shapes and no values.

    Good for counting: F7+ would take 3.3 GB. The model cannot be called.

    It is built in a thread of its own. Keras lists such variables by thread,
    and gives all those of a thread their values when it next leaves a
    stateless scope there: 22 GB for the whole family. A thread starts with
    Keras's defaults, so that names are numbered from the start.

    Args:
        build: Function of no arguments that returns the model.

    Returns:
        What `build` returns.

    Raises:
        As `build` does.
    """
    policy = keras.config.dtype_policy()

    def run():
        keras.config.set_dtype_policy(policy)
        with keras.StatelessScope(initialize_variables=False):
            return build()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
