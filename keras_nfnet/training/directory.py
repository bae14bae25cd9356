"""The directory of one run: what it holds, and which run may resume there."""

import csv
import dataclasses
import importlib.util
import io
import json
import os
import re

import keras

from keras_nfnet.data.data_info import difference, fingerprint
from keras_nfnet.data.labels import description
from keras_nfnet.diagnostics import signal_propagation
from keras_nfnet.models.keras_file import load_keras_file
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.training.recipe import (
    from_toml,
    read_recipe,
    to_toml,
    write_recipe,
)
from keras_nfnet.training.report import (
    png_of,
    training_figure,
    write_run_report,
)
from keras_nfnet.utils.arguments import file_to_write
from keras_nfnet.utils.files import replacing, write_whole
from keras_nfnet.weights import save

MODEL = "model.keras"
EMA_MODEL = "ema_model.keras"
_RECIPE = "recipe.toml"
_LOG = "log.csv"
_RESULTS = "results.json"
_REPORT = "report.html"
# A run may go on with other values of these. Where the devices differ, sums
# are taken in another order, and the last bits with them.
_FREE = {"strategy"}
# The beginning of gs://bucket/runs, also as a `pathlib.Path` has it. (One
# letter is a drive of Windows.)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class RunDirectory:
    """`recipe.toml`, checkpoints, log and results of one run.

    Args:
        path: The directory, or `None` to keep nothing.
        recipe: The run's `Recipe`.
        chief: Whether this process writes; the others only read.

    Raises:
        ValueError: If another recipe runs there, or another process, or it
            is a URL.
    """

    def __init__(self, path, recipe, chief=True):
        self.path = None if path is None else os.path.abspath(path)
        self._recipe = recipe
        self._writes = chief and path is not None
        self._metadata = {"backend": keras.backend.backend()}
        self._checkpoints = None
        if path is None:
            return
        if _URL.match(os.fspath(path)):
            raise ValueError(
                "`directory` must be a folder of a file system, a mounted "
                "one or a local one that is copied to the bucket. Received: "
                f"directory={str(path)!r}"
            )
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise ValueError(
                "`directory` must be a folder, or a path for a new one. "
                f"Received: directory={str(path)!r}, which is a file"
            )
        self._knows_recipe = os.path.exists(self._file(_RECIPE))
        self._checkpoints = Checkpoints(self._file("checkpoints"))
        # A run that failed to start, as without a connection, leaves a
        # recipe and nothing else.
        if self._knows_recipe and (
            self._checkpoints.latest is not None
            or os.path.exists(self._file(_LOG))
        ):
            there = read_recipe(self._file(_RECIPE))
            self._refuse_another_recipe(there, self.path)

    def __enter__(self):
        if self._writes:
            self._checkpoints.acquire()
        return self

    def __exit__(self, *_):
        if self._checkpoints is not None:
            self._checkpoints.release()

    def _file(self, name):
        return os.path.join(self.path, name)

    def restore(self, data):
        """The checkpoint to go on from, or `None`.

        Writes the recipe, once nothing speaks against going on.

        Args:
            data: The `DataInfo` of the data, `{"training": …,
                "evaluation": …}`.

        Raises:
            ValueError: If the checkpoint is of another recipe, backend or
                data.
        """
        if self._checkpoints is None:
            return None
        data = {name: fingerprint(info) for name, info in data.items()}
        self._metadata.update(recipe=to_toml(self._recipe), data=data)
        checkpoint = self._checkpoints.restore()
        if checkpoint is not None:
            self._refuse(checkpoint, data)
        if self._writes:
            write_recipe(self._recipe, self._file(_RECIPE))
        return checkpoint

    def _refuse(self, checkpoint, data):
        """Refuses to go on from a checkpoint of another run."""
        metadata = checkpoint.metadata
        backend = keras.backend.backend()
        if metadata["backend"] != backend:
            raise ValueError(
                f"The run in {self.path!r} is on the {metadata['backend']} "
                "backend; go on with that, or use another directory. "
                f"Received: the {backend} backend"
            )
        if "recipe" in metadata:
            there = from_toml(metadata["recipe"], repr(checkpoint.path))
            self._refuse_another_recipe(there, checkpoint.path)
        elif not self._knows_recipe:
            raise ValueError(
                f"The checkpoint {checkpoint.path!r} does not say of which "
                f"recipe it is, and there is no {_RECIPE}; use another "
                f"directory. Received: directory={self.path!r}"
            )
        for name, before in metadata.get("data", {}).items():
            different = difference(before, data[name])
            if different:
                raise ValueError(
                    f"The {name} data of the run in {self.path!r} were "
                    "others; go on with those, or use another directory. "
                    f"Received: {different}"
                )

    def _refuse_another_recipe(self, there, path):
        names = [field.name for field in dataclasses.fields(there)]
        values = (
            (n, getattr(self._recipe, n), getattr(there, n)) for n in names
        )
        different = [
            f"{name}={here!r} in place of {before!r}"
            for name, here, before in values
            if name not in _FREE and here != before
        ]
        if different:
            raise ValueError(
                f"Another recipe runs in {path!r}; use another directory. "
                f"Received: {', '.join(different)}"
            )

    def save(self, step, arrays, **facts):
        """Saves a checkpoint, if this process writes."""
        if self._writes:
            self._checkpoints.save(step, arrays, {**self._metadata, **facts})

    def write_log(self, history):
        """Writes one row per epoch to `log.csv`, if this process writes."""
        if not self._writes:
            return
        names = dict.fromkeys(name for row in history for name in row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["epoch", *names])
        writer.writeheader()
        for epoch, row in enumerate(history, 1):
            writer.writerow({"epoch": epoch, **row})
        write_whole(self._file(_LOG), text.getvalue())

    def callbacks(self):
        """TensorBoard's, where it is installed."""
        if not self._writes or not importlib.util.find_spec("tensorboard"):
            return []
        folder = self._file("tensorboard")
        return [keras.callbacks.TensorBoard(folder, write_graph=False)]

    def finish(self, result, with_signal=True):
        """Writes models, weights, their description, results and a report.

        Args:
            result: A `TrainingResult`.
            with_signal: Whether the report shows the signal's propagation;
                one of several processes cannot measure it alone.
        """
        if not self._writes:
            return
        recipe = self._recipe
        save_described(result.model, self._file(MODEL), recipe, result)
        save(result.model, self._file("weights.safetensors"))
        if result.ema_model is not None:
            save_model(result.ema_model, self._file(EMA_MODEL))
            save(result.ema_model, self._file("ema_weights.safetensors"))
        summary = {
            "recipe": recipe.name,
            "backend": keras.backend.backend(),
            "parameters": result.model.count_params(),
            "steps": result.steps,
            "examples": result.examples,
            "corrupt": result.corrupt,
            **{name: values[-1] for name, values in result.history.items()},
            **result.evaluation,
        }
        write_whole(self._file(_RESULTS), json.dumps(summary, indent=1) + "\n")
        curves = png_of(training_figure(result.history))
        write_whole(self._file("training.png"), curves)
        write_run_report(
            self._file(_REPORT),
            recipe,
            result.history,
            curves,
            summary,
            signal_propagation(result.model) if with_signal else None,
        )


