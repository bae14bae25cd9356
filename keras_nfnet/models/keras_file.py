"""Models from `.keras` files, as runs leave them."""

import os
import zipfile

import keras

# What the file names must be known to Keras.
from keras_nfnet.models import nfnet  # noqa: F401


def load_keras_file(path, argument):
    """Loads a model for inference.

    Args:
        path: Of the `.keras` file.
        argument: Name of the caller's argument, for errors.

    Returns:
        The model, without what trained it, which may be code that is not
        here.

    Raises:
        ValueError: If there is no such file, or it is not whole.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"`{argument}` must be a variant or a .keras file that exists. "
            f"Received: {str(path)!r}"
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`{argument}` must be a whole .keras file of known layers. "
            f"Received: {str(path)!r} ({error})"
        ) from error
