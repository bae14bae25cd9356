"""What tells whether a split still holds the same examples."""

import hashlib
import os

# Files that are together no larger are read; of others the sizes count.
_READ_BYTES = 64 * 2**20


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
    sizes = [_size(path) for _, path in files]
    digest = hashlib.sha256()
    for (name, _), size in zip(files, sizes, strict=True):
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    if sum(sizes) <= _READ_BYTES:
        for _, path in files:
            digest.update(_content(path))
    return digest.hexdigest()


def _size(path):
    if "://" in path:
        import tensorflow as tf

        return tf.io.gfile.stat(path).length
    return os.path.getsize(path)


def _content(path):
    if "://" in path:
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        return file.read()
