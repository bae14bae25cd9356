"""What every export checks, prepares, writes and compares."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import warnings

import keras

from keras_nfnet.data.labels import class_names, description
from keras_nfnet.export import comparison
from keras_nfnet.export.calibration import calibration_pixels
from keras_nfnet.export.contract import (
    Contract,
    check_finite,
    check_takes_images,
    contract_of,
    input_size,
    view_margin,
)
from keras_nfnet.models.output import labelled_classes
from keras_nfnet.utils import arguments
from keras_nfnet.utils.files import place, scratch_folder
from keras_nfnet.utils.moved import moved_names
from keras_nfnet.utils.types import Path, Progress


@dataclasses.dataclass
class Export:
    """One export: its checked arguments, and the steps of every format.

    Args:
        model: The caller's Keras model.
        path: The file or directory to write.
        precision: As in `ExportReport`.
        labels: One string per class, or `None` of a model that returns
            feature maps.
        size: `(height, width)` in pixels.
        margin: Pixels to resize beyond `size` before the centre crop, or
            a crop fraction.
        contract: What the model takes and returns, a `Contract`.
        say: Function that is told each step as it begins.
    """

    model: keras.Model
    path: Path
    precision: str
    labels: tuple | None
    size: tuple
    margin: int | float
    contract: Contract
    say: Progress
    # What the export is compared with: set by `folded`.
    reference: keras.Model | None = None

    def folded(self):
        """The folded network in float32, once it gives the model's outputs.

        Raises:
            ValueError: If it does not.
        """
        self.say("folding")
        folded, self.reference = comparison.checked_fold(
            self.model, self.contract, self.size
        )
        return folded

    def prepared(self, calibration):
        """The folded network, and the calibration pixels of `"int8"`.

        Raises:
            ValueError: If `calibration` does not fit or the fold is wrong.
        """
        if self.precision == "int8":
            calibration = calibration_pixels(
                calibration, self.size, self.margin, self.contract
            )
        folded = self.folded()
        self.say(f"converting to {self.precision}")
        return folded, calibration

    def texts(self):
        """What is stored with the model: texts by their file names."""
        return description(
            self.model.name, self.labels, self.size, self.precision, self.margin
        )

    def compared(self, runner, new):
        """The `ExportReport` of the file `new`, which `runner` loads.

        Raises:
            ValueError: If the file differs by more than its bound.
        """
        self.say("running and comparing")
        samples = comparison.images(self.size)
        found = comparison.compare(
            runner(new), self.reference, samples, self.contract
        )
        return self.report(found, new)

    def report(self, found, new):
        """The `ExportReport` of what `compare` found about the file `new`.

        Raises:
            ValueError: If the file differs by more than its bound.
        """
        return comparison.report(
            *found,
            model=self.reference,
            path=new,
            target=self.path,
            precision=self.precision,
            size=self.size,
        )


def checked_export(
    model, path, precision, labels, size, margin, input_range, say
):
    """The `Export` of a model to a file.

    Args:
        model: The caller's argument, as all that follow but the last.
        path: Of the file.
        precision: As in `ExportReport`.
        labels: Names, a path, or `None`.
        size: Pixels, or `None` for the model's.
        margin: Pixels, a crop fraction, or `None` for the model's.
        input_range: Such as `"0-255"`, or `None` to find it out.
        say: What `checked_progress` returned.

    Raises:
        ValueError: Naming the argument that does not fit.
    """
    check_takes_images(model)
    classes = None
    if len(model.outputs) == 1 and len(model.outputs[0].shape) == 2:
        classes = labelled_classes(model)
    labels = checked_labels(model, labels, classes)
    size = input_size(model, size) or comparison.DEFAULT_SIZE
    margin = view_margin(model, margin)
    contract = contract_of(model, input_range)
    check_finite(model)
    return Export(model, path, precision, labels, size, margin, contract, say)


def checked_labels(model, labels, classes):
    """The names of so many classes, or `None` of a model without classes.

    Raises:
        ValueError: If `labels` are none, or are given without classes.
    """
    if classes is not None:
        return class_names(labels, classes)
    if labels is not None:
        raise ValueError(
            "`labels` need a model that returns classes. Received: a model "
            f"of outputs {[tuple(x.shape) for x in model.outputs]}"
        )
    return None


def checked_progress(overwrite, progress):
    """The function that is told each step; checks `overwrite` too."""
    arguments.boolean("overwrite", overwrite)
    return arguments.function("progress", progress) or (lambda step: None)


def check_installed(function, extra, *modules):
    """Refuses, before any work, what a missing package makes impossible.

    Raises:
        RuntimeError: That names the package and the extra which brings it.
    """
    # Every export is compared on photographs of scikit-learn.
    for module in (*modules, "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise RuntimeError(
                f"`{function}` needs {module}, which is not installed: "
                f"pip install 'keras-nfnet[{extra}]'"
            )


def check_backend(function):
    """Refuses another Keras backend than TensorFlow.

    Raises:
        RuntimeError: That names the backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"`{function}` needs the TensorFlow backend of Keras: set "
            "KERAS_BACKEND=tensorflow and load the weights there. Received: "
            f"the backend {keras.backend.backend()!r}"
        )


def check_file(path, overwrite, ending):
    """Refuses a path that a file cannot be written to, before any work.

    Args:
        path: The caller's argument `path`.
        overwrite: Whether a file that is there may be replaced.
        ending: Such as `".onnx"`, for the error's advice.

    Raises:
        ValueError: Saying what is wrong with the path.
    """
    example = f"the path of a file, such as 'nfnet{ending}'"
    arguments.path("path", path, example)
    if os.path.isdir(path) or str(path).endswith((os.sep, os.altsep or "/")):
        expected = f"a file, such as 'nfnet{ending}', not a folder"
        arguments.refuse("path", str(path), expected)
    refuse_existing(path, overwrite, "path")
    check_folder(path, "path")


def check_folder(path, argument):
    """Refuses a path whose folder cannot be made or written."""
    os.rmdir(scratch_folder(place(path), argument))


def refuse_existing(path, overwrite, argument):
    """Refuses a path where something is already, unless told to replace.

    Raises:
        ValueError: If something is there and `overwrite` is false.
    """
    if os.path.lexists(place(path)) and not overwrite:
        raise ValueError(
            f"`{argument}` must be new; give another, or `overwrite=True`. "
            f"Received: {argument}={str(path)!r}, which exists"
        )


@contextlib.contextmanager
def writing(argument, path):
    """Turns the disk's errors into one that names the caller's argument.

    Raises:
        ValueError: In place of an `OSError`, such as of a full disk.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be where the export can be written; what was "
            f"there is unchanged. Received: {argument}={str(path)!r} ({error})"
        ) from error


@contextlib.contextmanager
def quiet():
    """Without what converters and TensorFlow say of their own code."""

    def is_error(record):
        return record.levelno >= logging.ERROR

    # A filter leaves the levels of the loggers as they are.
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    for logger in loggers:
        logger.addFilter(is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_error)


__getattr__ = moved_names(__name__)
