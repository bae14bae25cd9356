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
        ValueError: If the folder that `target` is in is missing or cannot
            be written.
    """
    target = os.path.abspath(target)
    parent, name = os.path.split(target)
    if not os.path.isdir(parent):
        raise ValueError(
            f"`{argument}` must be in a folder that exists. "
            f"Received: {argument}={target!r}"
        )
    try:
        folder = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be in a folder that can be written. "
            f"Received: {argument}={target!r} ({error.strerror})"
        ) from error
    try:
        new = os.path.join(folder, name)
        yield new
        _move(new, target, os.path.join(folder, "replaced"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    if not os.path.lexists(target):
        os.rename(new, target)
        return
    # A directory cannot be renamed over one that holds files.
    os.rename(target, replaced)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(replaced, target)
        raise
