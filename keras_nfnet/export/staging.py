"""Writes an artifact whole or not at all."""

import contextlib
import os
import shutil
import tempfile


@contextlib.contextmanager
def staged(target, argument="path"):
    """Gives a path to write to, and moves it to `target` on success.

    The path lies in a hidden directory beside `target`, so that the move is
    a rename. If the body raises, or nothing can be moved, `target` is what
    it was and nothing is left beside it.

    Args:
        target: Where the file or directory shall be.
        argument: Name of the caller's argument, for errors.

    Yields:
        The path to write to, of the same base name; nothing is there yet.

    Raises:
        ValueError: If the folder that `target` is in cannot be made or
            written.
    """
    target = place(target)
    folder = _scratch_folder(target, argument)
    try:
        new = os.path.join(folder, os.path.basename(target))
        yield new
        _move(new, target, os.path.join(folder, "replaced"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_folder(target, argument):
    parent, name = os.path.split(target)
    try:
        os.makedirs(parent, exist_ok=True)
        return tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be in a folder that can be written. "
            f"Received: {argument}={target!r} ({error.strerror})"
        ) from error


def place(path):
    """The absolute path that a caller means: `~` is the home folder."""
    return os.path.abspath(os.path.expanduser(path))


def check_file(path, overwrite, ending):
    """Refuses a place that a file cannot be written to, before any work.

    Args:
        path: The caller's argument `path`.
        overwrite: Whether a file that is there may be replaced.
        ending: Such as `".onnx"`, for the error's advice.

    Raises:
        ValueError: Saying what is wrong with the place.
    """
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ValueError(
            f"`path` must be the path of a file, such as 'nfnet{ending}'. "
            f"Received: path={path!r}"
        )
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
    os.rmdir(_scratch_folder(place(path), argument))


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


def size_of(path):
    """Bytes of a file, or of all files under a directory."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(path)
        for file in files
    )


def _move(new, target, replaced):
    if os.path.isfile(new) or not os.path.lexists(target):
        os.replace(new, target)
        return
    # A directory cannot be renamed over one that holds files.
    os.rename(target, replaced)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(replaced, target)
        raise
