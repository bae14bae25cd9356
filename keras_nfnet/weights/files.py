"""Opens a weights file of any supported kind, told apart by its content."""

import contextlib
import dataclasses
import json
import os
import stat

import numpy as np

from keras_nfnet.weights.check import Entry, WeightsFileError
from keras_nfnet.weights.haiku import HaikuLayout
from keras_nfnet.weights.keras_h5 import KerasH5Layout
from keras_nfnet.weights.timm import TimmLayout

# Where the package keeps its checksums: in the metadata of a safetensors
# file, and as an attribute of each dataset of an HDF5 file.
CHECKSUMS = "keras_nfnet_checksums"
CHECKSUM = "keras_nfnet_checksum"

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_SAFETENSORS_DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_KINDS = (
    "a DeepMind *_haiku.npz (a pickle), a .safetensors of timm or of this "
    "package, or a .weights.h5"
)


class OwnLayout(KerasH5Layout):
    """The package's own `.safetensors`: the keys as they are."""

    name = "keras_nfnet's"

    @staticmethod
    def names(keys):
        return {key: key for key in keys}

    @staticmethod
    def keys(names):
        return {name: name for name in names}

    @staticmethod
    def is_head(name):
        return name.startswith("predictions/")


@dataclasses.dataclass(frozen=True)
class Contents:
    """An open weights file.

    Args:
        layout: How the file names its entries; one of the layouts.
        entries: `{name: Entry}`, readable while the file is open.
    """

    layout: type
    entries: dict


def shapes_in(contents):
    """`{key: shape in the model}` of the entries whose names are known."""
    layout = contents.layout
    return {
        key: layout.model_shape(key, contents.entries[name].shape)
        for name, key in layout.keys(contents.entries).items()
    }


def path_of(source, argument="weights"):
    """A path as a string; refuses what is no path."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"`{argument}` must be the path of a file. "
            f"Received: {argument}={source!r}"
        )
    path = os.fspath(source)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(
            f"`{argument}` must be the path of a file. "
            f"Received: {argument}={path!r}"
        )
    return path


@contextlib.contextmanager
def open_weights(source):
    """Opens a weights file.

    Args:
        source: Its path. The name does not matter, the content does.

    Yields:
        `Contents`. No entry is compared with a model yet.

    Raises:
        ValueError: If it is no such file, or a damaged one.
        WeightsFileError: If it cannot be read.
    """
    path = path_of(source)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(
                "`weights` must be a file; this is a directory. "
                f"Received: weights={path!r}"
            )
        if not stat.S_ISREG(mode):
            raise ValueError(
                "`weights` must be an ordinary file. "
                f"Received: weights={path!r}"
            )
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise WeightsFileError(
            f"`weights` must be a file that exists. Received: weights={path!r}"
        ) from error
    except OSError as error:
        raise WeightsFileError(
            f"The file cannot be read ({error.strerror}). "
            f"Received: weights={path!r}"
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            contents = _open(path, head, stack)
        except ValueError as error:
            raise ValueError(
                f"The file {path!r} cannot be used; nothing was loaded: {error}"
            ) from error
        except OSError as error:
            raise WeightsFileError(
                f"The file {path!r} cannot be read: {error}"
            ) from error
        yield contents


def _open(path, head, stack):
    if not head:
        raise ValueError(f"it is empty, not {_KINDS}")
    if head.startswith(_HDF5):
        return _open_h5(path, stack)
    if head.startswith(_ZIP):
        raise ValueError(
            "it is a zip archive. A whole Keras model (.keras) is not "
            "loaded for its weights: open it with keras.models.load_model "
            "if you trust it and use its save_weights. A NumPy .npz archive "
            f"is not DeepMind's. What can be loaded is {_KINDS}"
        )
    if head[8:9] == b"{":
        return _open_safetensors(path, stack)
    if _starts_a_pickle(head):
        from keras_nfnet.weights.pickles import read_haiku_pickle

        file = stack.enter_context(open(path, "rb"))
        return Contents(HaikuLayout, read_haiku_pickle(file))
    raise ValueError(f"it is not {_KINDS}")


def _starts_a_pickle(head):
    # Protocol 2 and later say so; 0 and 1 start with a mark or an empty
    # dictionary.
    return head[:1] in (b"(", b"}") or head[:2] in (
        b"\x80\x02",
        b"\x80\x03",
        b"\x80\x04",
        b"\x80\x05",
    )


def _open_safetensors(path, stack):
    from safetensors import SafetensorError, safe_open

    try:
        file = stack.enter_context(safe_open(path, framework="np"))
        metadata = file.metadata() or {}
        slices = {name: file.get_slice(name) for name in file.keys()}
        checksums = json.loads(metadata.get(CHECKSUMS, "{}"))
        entries = {
            name: Entry(
                tuple(part.get_shape()),
                _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()),
                _reader(file, name, part.get_dtype()),
                checksums.get(name, "" if checksums else None),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"it is not a complete .safetensors file ({error})"
        ) from error
    own = any("/" in name for name in entries)
    return Contents(OwnLayout if own else TimmLayout, entries)


def _reader(file, name, dtype):
    def read():
        array = file.get_tensor(name)
        if dtype == "BF16":  # NumPy itself cannot cast it.
            return (array.view("u2").astype("u4") << 16).view("f4")
        return array

    return read


def _open_h5(path, stack):
    import h5py

    try:
        file = stack.enter_context(h5py.File(path, "r"))
        if "layers" not in file:
            raise ValueError(
                "it is an HDF5 file, but not a .weights.h5 that "
                "`model.save_weights` wrote for an NFNet"
            )
        entries = {}
        _walk_h5(file["layers"], "layers", entries, depth=0)
    except ValueError:
        raise
    except Exception as error:  # h5py has no error of its own.
        raise ValueError(f"it is a damaged HDF5 file ({error})") from error
    return Contents(KerasH5Layout, entries)


def _walk_h5(group, path, entries, depth):
    """Collects the datasets below a group, without following links."""
    import h5py

    if depth > 8 or len(entries) > 100_000:
        raise ValueError("it is nested deeper than any weights file")
    if not isinstance(group, h5py.Group):
        raise ValueError(f"its {path} is not a group")
    for name in group:
        below = f"{path}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"its {below} is a link to somewhere else")
        value = group[name]
        if isinstance(value, h5py.Dataset):
            # Keras keeps the states of random generators here as well.
            if "/seed_generator" not in below:
                entries[below] = _h5_entry(value, below)
        else:
            _walk_h5(value, below, entries, depth + 1)


def _h5_entry(dataset, path):
    if dataset.external or dataset.is_virtual or dataset.shape is None:
        raise ValueError(f"its {path} keeps its values somewhere else")
    checksum = dataset.attrs.get(CHECKSUM)

    def read():
        try:
            return np.asarray(dataset[()])
        except Exception as error:
            raise ValueError(
                f"The file is a damaged HDF5 file; nothing was loaded: its "
                f"{path} cannot be read ({error})"
            ) from error

    return Entry(
        dataset.shape,
        dataset.dtype.name,
        read,
        None if checksum is None else str(checksum),
    )
