"""Writing a file whole or not at all."""

import contextlib
import os
import secrets

from keras_nfnet.weights.check import WeightsFileError


@contextlib.contextmanager
def replacing(path):
    """Yields a path to write to, which becomes `path` on success.

    Args:
        path: The destination. What is there stays until the new file is
            complete and on the disk, and for good if anything fails.

    Raises:
        ValueError: If it is a directory, or its folder is missing.
        WeightsFileError: If the disk refuses.
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
        folder, f".{os.path.basename(path)[:100]}.{secrets.token_hex(6)}.tmp"
    )
    try:
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        os.remove(temporary)  # Some writers want a place that is free.
        yield temporary
        # Readable for whom other new files are: safetensors' are the
        # writer's alone.
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, ValueError):
            raise
        # h5py and safetensors each have their own errors for a full disk.
        if isinstance(error, Exception):
            raise WeightsFileError(
                f"The file {path!r} was not written, and what was there is "
                f"unchanged: {error}"
            ) from error
        raise


def _sync_folder(folder):
    # So that the new name survives a power cut; not every system can.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
