"""The one check between a file and a model: nothing is assigned before it."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from keras_nfnet.utils.files import FileError

WeightsFileError = FileError  # Its name where the file is one of weights.
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NAMED = 5  # Entries named in a message before "and N more".


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a file, not yet read.

    Args:
        shape: Its shape, as the file says.
        dtype: Name of its dtype, as the file says.
        read: Returns the values as a floating-point array of that shape.
        checksum: What `checksum_of` the values must be, or `None`.
    """

    shape: tuple
    dtype: str
    read: Callable
    checksum: str | None = None


def entry_of(value):
    """An `Entry` for an array-like."""
    try:
        array = np.asarray(value)
    except Exception as error:
        raise ValueError(
            "every parameter must be an array of numbers. Received: "
            f"{type(value).__name__}"
        ) from error
    return Entry(array.shape, array.dtype.name, lambda: array)


def checksum_of(array):
    """A hash of an array's shape and float32 values."""
    array = np.ascontiguousarray(array, "<f4")
    digest = hashlib.sha256(repr(tuple(array.shape)).encode())
    digest.update(array.data if array.size else b"")
    return digest.hexdigest()[:32]


def collect(expected, entries, source, complaint="does not fit the model"):
    """Reads the entries once all of them are known to fit.

    Args:
        expected: `{name: shape}` of everything that must be there.
        entries: `{name: Entry}` of what is there.
        source: What the entries come from, to start a message with.
        complaint: What to say of entries that are not the expected ones.

    Returns:
        `{name: float32 array}` in the order of `expected`.

    Raises:
        ValueError: Naming the entries that are missing, unexpected, of
            another shape or type, damaged, or not finite.
    """
    problems = [
        _listing("missing", [n for n in expected if n not in entries]),
        _listing("unexpected", [n for n in entries if n not in expected]),
    ]
    both = [name for name in expected if name in entries]
    problems.append(
        _listing(
            "of another shape",
            [
                f"{name}: expected {tuple(expected[name])}, received "
                f"{tuple(entries[name].shape)}"
                for name in both
                if tuple(entries[name].shape) != tuple(expected[name])
            ],
        )
    )
    problems.append(
        _listing(
            "not of a floating-point type",
            [
                f"{name}: {entries[name].dtype}"
                for name in both
                if entries[name].dtype not in _FLOATS
            ],
        )
    )
    _refuse(problems, source, complaint)

    arrays, damaged, infinite = {}, [], []
    for name in expected:
        entry = entries[name]
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(entry.read())
            array = np.ascontiguousarray(array, np.float32).reshape(entry.shape)
        if entry.checksum is not None and (
            entry.checksum != checksum_of(array)
        ):
            damaged.append(name)
        elif not np.isfinite(array).all():
            infinite.append(name)
        arrays[name] = array
    problems = [
        _listing("not what was saved (checksum)", damaged),
        _listing("not finite", infinite),
    ]
    _refuse(problems, source, "is damaged")
    return arrays


def _listing(what, names):
    if not names:
        return None
    text = "; ".join(map(str, names[:_NAMED]))
    if len(names) > _NAMED:
        text += f"; and {len(names) - _NAMED} more"
    return f"{len(names)} {what} ({text})"


def _refuse(problems, source, complaint):
    problems = [problem for problem in problems if problem]
    if problems:
        raise ValueError(
            f"{source} {complaint}; nothing was loaded. Entries: "
            + ", ".join(problems)
        )


def assign(variables, arrays):
    """Assigns all arrays to their variables, or none.

    Args:
        variables: `{key: variable}`.
        arrays: `{key: array}`, one per variable. On return it holds the
            earlier values.
    """
    from keras import ops

    done = []
    try:
        for key, variable in variables.items():
            earlier = np.array(ops.convert_to_numpy(variable))
            done.append(key)
            value, arrays[key] = arrays[key], earlier
            variable.assign(value)
    except BaseException:
        for key in done:
            variables[key].assign(arrays[key])
        raise
