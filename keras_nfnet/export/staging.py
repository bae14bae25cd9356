"""Writes an artifact whole or not at all."""

import contextlib
import os
import shutil
import tempfile


@contextlib.contextmanager
def staged(target, argument="path", beside=()):
    """Gives a path to write to, and moves it to `target` on success.

    The path lies in a hidden directory beside `target`, so that the move is
    a rename. If the body raises, or nothing can be moved, `target` is what
    it was and nothing is left beside it.

    Args:
        target: Where the file or directory shall be.
        argument: Name of the caller's argument, for errors.
        beside: Paths of files in the same folder that `target` cannot do
            without. The body writes them, under their base names, beside
            what is yielded.

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
        _move(
            [
                (os.path.join(folder, os.path.basename(path)), path)
                for path in map(place, (*beside, target))
            ],
            os.path.join(folder, "replaced"),
        )
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


def _move(moves, replaced):
    """Renames all or none; `moves` are pairs of a new path and its target."""
    (new, target), *others = moves
    if not others and (os.path.isfile(new) or not os.path.lexists(target)):
        os.replace(new, target)
        return
    # A directory cannot be renamed over one that holds files. And of several
    # files the last one says that they are there: it goes first, and comes
    # last.
    undo = []
    try:
        for index, (_, target) in reversed(list(enumerate(moves))):
            if os.path.lexists(target):
                old = f"{replaced}{index}"
                os.rename(target, old)
                undo.append((old, target))
        for new, target in moves:
            os.rename(new, target)
            undo.append((target, new))
    except BaseException:
        for source, destination in reversed(undo):
            os.rename(source, destination)
        raise
