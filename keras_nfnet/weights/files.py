"""Opens a weights file of any supported kind, told apart by its content."""

import contextlib
import dataclasses
import json
import math
import os
import stat

import numpy as np

from keras_nfnet.utils import arguments
from keras_nfnet.weights import known, layouts
from keras_nfnet.weights.bounds import check_size, one_line
from keras_nfnet.weights.check import Entry, WeightsFileError
from keras_nfnet.weights.layout import Layout, layout_of

# Where the package keeps its checksums: in the metadata of a safetensors
# file, and as an attribute of each dataset of an HDF5 file.
CHECKSUMS = "keras_nfnet_checksums"
CHECKSUM = "keras_nfnet_checksum"

_LONGEST_NAME = 500
_MOST_ENTRIES = 20_000  # F7+ has 2,000.
_LONGEST_HEADER = 8 * 2**20  # F7's safetensors header has 0.7 MB.
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


@dataclasses.dataclass(frozen=True)
class Contents:
    """An open weights file.

    Args:
        layout: How the file names its entries.
        entries: `{name: Entry}`, readable while the file is open.
        is_sealed: Whether the file has a checksum over all of it, which is
            right.
    """

    layout: Layout
    entries: dict
    is_sealed: bool = False

    def compare_with_known(self, path):
        """Compares a file without checksums of its own with what is known.

        To be called once its values are read and found sound.

        Raises:
            ValueError: If it is a published file, but damaged.
            WeightsFileError: If it cannot be read again.
        """
        if self.is_sealed or all(
            entry.checksum for entry in self.entries.values()
        ):
            return
        try:
            known.check(path, is_pickle=self.layout in layouts.HAIKU)
        except OSError as error:
            raise WeightsFileError(
                f"The file {path!r} cannot be read: {one_line(error)}"
            ) from error


def shapes_in(contents):
    """`{key: shape in the model}` of the entries whose names are known."""
    layout = contents.layout
    return {
        key: layout.model_shape(key, contents.entries[name].shape)
        for name, key in layout.keys(contents.entries).items()
    }


def path_of(source, argument="weights"):
    """A path as a string; refuses what is no path."""
    return os.fspath(arguments.path(argument, source))


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
        known.refuse_damaged(path)
    except WeightsFileError:
        raise
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
            _check(contents.entries, os.path.getsize(path))
        except ValueError as error:
            raise ValueError(
                f"The file {path!r} cannot be used; nothing was loaded: "
                f"{one_line(error)}"
            ) from error
        except OSError as error:
            raise WeightsFileError(
                f"The file {path!r} cannot be read: {one_line(error)}"
            ) from error
        yield contents


def _check(entries, stored):
    for name in entries:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise ValueError(f"it has the name {name[:120]!r}")
    check_size(
        {
            f"{name} {entry.shape}": 4 * math.prod(entry.shape)
            for name, entry in entries.items()
        },
        stored,
    )


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
    if head.lstrip().startswith(b"{"):
        raise ValueError(
            "it is JSON, such as the index of sharded weights "
            "(.weights.json), which `model.load_weights` reads. What can be "
            f"loaded here is {_KINDS}"
        )
    if head[8:9] == b"{":
        return _open_safetensors(path, stack)
    if _starts_a_pickle(head):
        from keras_nfnet.weights.pickles import read_haiku_pickle

        is_sealed = known.is_sealed(path)
        file = stack.enter_context(open(path, "rb"))
        entries = read_haiku_pickle(file)
        return _contents(entries, layouts.HAIKU, is_sealed)
    raise ValueError(f"it is not {_KINDS}")


def _contents(entries, among, is_sealed=False):
    if len(entries) > _MOST_ENTRIES:
        raise ValueError("it has more entries than any network")
    return Contents(layout_of(entries, among), entries, is_sealed)


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
        _check_header(path)
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
    except (
        SafetensorError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"it is not a complete .safetensors file ({error})"
        ) from error
    return _contents(entries, layouts.SAFETENSORS)


def _check_header(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError("its header is longer than any network's")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        if len(header) > _MOST_ENTRIES:
            raise ValueError("its header names more than any network has")


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("its header names something twice")
    return dict(pairs)


def _reader(file, name, dtype):
    def read():
        array = file.get_tensor(name)
        if dtype == "BF16":  # NumPy itself cannot cast it.
            return (array.view("u2").astype("u4") << 16).view("f4")
        return array

    return read


def _open_h5(path, stack):
    import h5py

    from keras_nfnet.weights.hdf5 import SafeHDF5

    try:
        file = stack.enter_context(h5py.File(path, "r"))
        if "layers" not in file:
            raise ValueError(
                "it is an HDF5 file, but not a .weights.h5 that "
                "`model.save_weights` wrote for an NFNet"
            )
        safe = SafeHDF5(file, os.path.getsize(path))
        entries = {
            below: Entry(
                dataset.shape,
                dataset.dtype.name,
                _h5_reader(dataset, below),
                safe.text(dataset, CHECKSUM),
            )
            for below, dataset in safe.datasets("layers").items()
            # Keras keeps the states of random generators here as well.
            if "/seed_generator" not in below
        }
        if any(entry.checksum for entry in entries.values()):
            entries = {
                name: dataclasses.replace(entry, checksum=entry.checksum or "")
                for name, entry in entries.items()
            }
    except ValueError:
        raise
    except Exception as error:  # h5py has no error of its own.
        raise ValueError(f"it is a damaged HDF5 file ({error})") from error
    return Contents(layouts.KERAS_H5, entries)


def _h5_reader(dataset, path):
    def read():
        try:
            return np.asarray(dataset[()])
        except Exception as error:
            raise ValueError(
                f"The file is a damaged HDF5 file; nothing was loaded: its "
                f"{path} cannot be read ({one_line(error)})"
            ) from error

    return read
