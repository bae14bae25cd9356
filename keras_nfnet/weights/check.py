"""The one check between a file and a model: nothing is assigned before it."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from keras_nfnet.utils.files import FileError

WeightsFileError = FileError  # Its name where the file is one of weights.
# Where the package keeps its checksums: in the metadata of a safetensors
# file, and as an attribute of each dataset of an HDF5 file.
CHECKSUMS = "keras_nfnet_checksums"
CHECKSUM = "keras_nfnet_checksum"
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NAMED = 5  # Entries named in a message before "and N more".
_LONGEST = 500  # Characters of a message.
# Arrays are float32 in memory, which doubles float16.
_MOST_EXPANSION = 4
_SPARE = 2**28


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


def one_line(error):
    """An error's message as one line of bounded length."""
    text = " ".join(str(error).split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def check_size(sizes, stored):
    """Refuses arrays that take far more memory than their file.

    Args:
        sizes: `{name: bytes in memory}`.
        stored: The file's size in bytes.
    """
    total = sum(sizes.values())
    if total > _MOST_EXPANSION * stored + _SPARE:
        largest = max(sizes, key=sizes.get)
        raise ValueError(
            f"it has {stored} bytes and would take {total} bytes of memory, "
            f"its {largest} alone {sizes[largest]}"
        )


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
    common = {name: entries[name] for name in expected if name in entries}
    _refuse(
        f"{source} {complaint}",
        {
            "missing": [name for name in expected if name not in entries],
            "unexpected": [name for name in entries if name not in expected],
            "of another shape": [
                f"{name}: expected {tuple(expected[name])}, received "
                f"{tuple(entry.shape)}"
                for name, entry in common.items()
                if tuple(entry.shape) != tuple(expected[name])
            ],
            "not of a floating-point type": [
                f"{name}: {entry.dtype}"
                for name, entry in common.items()
                if entry.dtype not in _FLOATS
            ],
        },
    )
    arrays, damaged, infinite = {}, [], []
    for name, entry in common.items():
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
    _refuse(
        f"{source} is damaged",
        {"not what was saved (checksum)": damaged, "not finite": infinite},
    )
    return arrays


def _refuse(problem, named):
    """Raises if there are names under any of the words of `named`."""
    listed = []
    for what, names in named.items():
        if names:
            more = len(names) - _NAMED
            text = "; ".join(names[:_NAMED])
            text += f"; and {more} more" if more > 0 else ""
            listed.append(f"{len(names)} {what} ({text})")
    if listed:
        raise ValueError(
            f"{problem}; nothing was loaded. Entries: {', '.join(listed)}"
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
