"""Class labels, and the texts beside a model's file that tell them.

The same two texts lie in exported artifacts and beside the model of a run.
"""

import csv
import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from keras import ops

from keras_nfnet.data.preprocessing import EVALUATION_MARGIN, check_margin
from keras_nfnet.utils.arguments import integer, refuse
from keras_nfnet.utils.types import Tensor
from keras_nfnet.version import __version__

LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"

# The 1000 classes of ILSVRC 2012 in the order of their WordNet ids, which is
# the order of Keras's class index, of TFDS's `imagenet2012` and of the
# authors' weights. The name is the synset's first lemma with underscores.
# Source: timm 1.0, timm/data/_info/imagenet_synsets.txt and
# imagenet_synset_to_lemma.txt (Apache-2.0); the lemmas are WordNet's
# (Princeton University, WordNet licence).
_LABEL_FILE = "imagenet_labels.csv"


@functools.cache
def imagenet_labels() -> tuple[tuple[str, str], ...]:
    """The 1000 ImageNet classes in order.

    Returns:
        A tuple of 1000 `(wnid, name)`. Two names occur twice ("crane" and
        "maillot"); the ids are unique.

    Example:

    >>> keras_nfnet.data.imagenet_labels()[0]
    ('n01440764', 'tench')

    Reference: Russakovsky et al., arXiv:1409.0575.
    """
    file = resources.files("keras_nfnet.data").joinpath(_LABEL_FILE)
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return tuple((row["wnid"], row["name"]) for row in rows)


def decode_predictions(
    preds: Tensor, top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """The best classes of ImageNet predictions, as `keras.applications` has.

    Args:
        preds: Array or tensor `(samples, 1000)` of probabilities or logits.
        top: How many classes to return of each sample, 1 to 1000.

    Returns:
        A list per sample of `top` tuples `(wnid, name, score)`, best first.

    Raises:
        ValueError: If `preds` has another shape or `top` is out of range.

    Example:

    >>> keras_nfnet.decode_predictions(np.eye(1000)[:1], top=1)
    [[('n01440764', 'tench', 1.0)]]

    Reference: `keras.applications.imagenet_utils.decode_predictions`.
    """
    shape = tuple(getattr(preds, "shape", ()))
    if len(shape) != 2 or shape[1] != 1000:
        raise ValueError(
            "`preds` must be a batch of predictions, a 2D array of shape "
            f"(samples, 1000). Received: preds={type(preds).__name__} of "
            f"shape {shape}"
        )
    top = integer("top", top, most=1000)
    labels = imagenet_labels()
    return [
        [(*labels[index], score) for index, score in best(sample, top)]
        for sample in ops.convert_to_numpy(preds)
    ]


def best(scores, top):
    """The indices and values of the `top` largest scores, best first.

    Args:
        scores: NumPy array `(classes,)`.
        top: How many; at most all of them are returned.

    Returns:
        A list of `(index, score)`; equal scores keep the classes' order.
    """
    order = (-scores).argsort(kind="stable")[:top]
    return [(int(index), float(scores[index])) for index in order]


def class_names(labels, classes):
    """One name per class from what a user may give as `labels`.

    Args:
        labels: A sequence of names, the path of a text file with one name a
            line, or `None`: ImageNet's names for 1000 classes, else the
            classes' numbers.
        classes: Number of classes of the model; 2 for one sigmoid unit.

    Returns:
        A tuple of `classes` strings.

    Raises:
        ValueError: If there are not `classes` names, or one is empty or
            spans lines.
    """
    if labels is None:
        if classes == 1000:
            return tuple(name for _, name in imagenet_labels())
        return tuple(str(index) for index in range(classes))
    if isinstance(labels, str | os.PathLike):
        labels = read_labels(labels)
    if not isinstance(labels, Iterable):
        refuse("labels", labels, "a list of names or the path of a text file")
    labels = tuple(labels)
    check_names(labels)
    if len(labels) != classes:
        raise ValueError(
            f"`labels` must have one name for each of the {classes} "
            f"classes. Received: {len(labels)} labels"
        )
    return labels


def check_names(labels, what="`labels`"):
    """Refuses names that a text file of one name a line cannot hold.

    Args:
        labels: Names of classes.
        what: What they are, for the message.

    Raises:
        ValueError: If one is no string, empty, has a line break or is not
            UTF-8.
    """
    for label in labels:
        # `splitlines` knows more line breaks than "\n"; so does `read_labels`.
        if (
            not isinstance(label, str)
            or label.splitlines() != [label]
            or not is_utf8(label)
        ):
            raise ValueError(
                f"{what} must be strings of one line, not empty, in UTF-8. "
                f"Received: {label!r} among the labels"
            )


def is_utf8(name):
    """Whether a name, perhaps from the file system, is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_labels(path):
    """The names in a text file, one a line.

    A byte order mark, as Windows writes, and empty lines at the end are left
    out.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return tuple(file.read().rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "`labels` must be a list of names or the path of a text file "
            f"with one name a line. Received: labels={str(path)!r} ({error})"
        ) from error


def description(name, labels, size, precision, margin=EVALUATION_MARGIN):
    """Texts by name, to be stored with a model.

    Args:
        name: The model's.
        labels: One string per class, or `None` of a model without classes.
        size: `(height, width)` in pixels that images are brought to.
        precision: Of the weights.
        margin: Pixels to resize beyond `size` before the centre crop, or a
            crop fraction.

    Returns:
        `{"labels.txt": one a line, "preprocessing.json": JSON}`, without
        the first where there are no labels.
    """
    facts = {
        "model": name,
        "made_by": f"keras_nfnet {__version__}",
        "precision": precision,
        "input": "images",
        "layout": "batch, height, width, channels",
        "channels": "RGB",
        "range": [0, 255],
        "normalization": "inside",
        "size": list(size),
        "resize": (
            "bicubic, the shorter side to size / margin, then the centre"
            if isinstance(margin, float)
            else "bicubic without antialiasing to size + margin, then the "
            "centre"
        ),
        "margin": margin,
    }
    texts = {PREPROCESSING: json.dumps(facts, indent=1) + "\n"}
    if labels is not None:
        texts[LABELS] = "".join(f"{label}\n" for label in labels)
    return texts


@dataclass(frozen=True)
class Described:
    """What lies beside a model's file.

    Args:
        labels: One name per class, or `None`.
        size: `(height, width)` in pixels, or `None`.
        margin: Pixels, a crop fraction, or `None`.
    """

    labels: tuple | None = None
    size: tuple | None = None
    margin: int | float | None = None


def described(path):
    """Reads the texts beside a model's file, as a run leaves them.

    Args:
        path: Of the model's file; `labels.txt` and `preprocessing.json` are
            looked for in its folder.

    Raises:
        ValueError: If one of them cannot be read.
    """
    folder = os.path.dirname(os.path.abspath(path))
    labels = os.path.join(folder, LABELS)
    found = {"labels": read_labels(labels)} if os.path.exists(labels) else {}
    facts = os.path.join(folder, PREPROCESSING)
    if os.path.exists(facts):
        try:
            with open(facts, encoding="utf-8") as file:
                content = json.load(file)
            height, width = content["size"]
            found["size"] = (int(height), int(width))
            check_margin(content["margin"])
            found["margin"] = content["margin"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{facts!r} must hold `size`, two numbers, and `margin`; "
                f"mend or remove it ({error})"
            ) from error
    return Described(**found)
