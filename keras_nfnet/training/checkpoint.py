"""Checkpoints that survive kills, full disks and flipped bits.

Measured in `benchmarks/checkpoint_engines.py`: TODO
"""

import contextlib
import dataclasses
import os
import re
import warnings
import weakref

import numpy as np

from keras_nfnet.training import checkpoint_file
from keras_nfnet.weights.atomic import replacing
from keras_nfnet.weights.check import WeightsFileError

try:
    import fcntl
except ImportError:  # Windows: no lock there.
    fcntl = None

_NAME = "step-{:010d}.safetensors"
_OURS = re.compile(r"step-.*\.safetensors")
_NUMBERED = re.compile(r"step-(\d{10,18})\.safetensors")
# What `replacing` leaves when its process is killed.
_LEFT_OVER = re.compile(r"\.step-\d{10,18}\.safetensors\.[0-9a-f]{12}\.tmp")
_LOCK = ".lock"

_LARGEST_STEP = 10**18 - 1


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
                f"turn out damaged, the one before it is used. "
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
        self._damaged = set()  # Paths that were read and found damaged.
        self._check_directory()

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
        self._check_directory()
        try:
            _make_directory(self.directory)
            lock = open(os.path.join(self.directory, _LOCK), "a+b")
        except OSError as error:
            raise WeightsFileError(
                "The directory of the checkpoints cannot be written to "
                f"({error.strerror}). Received: directory={self.directory!r}"
            ) from error
        try:
            # Not a file that says who is here: that one would outlive a
            # kill, while the kernel drops this lock with its process.
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(
                "Another trainer is saving its checkpoints to this "
                "directory; end it first, or use another directory. "
                f"Received: directory={self.directory!r}"
            ) from None
        except OSError as error:
            lock.close()
            raise WeightsFileError(
                "The directory of the checkpoints is on a file system that "
                f"cannot lock ({error.strerror}). "
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
            step: Steps made so far, at least 0, and not below the step of
                an intact checkpoint that is there.
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
        step = _check_step(step)
        head, arrays = checkpoint_file.lay_out(step, arrays, metadata)
        self.acquire()
        self._remove_left_overs()
        for newer, path in self._numbered():
            if newer > step and self._is_intact(path):
                raise ValueError(
                    "`step` must not be below the newest checkpoint's "
                    f"({newer}): restore it first, or use another directory. "
                    f"Received: step={step}, directory={self.directory!r}"
                )
        path = os.path.join(self.directory, _NAME.format(step))
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
        self._check_directory()
        for path in self._misnamed():
            self._warn(path, "its name is not that of a checkpoint")
        passed_over = set()
        while True:
            numbered = [
                (step, path)
                for step, path in self._numbered()
                if path not in passed_over
            ]
            if not numbered:
                break
            step, path = numbered[0]
            try:
                arrays, saved = checkpoint_file.read(path, step)
            except (ValueError, OSError) as error:
                if not os.path.lexists(path):
                    continue  # A trainer has just removed it: look again.
                self._warn(path, error)
                self._damaged.add(path)
                passed_over.add(path)
                continue
            self._damaged.discard(path)
            return Checkpoint(step, arrays, saved, path)
        if passed_over or self._misnamed():
            raise ValueError(
                "None of the checkpoints in the directory is intact; the "
                "warnings name them. Remove them to start anew. Received: "
                f"directory={self.directory!r}"
            )
        return None

    @staticmethod
    def _warn(path, reason):
        warnings.warn(
            f"The checkpoint {path!r} is passed over: {reason}.",
            stacklevel=3,
        )

    def _check_directory(self):
        if os.path.lexists(self.directory) and not os.path.isdir(
            self.directory
        ):
            raise ValueError(
                "`directory` must be a directory. "
                f"Received: directory={self.directory!r}"
            )

    def _names(self):
        try:
            return os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WeightsFileError(
                "The directory of the checkpoints cannot be read "
                f"({error.strerror}). Received: directory={self.directory!r}"
            ) from error

    def _numbered(self):
        """`(step, path)` of what is named as a checkpoint, newest first."""
        found = []
        for name in self._names():
            match = _NUMBERED.fullmatch(name)
            if match and _NAME.format(int(match[1])) == name:
                found.append(
                    (int(match[1]), os.path.join(self.directory, name))
                )
        return sorted(found, reverse=True)

    def _misnamed(self):
        named = {os.path.basename(path) for _, path in self._numbered()}
        return [
            os.path.join(self.directory, name)
            for name in sorted(self._names())
            if _OURS.fullmatch(name) and name not in named
        ]

    def _is_intact(self, path):
        if path in self._damaged:
            return False
        try:
            checkpoint_file.check(path)
        except (ValueError, OSError):
            self._damaged.add(path)
            return False
        return True

    def _remove_old(self):
        # One that is known to be damaged must not take a place.
        good = [p for _, p in self._numbered() if p not in self._damaged]
        stale = good[self.keep :]
        if len(good) >= self.keep:
            stale += self._damaged
        for path in stale:
            with contextlib.suppress(OSError):
                os.remove(path)
            self._damaged.discard(path)

    def _remove_left_overs(self):
        # The lock is held, so nobody is writing them.
        for name in self._names():
            if _LEFT_OVER.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self.directory, name))


# A forked worker would keep its parent's lock after the parent was killed.
_HOLDERS = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=lambda: [holder.release() for holder in list(_HOLDERS)]
    )


def _check_step(step):
    integer = isinstance(step, int | np.integer) and not isinstance(step, bool)
    if not integer or not 0 <= step <= _LARGEST_STEP:
        raise ValueError(
            f"`step` must be an integer of at least 0. Received: step={step!r}"
        )
    return int(step)


def _make_directory(directory):
    """Makes a directory and brings its name to the disk."""
    made = []
    while not os.path.isdir(directory):
        made.append(directory)
        directory = os.path.dirname(directory)
    for directory in reversed(made):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        descriptor = os.open(os.path.dirname(directory), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
