"""Checkpoints that survive kills, full disks and flipped bits.

The project's own engine. Measured by `benchmarks/checkpoint_engines.py`:
Orbax 0.12.8 survives every kill, but restored wrong values silently after 17
of 30 single flipped bits; this one noticed all 30. Orbax depends on JAX and
TensorFlow's `CheckpointManager` on TensorFlow; this one on neither.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import warnings
import weakref

import numpy as np

from keras_nfnet.training import checkpoint_file
from keras_nfnet.utils.files import replacing
from keras_nfnet.weights.check import WeightsFileError

try:
    import fcntl
except ImportError:  # Windows: no lock there.
    fcntl = None

_NAME = "step-{:010d}.safetensors"
_NUMBERED = re.compile(r"step-(\d{10})\.safetensors")
# What `replacing` leaves when its process is killed.
_LEFT_OVER = re.compile(r"\.step-\d{10}\.safetensors\.[0-9a-f]{12}\.tmp")
_LARGEST = 10**10  # Steps that the names have digits for.


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.restore` returns.

    Attributes:
        step: The step it was saved at.
        arrays: `{name: NumPy array}`, bit for bit what was saved.
        metadata: What was saved beside them, as JSON reads it back.
        path: The file.
    """

    step: int
    arrays: dict
    metadata: dict
    path: str


