"""Data sets that are folders of images, one folder per class."""

import collections
import dataclasses
import difflib
import hashlib
import os
import re
from pathlib import Path

from keras_nfnet.data.labels import is_utf8

# Of the formats that `decode_picture` reads.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
)
# Names by which a folder is taken for a split, where its content allows it.
_SPLITS = re.compile(r"(train|test|val|valid|dev|eval)(ing|idation|uation)?\d*")
# Deeper files are not looked for.
_DEPTH = 6
_EXAMPLES = 3


def is_folder(name):
    """Whether a data set's name is a path: a folder that exists.

    Raises:
        ValueError: If it can only be a path, and no folder is there, or its
            name is not UTF-8.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not is_utf8(str(path)):
            raise ValueError(
                "`name` must be a path in UTF-8, which is written into the "
                f"files of a run. Received: name={str(path)!r}"
            )
        return True
    is_path = not isinstance(name, str) or name.startswith((os.sep, ".", "~"))
    if is_path or path.exists():
        raise ValueError(
            "`name` must be the name of a TFDS data set or a folder of class "
            f"folders. Received: name={str(name)!r}, which is "
            f"{'not a folder' if path.exists() else 'not there'}"
            f"{did_you_mean(similar_folders(name))}"
        )
    return False


def similar_folders(name):
    """Paths of folders that exist and have a similar name."""
    path = Path(name).expanduser()
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    # Only a hint of an error that is being reported: without it, no hint.
    except OSError:
        return []
    close = difflib.get_close_matches(path.name, names, _EXAMPLES)
    return [str(Path(name).parent / each) for each in close]


def did_you_mean(names):
    """The end of a message that suggests names, empty where there are none."""
    names = [repr(name) for name in names]
    return f"; did you mean {' or '.join(names)}?" if names else ""


@dataclasses.dataclass(frozen=True)
class FoundImages:
    """The images of one split of a folder.

    Args:
        names: Paths relative to the folder, with `/` between their parts, in
            the order of their names.
        labels: Index of the class of each.
        classes: Names of the classes of all splits, sorted.
        left_out: One line on each kind of files that are left out, and why.
    """

    names: tuple
    labels: tuple
    classes: tuple
    left_out: tuple


def find_images(root, split):
    """Finds the images of one split of a folder.

    Args:
        root: `root/split/class/image`, or `root/class/image`, of which a
            tenth, chosen by a hash of `class/image`, is the split `test`
            and the rest `train`. An image is told by its suffix; hidden
            files are ignored. It is the first layout where a folder named
            like a split, such as `train` or `validation`, holds more images
            in folders of its own than directly; where none is named so, what
            most folders hold decides.
        split: Name of a split.

    Returns:
        `FoundImages`.

    Raises:
        ValueError: If there are no images, no such split or fewer than two
            classes, or if splits hold images without classes.

    Example:

    >>> found = find_images("flowers", "train")
    """
    root = Path(root).expanduser()
    received = f"Received: name={str(root)!r}"
    images, others = _walk(root)
    depth = 2 if _has_splits(images) else 1
    splits = {} if depth == 2 else {"train": [], "test": []}
    misplaced = collections.defaultdict(list)
    for parts in images:
        if len(parts) != depth + 1:
            misplaced[len(parts) > depth].append("/".join(parts))
            continue
        *_, label, _ = parts
        name = "/".join(parts)
        if depth == 2:
            part = parts[0]
        else:
            part = "test" if _in_test(name) else "train"
        splits.setdefault(part, []).append((name, label))
    classes = sorted({label for part in splits.values() for _, label in part})
    left_out = tuple(_left_out(misplaced, others))
    also = "".join(f"; left out: {line}" for line in left_out)
    layout = "split/class/image" if depth == 2 else "class/image"
    if not classes:
        raise ValueError(
            "The folder must hold images as class/image or "
            f"split/class/image ({', '.join(IMAGE_SUFFIXES)}). "
            f"{received}{also}"
        )
    if depth == 1 and _looks_split(classes):
        raise ValueError(
            "The folder of a split must hold one folder per class. "
            f"{received}, where {' and '.join(filter(_is_split, classes))} "
            "hold images themselves"
        )
    if len(classes) < 2:
        raise ValueError(
            "The folder must hold images of at least two classes, each in "
            f"a folder of its own. {received} with one, {classes[0]!r}, "
            f"read as {layout}{also}"
        )
    if split not in splits:
        raise ValueError(
            f"`split` must be one of {', '.join(sorted(splits))}. "
            f"Received: split={split!r} of name={str(root)!r}{also}"
        )
    if not splits[split]:
        raise ValueError(
            f"The split must have examples. Received: split={split!r} of "
            f"name={str(root)!r}, which got none of the few images; make "
            "the folders train/ and test/ to choose them yourself"
        )
    number = {label: index for index, label in enumerate(classes)}
    names, labels = zip(*sorted(splits[split]), strict=True)
    labels = tuple(number[label] for label in labels)
    return FoundImages(names, labels, tuple(classes), left_out)


def list_pictures(root, split):
    """As `find_images`: lists of names and labels, and the classes."""
    found = find_images(root, split)
    return list(found.names), list(found.labels), found.classes


def _walk(root):
    """Images as parts of their paths, and other files by suffix."""
    images, others = [], collections.defaultdict(list)

    def walk(folder, parts):
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            if entry.name.startswith("."):
                continue
            path = (*parts, entry.name)
            if entry.is_dir():
                if len(path) < _DEPTH:
                    walk(entry.path, path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                images.append(path)
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                others[suffix].append("/".join(path))

    walk(root, ())
    return images, others


def _has_splits(images):
    """Whether the folders at the top are splits, not classes."""
    direct, nested = collections.Counter(), collections.Counter()
    for parts in images:
        if len(parts) == 2:
            direct[parts[0]] += 1
        elif len(parts) > 2:
            nested[parts[0]] += 1
    like_splits = [top for top in nested if nested[top] > direct[top]]
    if any(_is_split(top) for top in like_splits):
        return True
    like_classes = [top for top in direct if direct[top] >= nested[top]]
    return len(like_splits) > len(like_classes)


def _is_split(name):
    return bool(_SPLITS.fullmatch(name.lower()))


def _looks_split(classes):
    """Whether classes are rather splits: one of training, another of not."""
    named = [label.lower() for label in classes if _is_split(label)]
    training = [label for label in named if label.startswith("train")]
    return bool(training) and len(training) < len(named)


def _left_out(misplaced, others):
    for deeper, names in sorted(misplaced.items()):
        where = "below" if deeper else "outside of"
        yield f"{_count(names, 'image')} {where} the class folders{_few(names)}"
    for suffix, names in sorted(others.items()):
        kind = f"with the suffix {suffix}" if suffix else "without a suffix"
        yield f"{_count(names, 'file')} {kind}, no image's{_few(names)}"


def _count(names, noun):
    return f"{len(names):,} {noun}{'s' if len(names) > 1 else ''}"


def _few(names):
    # repr shows what cannot be printed.
    few = ", ".join(repr(name)[1:-1] for name in names[:_EXAMPLES])
    return f": {few}, …" if len(names) > _EXAMPLES else f": {few}"


def _in_test(name):
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0
