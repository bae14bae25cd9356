"""Writes files and directories whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile


class FileError(OSError, ValueError):
    """A file that cannot be reached, read or written.

    Both an `OSError` and a `ValueError`, since from the caller's side it is
    either the disk, the network or the argument.
    """

    def __init__(self, message):
        super().__init__(message)
        self.message = message

    def __str__(self):
        return self.message


@contextlib.contextmanager
def replacing(path, ending=""):
    """Yields a path to write to, which becomes `path` on success.

    Args:
        path: The destination, a file. What is there stays until the new
            file is complete and on the disk, and for good if anything
            fails. A link stays a link.
        ending: What the yielded path ends in, such as `".keras"`, for
            writers that decide by it.

    Raises:
        ValueError: If it is a directory, or its folder is missing.
        FileError: If the disk refuses.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ValueError(
            "The file to write must not be a directory. "
            f"Received: path={path!r}"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(
            f"The file to write must be an ordinary file. Received: {path!r}"
        )
    if not os.path.isdir(folder):
        raise ValueError(
            f"The folder to write to must exist. Received: path={path!r}"
        )
    temporary = os.path.join(
        folder,
        f".{os.path.basename(path)[:100]}.{secrets.token_hex(6)}.tmp{ending}",
    )
    try:
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        os.remove(temporary)  # Some writers want a place that is free.
        yield temporary
        # safetensors creates files with mode 0600; use the process's umask.
        os.chmod(temporary, mode)
        _sync_file(temporary)
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        # Perhaps it was never made; the error to tell is the first one.
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, ValueError):
            raise
        # h5py and safetensors each have their own errors for a full disk.
        if isinstance(error, Exception):
            raise FileError(
                f"The file {path!r} was not written, and what was there is "
                f"unchanged: {error}"
            ) from error
        raise


def write_whole(path, content):
    """Writes bytes, or a text in UTF-8, as `replacing` does."""
    if isinstance(content, str):
        content = content.encode()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def staged(target, argument="path", beside=()):
    """Yields a path to write a file or directory to, and moves it on success.

    The path lies in a hidden directory beside `target`, so that the move is
    a rename. If the body raises, or nothing can be moved, `target` is what
    it was and nothing is left beside it.

    Args:
        target: Where the file or directory shall be. Its folder is created.
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
    folder = scratch_folder(target, argument)
    try:
        new = os.path.join(folder, os.path.basename(target))
        yield new
        _sync_tree(folder)
        _move(
            [
                (os.path.join(folder, os.path.basename(path)), path)
                for path in map(place, (*beside, target))
            ],
            os.path.join(folder, "replaced"),
        )
        _sync_folder(os.path.dirname(target))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder(target, argument):
    """A new hidden directory beside `target`, whose folder is created.

    Raises:
        ValueError: If that cannot be done, naming the caller's argument.
    """
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


def _sync_file(path):
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_tree(folder):
    for below, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_file(os.path.join(below, name))
        _sync_folder(below)


def _sync_folder(folder):
    # So that the new name survives a power cut; not every system can.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
