"""HDF5 files of others: every dataset is looked at once and can be bounded.

HDF5 can express more than Keras writes: groups that contain each other,
links to other files, filters that expand a few bytes to gigabytes, texts
that many objects share. All of it is refused here.
"""

import h5py

_MOST_OBJECTS = 30_000  # F7 has about 8,000 groups and datasets.
_DEEPEST = 32
_LONGEST_TEXT = 64


class SafeHDF5:
    """Reads an HDF5 file's structure without trusting it.

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
                found[path] = _checked(value, path)
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
        names = []

        def note(name):  # Stops at anything but None.
            names.append(name.decode("utf-8", "replace"))
            return len(names) > _MOST_OBJECTS or None

        group.id.links.iterate(note)
        for name in sorted(names, reverse=True):
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


def _checked(dataset, path):
    if dataset.external or dataset.is_virtual or dataset.shape is None:
        raise ValueError(f"its {path} keeps its values somewhere else")
    if dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"its {path} is compressed, which Keras never does")
    if dataset.dtype.hasobject:
        raise ValueError(f"its {path} holds no numbers")
    return dataset
