"""What goes with a model: its labels, and how its pictures are prepared.

The same two texts lie in exported artifacts and beside the model of a run.
"""

import json
import os
from dataclasses import dataclass

from keras_nfnet.data.labels import read_labels
from keras_nfnet.data.preprocessing import EVALUATION_MARGIN, check_margin
from keras_nfnet.version import __version__

LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"


def description(name, labels, size, precision, margin=EVALUATION_MARGIN):
    """Texts by name, to be stored with a model.

    Args:
        name: The model's.
        labels: One string per class, or `None` of a model without classes.
        size: `(height, width)` in pixels that pictures are brought to.
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