def save_model(model, path):
    """Writes a `.keras` file, whole or not at all."""
    with replacing(path, ".keras") as temporary:
        model.save(temporary)


def save_described(model, path, recipe, result):
    """Writes a `.keras` file, and beside it its labels and preprocessing."""
    save_model(model, path)
    size = recipe.test_size or recipe.size
    texts = description(
        model.name,
        result.label_names,
        (size, size),
        recipe.precision,
        recipe.evaluation_margin,
    )
    for name, text in texts.items():
        write_whole(os.path.join(os.path.dirname(path), name), text)


def recipe_of_run(source):
    """Path of the recipe in a run's folder."""
    path = os.path.join(source, _RECIPE)
    if not os.path.isfile(path):
        raise ValueError(
            "SOURCE must be the folder of a run, or be given with a recipe. "
            f"Received: {str(source)!r}"
        )
    return path


def report_run(directory, path=None):
    """Writes the page of a run that is under way, stopped or finished.

    Args:
        directory: The run's folder.
        path: Of the page, an HTML file; `None` for `report.html` there.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the folder holds no run, or one without a whole epoch,
            or the page cannot be written there.
    """
    recipe = read_recipe(recipe_of_run(directory))
    page = file_to_write(
        "path", path or os.path.join(directory, _REPORT), ".html"
    )
    history = _read_log(os.path.join(directory, _LOG))
    results = os.path.join(directory, _RESULTS)
    model = os.path.join(directory, MODEL)
    summary = signal = None
    if os.path.exists(results) and os.path.exists(model):
        with open(results, encoding="utf-8") as file:
            summary = json.load(file)
        signal = signal_propagation(load_keras_file(model, "directory"))
    curves = png_of(training_figure(history))
    write_run_report(page, recipe, history, curves, summary, signal)
    return page


def _read_log(path):
    """`{name: values by epoch}` of a run's `log.csv`."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            name: [float(row[name]) if row[name] else None for row in rows]
            for name in rows[0]
            if name != "epoch"
        }
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            "The run must have a log of an epoch or more. "
            f"Received: {path!r} ({error})"
        ) from error
