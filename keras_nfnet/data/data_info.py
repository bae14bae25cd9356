"""What a split of a data set holds, and how much of it is broken."""

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable

from keras_nfnet.utils.arguments import number

# Images seen before a fraction of them means something.
_LEAST_SEEN = 100
_NAMES = 5
# How many classes `DataInfo.summary` counts one by one.
_COUNTED = 10
# Files that are together no larger are read; of others the sizes count.
_READ_BYTES = 64 * 2**20


class CorruptCounter:
    """Counts the images of one pipeline that could not be decoded.

    A pipeline counts a batch when it makes it, which is a few batches before
    it is used.

    Args:
        max_share: Largest fraction of broken images in [0, 1]; with more,
            the pipeline fails.
        examples: Examples of the split. The fraction is checked once 100
            images, or the split, have been seen.

    Attributes:
        seen: Images seen, broken ones included.
        broken: How many of them could not be decoded.
        names: The first few of them: paths within the folder, or TFDS ids.

    Raises:
        ValueError: If `max_share` is not in [0, 1].

    Example:

    >>> counter = CorruptCounter(max_share=0.5, examples=1000)
    >>> counter.count(seen=8, names=["cat/3.jpg"])
    >>> print(counter.summary())
    1 of 8 images (12.5%) could not be decoded: cat/3.jpg
    """

    def __init__(self, max_share, examples):
        self.max_share = number(
            "max_corrupt", max_share, lambda v: 0 <= v <= 1, "in [0, 1]"
        )
        self.seen = self.broken = 0
        self.names = []
        self._unlabelled = ""
        self._least_seen = min(_LEAST_SEEN, examples)
        self._lock = threading.Lock()

    def count(self, seen, names, unlabelled=()):
        """Adds images.

        Args:
            seen: Number of images.
            names: Names of those that are broken.
            unlabelled: Names of those that have no class.
        """
        with self._lock:
            self._unlabelled = self._unlabelled or next(iter(unlabelled), "")
            self.seen += seen
            self.broken += len(names)
            for name in names:
                if len(self.names) < _NAMES and name not in self.names:
                    self.names.append(name)

    def summary(self):
        """One line on what was seen; empty if nothing was broken."""
        if not self.broken:
            return ""
        names = ", ".join(self.names)
        more = ", …" if self.broken > len(self.names) else ""
        return (
            f"{self.broken:,} of {self.seen:,} images "
            f"({self.broken / self.seen:.1%}) could not be decoded: "
            f"{names}{more}"
        )

    def check(self):
        """Raises if more than `max_share` was broken, or one has no class.

        Raises:
            ValueError: Saying how many, some of them by name.
        """
        if self._unlabelled:
            raise ValueError(
                "Every example must have a label of 0 or more. Received: "
                f"{self._unlabelled} without a class, as in test splits "
                "whose labels are not published"
            )
        if self.seen >= self._least_seen and (
            self.broken > self.max_share * self.seen
        ):
            raise ValueError(
                f"{self.summary()}. Mend or remove them, or allow more than "
                f"{self.max_share:.1%} by `max_corrupt`"
            )


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a split of a data set holds.

    Args:
        name: The data set's name and version, or the folder.
        split: The split.
        examples: Number of examples.
        classes: Number of classes.
        label_names: One name per class.
        counts: Number of examples of each class, or `None`: data sets of
            TFDS do not store it.
        left_out: One line on each kind of files that are left out, and why.
        corrupt: The pipeline's `CorruptCounter`; `None` without pipeline.
        files: A function that gives `(name, path)` of each file with
            examples, in their order; `None` where there are no files.
    """

    name: str
    split: str
    examples: int
    classes: int
    label_names: tuple
    counts: tuple | None = None
    left_out: tuple = ()
    corrupt: CorruptCounter | None = dataclasses.field(
        default=None, compare=False
    )
    files: Callable | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def steps(self, batch_size: int) -> int:
        """Full batches in one pass over the split."""
        return self.examples // batch_size

    def summary(self) -> str:
        """A few lines on what was found.

        Returns:
            A string: the split, its numbers of images and classes, the
            images of each class, where they are known, and what was left
            out.
        """
        lines = [
            f"{self.name}, {self.split}: {self.examples:,} images, "
            f"{self.classes:,} classes"
        ]
        if self.counts is not None:
            named = list(zip(self.label_names, self.counts, strict=True))
            if len(named) > _COUNTED:
                named.sort(key=lambda each: each[1])
                few, many = named[0], named[-1]
                lines.append(
                    f"  from {few[1]:,} images ({few[0]}) to {many[1]:,} "
                    f"({many[0]}) a class"
                )
            else:
                counted = (f"{name} {count:,}" for name, count in named)
                lines.append(f"  {', '.join(counted)}")
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)


def fingerprint(info):
    """What a split holds, in a form that JSON can hold.

    NOTE: in data sets beyond 64 MiB a file that is changed to another of the
    same size goes unnoticed: to read them at every start would take too long.

    Args:
        info: A `DataInfo`.

    Returns:
        `{"examples": …, "classes": …, "files": …}`; the last is a digest of
        the names, sizes and contents of the files, or `None` where there
        are no files.
    """
    return {
        "examples": info.examples,
        "classes": list(info.label_names),
        "files": info.files and _digest(info.files()),
    }


def difference(before, now):
    """What two fingerprints differ in, in words; empty if in nothing."""
    if before["examples"] != now["examples"]:
        return (
            f"{now['examples']:,} examples in place of {before['examples']:,}"
        )
    if before["classes"] != now["classes"]:
        return "other classes"
    if before["files"] != now["files"]:
        return "as many examples, in files of other names, sizes or contents"
    return ""


def _digest(files):
    import tensorflow as tf  # Its `gfile` reads buckets too.

    # As bytes: names of files need not be UTF-8.
    paths = [os.fsencode(path) for _, path in files]
    sizes = [tf.io.gfile.stat(path).length for path in paths]
    digest = hashlib.sha256()
    for (name, _), size in zip(files, sizes, strict=True):
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    if sum(sizes) <= _READ_BYTES:
        for path in paths:
            with tf.io.gfile.GFile(path, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()
