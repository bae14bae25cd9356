"""What an artifact says of itself: labels and preprocessing."""

import json

from keras_nfnet.data.preprocessing import EVALUATION_MARGIN
from keras_nfnet.version import __version__


def description(model, labels, size, precision):
    """Texts by name, to be stored in the artifact.

    Args:
        model: The Keras model.
        labels: One string per class, or `None` of a model without classes.
        size: `(height, width)` in pixels that pictures are brought to.
        precision: Of the weights.

    Returns:
        `{"labels.txt": one a line, "preprocessing.json": JSON}`, without
        the first where there are no labels.
    """
    facts = {
        "model": model.name,
        "made_by": f"keras_nfnet {__version__}",
        "precision": precision,
        "input": "images",
        "layout": "batch, height, width, channels",
        "channels": "RGB",
        "range": [0, 255],
        "normalization": "inside",
        "size": list(size),
        "resize": (
            "bicubic without antialiasing to size + margin, then the centre"
        ),
        "margin": EVALUATION_MARGIN,
    }
    texts = {"preprocessing.json": json.dumps(facts, indent=1) + "\n"}
    if labels is not None:
        texts["labels.txt"] = "".join(f"{label}\n" for label in labels)
    return texts
