"""Opens a weights file of any supported kind, told apart by its content."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import stat

import h5py
import numpy as np

from keras_nfnet.utils import arguments
from keras_nfnet.weights import names, published
from keras_nfnet.weights.check import (
    CHECKSUM,
    CHECKSUMS,
    Entry,
    WeightsFileError,
    check_size,
    collect,
    one_line,
)

_LONGEST_NAME = 500
_MOST_ENTRIES = 20_000  # F7+ has 2,000.
_LONGEST_HEADER = 8 * 2**20  # F7's safetensors header has 0.7 MB.
_MOST_OBJECTS = 30_000  # F7 has about 8,000 groups and datasets.
_DEEPEST = 32
_LONGEST_TEXT = 64
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
# Protocol 2 and later say so; 0 and 1 start with a mark or an empty
# dictionary.
_PICKLE = (b"(", b"}", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
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
        path: Its path.
        layout: How the file names its entries.
        entries: `{name: Entry}`, readable while the file is open.
        is_sealed: Whether a checksum over the whole file was right.
    """

    path: str
    layout: names.Layout
    entries: dict
    is_sealed: bool = False

    @functools.cached_property
    def shapes(self):
        """`{key: shape in the model}` of the entries with known names."""
        return {
            key: self.layout.model_shape(key, self.entries[name].shape)
            for name, key in self.layout.keys(self.entries).items()
        }

    def without_head(self):
        """The same without the classifier's entries."""
        entries = {
            name: entry
            for name, entry in self.entries.items()
            if not self.layout.is_head(name)
        }
        return dataclasses.replace(self, entries=entries)

    def read(self, shapes, complaint="does not fit the model"):
        """`{key: array}` of a network, once all entries are known to fit.

        Args:
            shapes: `{key: shape}` of the network's parameters.
            complaint: As for `collect`.

        Raises:
            ValueError: As `collect`, or if it is a damaged published file.
            WeightsFileError: If it cannot be read.
        """
        to_file = self.layout.names(shapes)
        arrays = collect(
            {
                to_file[key]: self.layout.shape(key, shape)
                for key, shape in shapes.items()
            },
            self.entries,
            f"The file {self.path!r} ({self.layout.name} names)",
            complaint,
        )
        if not self.is_sealed and not all(
            entry.checksum for entry in self.entries.values()
        ):
            try:
                published.compare(self.path, self.layout in names.HAIKU)
            except OSError as error:
                raise WeightsFileError(
                    f"The file {self.path!r} cannot be read: {one_line(error)}"
                ) from error
        return {
            key: self.layout.from_file(key, arrays.pop(to_file[key]))
            for key in shapes
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
        if not stat.S_ISREG(mode):
            kind = "an ordinary file"
            if stat.S_ISDIR(mode):
                kind = "a file; this is a directory"
            raise ValueError(
                f"`weights` must be {kind}. Received: weights={path!r}"
            )
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        problem = f"The file cannot be read ({error.strerror})."
        if isinstance(error, FileNotFoundError):
            problem = "`weights` must be a file that exists."
        raise WeightsFileError(
            f"{problem} Received: weights={path!r}"
        ) from error
    published.refuse_damaged(path)
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
        layout, entries = names.KERAS_H5, _h5_entries(path, stack)
        return Contents(path, layout, entries)
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
        entries = _safetensors_entries(path, stack)
        return Contents(path, _layout_of(entries, names.SAFETENSORS), entries)
    if head.startswith(_PICKLE):
        from keras_nfnet.weights.pickles import read_haiku_pickle

        is_sealed = published.is_sealed(path)
        entries = read_haiku_pickle(stack.enter_context(open(path, "rb")))
        layout = _layout_of(entries, names.HAIKU)
        return Contents(path, layout, entries, is_sealed)
    raise ValueError(f"it is not {_KINDS}")


def _layout_of(entries, layouts):
    """The layout that knows most of a file's names."""
    return max(layouts, key=lambda layout: len(layout.keys(entries)))


def _safetensors_entries(path, stack):
    from safetensors import SafetensorError, safe_open

    try:
        _check_header(path)
        file = stack.enter_context(safe_open(path, framework="np"))
        checksums = json.loads((file.metadata() or {}).get(CHECKSUMS, "{}"))
        entries = {}
        for name in file.keys():
            part = file.get_slice(name)
            dtype = part.get_dtype()
            entries[name] = Entry(
                tuple(part.get_shape()),
                _SAFETENSORS_DTYPES.get(dtype, dtype),
                functools.partial(_tensor, file, name, dtype),
                checksums.get(name, "" if checksums else None),
            )
        return entries
    except (
        SafetensorError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"it is not a complete .safetensors file ({error})"
        ) from error


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


def _tensor(file, name, dtype):
    array = file.get_tensor(name)
    if dtype == "BF16":  # NumPy itself cannot cast it.
        return (array.view("u2").astype("u4") << 16).view("f4")
    return array


def _h5_entries(path, stack):
    try:
        file = stack.enter_context(h5py.File(path, "r"))
        if "layers" not in file:
            raise ValueError(
                "it is an HDF5 file, but not a .weights.h5 that "
                "`model.save_weights` wrote for an NFNet"
            )
        safe = SafeHDF5(file, os.path.getsize(path))
        # Keras keeps the states of random generators here as well.
        datasets = {
            name: (dataset, safe.text(dataset, CHECKSUM))
            for name, dataset in safe.datasets("layers").items()
            if "/seed_generator" not in name
        }
    except ValueError:
        raise
    except Exception as error:  # h5py has no error of its own.
        raise ValueError(f"it is a damaged HDF5 file ({error})") from error
    # Where one dataset has a checksum, all must.
    lacking = "" if any(text for _, text in datasets.values()) else None
    return {
        name: Entry(
            dataset.shape,
            dataset.dtype.name,
            functools.partial(_dataset, dataset, name),
            lacking if text is None else text,
        )
        for name, (dataset, text) in datasets.items()
    }


def _dataset(dataset, path):
    try:
        return np.asarray(dataset[()])
    except Exception as error:
        raise ValueError(
            f"The file is a damaged HDF5 file; nothing was loaded: its "
            f"{path} cannot be read ({one_line(error)})"
        ) from error


class SafeHDF5:
    """Reads an HDF5 file's structure without trusting it.

    HDF5 can express more than Keras writes: groups that contain each other,
    links to other files, filters that expand a few bytes to gigabytes, texts
    that many objects share. All of it is refused.

    Args:
        file: The open `h5py.File`.
        size: Its size in bytes.
    """

    def __init__(self, file, size):
        self._file = file
        self._characters = size

    def datasets(self, start="/"):
        """`{path: dataset}` of all datasets below a group.

        Raises:
            ValueError: If anything below is not what Keras writes.
        """
        found, seen = {}, set()
        waiting = [(start.strip("/"), self._file[start])]
        while waiting:
            path, value = waiting.pop()
            info = h5py.h5o.get_info(value.id)
            if (info.fileno, info.addr) in seen:
                raise ValueError(f"its {path} is in it twice")
            seen.add((info.fileno, info.addr))
            if isinstance(value, h5py.Dataset):
                if value.external or value.is_virtual or value.shape is None:
                    raise ValueError(
                        f"its {path} keeps its values somewhere else"
                    )
                if value.id.get_create_plist().get_nfilters():
                    raise ValueError(
                        f"its {path} is compressed, which Keras never does"
                    )
                if value.dtype.hasobject:
                    raise ValueError(f"its {path} holds no numbers")
                found[path] = value
            elif not isinstance(value, h5py.Group):
                raise ValueError(f"its {path} is neither group nor dataset")
            else:
                waiting += self._below(value, path)
            if len(seen) + len(waiting) > _MOST_OBJECTS:
                raise ValueError("it has more groups than any weights file")
        return found

    def _below(self, group, path):
        if path.count("/") > _DEEPEST:
            raise ValueError("it is nested deeper than any weights file")
        found = []

        def note(name):  # Stops at anything but None.
            found.append(name.decode("utf-8", "replace"))
            return len(found) > _MOST_OBJECTS or None

        group.id.links.iterate(note)
        for name in sorted(found, reverse=True):
            below = f"{path}/{name}".lstrip("/")
            if "/" in name or not below.isprintable():
                raise ValueError(f"it has the name {below[-120:]!r}")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"its {below} is a link to somewhere else")
            yield below, group[name]

    def text(self, dataset, name):
        """An attribute that is a short text, or `None` if there is none.

        Raises:
            ValueError: If texts are shared so often that they are longer
                than the file.
        """
        if name not in dataset.attrs:
            return None
        if dataset.attrs.get_id(name).shape != ():
            return ""
        text = str(dataset.attrs[name])
        self._characters -= len(text)
        if self._characters < 0:
            raise ValueError("it shares texts between datasets")
        return text if len(text) <= _LONGEST_TEXT else ""
