"""Where exports are written: what is refused before and after."""

import contextlib
import os

from keras_nfnet.utils import arguments
from keras_nfnet.utils.files import place, scratch_folder
from keras_nfnet.utils.moved import moved_names


def check_file(path, overwrite, ending):
    """Refuses a place that a file cannot be written to, before any work.

    Args:
        path: The caller's argument `path`.
        overwrite: Whether a file that is there may be replaced.
        ending: Such as `".onnx"`, for the error's advice.

    Raises:
        ValueError: Saying what is wrong with the place.
    """
    example = f"the path of a file, such as 'nfnet{ending}'"
    arguments.path("path", path, example)
    if os.path.isdir(path) or str(path).endswith((os.sep, os.altsep or "/")):
        raise ValueError(
            f"`path` must be a file, such as 'nfnet{ending}', not a folder. "
            f"Received: path={str(path)!r}"
        )
    refuse_existing(path, overwrite, "path")
    check_folder(path, "path")


def check_folder(path, argument):
    """Refuses a place whose folder cannot be made or written.

    Raises:
        ValueError: Saying which.
    """
    os.rmdir(scratch_folder(place(path), argument))


def refuse_existing(path, overwrite, argument):
    """Refuses a place where something is already, unless told to replace.

    Raises:
        ValueError: If something is there and `overwrite` is false.
    """
    if os.path.lexists(place(path)) and not overwrite:
        raise ValueError(
            f"`{argument}` must be new; give another, or `overwrite=True`. "
            f"Received: {argument}={str(path)!r}, which exists"
        )


@contextlib.contextmanager
def writing(argument, path):
    """Turns the disk's errors into one that names the caller's argument.

    Raises:
        ValueError: In place of an `OSError`, such as of a full disk.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be where the export can be written; what was "
            f"there is unchanged. Received: {argument}={str(path)!r} ({error})"
        ) from error


def weights_of(path):
    """The file of weights that OpenVINO writes beside an `.xml` file."""
    return os.path.splitext(path)[0] + ".bin"


def size_of(path):
    """Bytes of a file, or of all files under a directory.

    Of an `.xml` file the weights beside it count.
    """
    if os.path.isfile(path):
        paths = [path]
        if str(path).endswith(".xml"):
            paths.append(weights_of(path))
        return sum(map(os.path.getsize, paths))
    return sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(path)
        for file in files
    )


__getattr__ = moved_names(__name__)
