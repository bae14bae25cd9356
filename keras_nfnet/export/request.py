"""What the exports to files check, and do before they convert."""

import dataclasses
import importlib.util

from keras_nfnet.data.labels import class_names, description
from keras_nfnet.export.calibration import calibration_pixels
from keras_nfnet.export.classifier import (
    check_finite,
    check_takes_images,
    input_size,
    view_margin,
)
from keras_nfnet.export.comparison import DEFAULT_SIZE, checked_fold
from keras_nfnet.export.contract import Contract, contract_of
from keras_nfnet.export.staging import check_file
from keras_nfnet.models.output import labelled_classes
from keras_nfnet.utils.arguments import boolean, function, one_of


@dataclasses.dataclass(frozen=True)
class Request:
    """Checked arguments.

    Args:
        labels: One string per class, or `None` of a model that returns
            feature maps.
        size: `(height, width)` in pixels.
        margin: Pixels to resize beyond `size` before the centre crop, or
            a crop fraction.
        contract: What the model takes and returns, a `Contract`.
    """

    labels: tuple | None
    size: tuple
    margin: int
    contract: Contract


def check_installed(function, extra, *modules):
    """Refuses, before any work, what a missing package makes impossible.

    Raises:
        RuntimeError: That names the package and the extra which brings it.
    """
    # It takes the photographs that every export is compared on.
    for module in (*modules, "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise RuntimeError(
                f"`{function}` needs {module}, which is not installed: "
                f"pip install 'keras-nfnet[{extra}]'"
            )


def checked_request(
    model,
    path,
    ending,
    precisions,
    *,
    precision,
    labels,
    size,
    margin,
    overwrite,
    progress,
    input_range,
):
    """Checks a model and the arguments of its export to one file.

    Returns:
        A `Request`.

    Raises:
        ValueError: Naming the argument that does not fit.
    """
    check_takes_images(model)
    one_of("precision", precision, precisions)
    boolean("overwrite", overwrite)
    function("progress", progress)
    size = input_size(model, size) or (DEFAULT_SIZE, DEFAULT_SIZE)
    margin = view_margin(model, margin)
    contract = contract_of(model, input_range)
    shapes = [tuple(x.shape) for x in model.outputs]
    shape = shapes[0]
    if len(shapes) == 1 and len(shape) == 2:
        labels = class_names(labels, labelled_classes(model))
    elif labels is not None:
        raise ValueError(
            "`labels` need a model that returns classes. Received: a model "
            f"of outputs {shapes}"
        )
    check_file(path, overwrite, ending)
    check_finite(model)
    return Request(labels, size, margin, contract)


def prepared(request, model, precision, calibration, say):
    """What a conversion starts from.

    Args:
        request: What `checked_request` returned.
        model: The Keras model.
        precision: The caller's argument.
        calibration: The caller's argument, used for `"int8"`.
        say: Function that is told each step as it begins.

    Returns:
        The calibration pixels (or `calibration` as it is), the texts to be
        stored with the model by name, the folded model, and the model to
        compare the export with.

    Raises:
        ValueError: If `calibration` does not fit or the fold is wrong.
    """
    if precision == "int8":
        calibration = calibration_pixels(
            calibration, request.size, request.margin, request.contract
        )
    texts = description(
        model.name, request.labels, request.size, precision, request.margin
    )
    say("folding")
    folded, reference = checked_fold(model, request.contract, request.size)
    say(f"converting to {precision}")
    return calibration, texts, folded, reference


def silent(step):
    """The progress that nobody asked for."""
