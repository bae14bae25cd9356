"""What TFLite and ONNX exports check before any work."""

import dataclasses

from keras_nfnet.data.labels import class_names
from keras_nfnet.export.classifier import (
    check_finite,
    check_takes_images,
    input_size,
)
from keras_nfnet.export.comparison import DEFAULT_SIZE
from keras_nfnet.export.staging import check_file


@dataclasses.dataclass(frozen=True)
class Request:
    """Checked arguments.

    Args:
        labels: One string per class, or `None` of a model that returns
            feature maps.
        size: `(height, width)` in pixels.
    """

    labels: tuple | None
    size: tuple


def checked_request(
    model, path, precision, precisions, labels, size, overwrite, ending
):
    """Checks a model and the arguments of its export to one file.

    Returns:
        A `Request`.

    Raises:
        ValueError: Naming the argument that does not fit.
    """
    check_takes_images(model)
    if precision not in precisions:
        raise ValueError(
            f"`precision` must be one of {', '.join(precisions)}. "
            f"Received: precision={precision!r}"
        )
    size = input_size(model, size) or (DEFAULT_SIZE, DEFAULT_SIZE)
    shape = model.outputs[0].shape
    if len(shape) == 2:
        labels = class_names(labels, shape[-1])
    elif labels is not None:
        raise ValueError(
            "`labels` need a model that returns classes. Received: a model "
            f"of output {tuple(shape)}"
        )
    check_file(path, overwrite, ending)
    check_finite(model)
    return Request(labels, size)


def silent(step):
    """The progress that nobody asked for."""
