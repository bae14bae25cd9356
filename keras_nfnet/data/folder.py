"""Data sets that are folders of pictures, one folder per class."""

import hashlib
import os
from pathlib import Path

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def is_folder(name):
    """Whether a data set's name is a path: a folder that exists.

    Raises:
        ValueError: If it can only be a path, and no folder is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return True
    is_path = not isinstance(name, str) or name.startswith((os.sep, ".", "~"))
    if is_path or path.exists():
        raise ValueError(
            "`name` must be the name of a TFDS data set or a folder of class "
            f"folders. Received: name={str(name)!r}, which is "
            f"{'not a folder' if path.exists() else 'not there'}"
        )
    return False


def list_pictures(root, split):
    """Finds the pictures of one split of a folder.

    Args:
        root: `root/split/class/picture`, or `root/class/picture`, of which a
            tenth, chosen by a hash of `class/picture`, is the split `test`
            and the rest `train`. A picture is told by its suffix; other
            files and hidden ones are ignored.
        split: Name of a split.

    Returns:
        Paths relative to `root`, with `/` between their parts, in the order
        of their names; for each its class's number; and the sorted names of
        the classes, those of all splits.

    Raises:
        ValueError: If there are no pictures, no such split or fewer than
            two classes.

    Example:

    >>> names, labels, classes = list_pictures("flowers", "train")
    """
    root = Path(root).expanduser()
    received = f"Received: name={str(root)!r}"
    tops = _subfolders(root)
    if any(_pictures(top) for top in tops):
        classes = [top.name for top in tops if _pictures(top)]
        splits = {"train": [], "test": []}
        for label in classes:
            for picture in _pictures(root / label):
                name = f"{label}/{picture}"
                part = "test" if _in_test(name) else "train"
                splits[part].append((name, label))
    else:
        splits = {
            top.name: [
                (f"{top.name}/{folder.name}/{picture}", folder.name)
                for folder in _subfolders(top)
                for picture in _pictures(folder)
            ]
            for top in tops
        }
        splits = {name: found for name, found in splits.items() if found}
        classes = sorted({c for found in splits.values() for _, c in found})
    if not classes:
        raise ValueError(
            "The folder must hold pictures as class/picture or "
            f"split/class/picture ({', '.join(PICTURE_SUFFIXES)}). {received}"
        )
    if len(classes) < 2:
        raise ValueError(
            "The folder must hold pictures of at least two classes, each in "
            f"a folder of its own. {received} with one, {classes[0]!r}"
        )
    if split not in splits:
        raise ValueError(
            f"`split` must be one of {', '.join(sorted(splits))}. "
            f"Received: split={split!r} of name={str(root)!r}"
        )
    if not splits[split]:
        raise ValueError(
            f"The split must have examples. Received: split={split!r} of "
            f"name={str(root)!r}, which got none of the few pictures; make "
            "the folders train/ and test/ to choose them yourself"
        )
    number = {label: index for index, label in enumerate(classes)}
    names, labels = zip(*splits[split], strict=True)
    return list(names), [number[label] for label in labels], tuple(classes)


def _in_test(name):
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


def _subfolders(folder):
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _pictures(folder):
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(PICTURE_SUFFIXES)
        and not entry.name.startswith(".")
        and entry.is_file()
    )