class Checkpoints:
    """The checkpoints of one run, in one directory.

    A checkpoint is one `.safetensors` file, `step-0000000100.safetensors`,
    that is written under another name, brought to the disk and only then
    renamed. It carries a SHA-256 over every byte of itself.

    One process at a time may save: the first `acquire` or `save` locks the
    directory until `release`, or until the process ends in whichever way.
    Restoring needs no lock. Use it as a context manager to lock before
    restoring, so that two trainers never start from the same checkpoint.

    Args:
        directory: Where they are; made when first needed.
        keep: How many of the newest stay, at least 2.

    Raises:
        ValueError: If `keep` is below 2 or `directory` is not a directory.

    Example:

    >>> with Checkpoints("runs/digits/checkpoints") as checkpoints:
    ...     checkpoint = checkpoints.restore()
    ...     if checkpoint is not None:
    ...         restore_state(model, checkpoint.arrays)
    ...     checkpoints.save(100, state_of(model), {"epoch": 2})
    """

    def __init__(self, directory, keep=2):
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 2:
            raise ValueError(
                "`keep` must be an integer of at least 2: should the newest "
                "turn out damaged, the one before it is used. "
                f"Received: keep={keep!r}"
            )
        if not isinstance(directory, str | os.PathLike) or not str(directory):
            raise ValueError(
                "`directory` must be the path of a directory. "
                f"Received: directory={directory!r}"
            )
        self.directory = os.path.abspath(directory)
        self.keep = keep
        self._lock = None
        self._damaged = set()  # Paths that `restore` has passed over.
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise ValueError(
                "`directory` must be a directory. "
                f"Received: directory={directory!r}"
            )

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *_):
        self.release()

    def acquire(self):
        """Locks the directory for this object, making it if needed.

        Raises:
            ValueError: If another process, or another object of this one,
                holds the lock.
            WeightsFileError: If the directory cannot be made or locked.
        """
        if self._lock is not None:
            return
        lock = None
        try:
            _make_directory(self.directory)
            lock = open(os.path.join(self.directory, ".lock"), "a+b")
            # Not a file that says who is here: that one would outlive a
            # kill, while the kernel drops this lock with its process.
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if lock is not None:
                lock.close()
            if isinstance(error, BlockingIOError):
                raise ValueError(
                    "Another trainer is saving its checkpoints to this "
                    "directory; end it first, or use another directory. "
                    f"Received: directory={self.directory!r}"
                ) from None
            raise WeightsFileError(
                "The directory of the checkpoints cannot be written to or "
                f"locked ({error.strerror}). "
                f"Received: directory={self.directory!r}"
            ) from error
        self._lock = lock
        _HOLDERS.add(self)

    def release(self):
        """Unlocks the directory."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def save(self, step, arrays, metadata=None):
        """Saves one checkpoint, whole or not at all.

        When it returns, the checkpoint is on the disk. Only then are older
        ones than the `keep` newest removed, and what killed runs left.

        Args:
            step: Steps made so far, at least 0, and not below the newest
                checkpoint's, unless `restore` has passed over that one.
            arrays: `{name: array}`; booleans, integers and floats of 16 to
                64 bits, bfloat16 among them.
            metadata: What JSON can hold, under string keys.

        Returns:
            The path of the checkpoint.

        Raises:
            ValueError: On arguments that cannot be saved, or if another
                process holds the directory.
            WeightsFileError: If the disk refuses. Every checkpoint that
                was there is still there.
        """
        integer = isinstance(step, int | np.integer)
        if not integer or isinstance(step, bool) or not 0 <= step < _LARGEST:
            raise ValueError(
                "`step` must be an integer of at least 0. "
                f"Received: step={step!r}"
            )
        step = int(step)
        head, arrays = checkpoint_file.lay_out(step, arrays, metadata)
        self.acquire()
        newest = max((s for s, _ in self._sound()), default=step)
        if newest > step:
            raise ValueError(
                "`step` must not be below the newest checkpoint's "
                f"({newest}): restore it first, or use another directory. "
                f"Received: step={step}, directory={self.directory!r}"
            )
        # The lock is held, so nobody is writing them.
        self._remove(filter(_LEFT_OVER.fullmatch, self._names()))
        path = os.path.join(self.directory, _NAME.format(step))
        if os.path.isdir(path):
            _move_aside(path)
        with replacing(path) as temporary:
            checkpoint_file.write(temporary, head, arrays)
        self._damaged.discard(path)
        self._remove_old()
        return path

    def restore(self):
        """Reads the newest checkpoint that is intact.

        Each one that is not is passed over with a warning that names the
        file and what is wrong with it.

        Returns:
            A `Checkpoint`, or `None` if none was saved yet.

        Raises:
            ValueError: If there are checkpoints, but none is intact.
        """
        found = self._found()
        for step, path in found:
            try:
                arrays, metadata = checkpoint_file.read(path, step)
            except (ValueError, OSError) as error:
                if not os.path.lexists(path):
                    # A trainer has just put a newer one in its place.
                    return self.restore()
                warnings.warn(
                    f"The checkpoint {path!r} is passed over: {error}.",
                    stacklevel=2,
                )
                self._damaged.add(path)
            else:
                self._damaged.discard(path)
                return Checkpoint(step, arrays, metadata, path)
        if found:
            raise ValueError(
                "None of the checkpoints in the directory is intact; the "
                "warnings name them. Remove them to start anew. Received: "
                f"directory={self.directory!r}"
            )
        return None

    @property
    def latest(self):
        """Step of the newest checkpoint, not read, or `None`."""
        return next((step for step, _ in self._found()), None)

    def _names(self):
        try:
            return os.listdir(self.directory)
        except FileNotFoundError:
            return []

    def _found(self):
        """`(step, path)` of each checkpoint's file, newest first."""
        matches = map(_NUMBERED.fullmatch, self._names())
        return sorted(
            (
                (int(match[1]), os.path.join(self.directory, match[0]))
                for match in matches
                if match
            ),
            reverse=True,
        )

    def _sound(self):
        """As `_found`, without those that `restore` has passed over."""
        return [
            found for found in self._found() if found[1] not in self._damaged
        ]

    def _remove_old(self):
        sound = [path for _, path in self._sound()]
        stale = sound[self.keep :]
        # Damaged ones do not count, and stay until enough good ones are there.
        if len(sound) >= self.keep:
            stale += self._damaged
            self._damaged.clear()
        self._remove(stale)

    def _remove(self, names):
        for name in names:
            # One that stays takes room, no more; the next save tries again.
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self.directory, name))


# A forked worker would keep its parent's lock after the parent was killed.
_HOLDERS = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=lambda: [holder.release() for holder in list(_HOLDERS)]
    )


def _move_aside(path):
    """Renames a directory that has the name of a checkpoint."""
    aside = f"{path}.{secrets.token_hex(3)}"
    # What cannot be renamed, `replacing` refuses by its name.
    with contextlib.suppress(OSError):
        os.rename(path, aside)
        warnings.warn(
            f"A directory was in the place of the checkpoint {path!r}; it is "
            f"now {aside!r}.",
            stacklevel=3,
        )


def _make_directory(directory):
    """Makes a directory and brings its name to the disk."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_directory(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
