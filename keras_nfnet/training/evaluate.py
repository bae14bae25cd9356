"""Evaluation of what is on the disk: a run, a model, or weights."""

import os
from typing import Any

import numpy as np
from keras import ops

from keras_nfnet.data.labels import class_names
from keras_nfnet.data.preprocessing import channel_statistics
from keras_nfnet.export.contract import contract_of
from keras_nfnet.models.keras_file import load_keras_file
from keras_nfnet.models.output import logits_model
from keras_nfnet.training.batches import evaluation_data, progress_bar
from keras_nfnet.training.distribution import engine_for
from keras_nfnet.training.evaluation import Evaluation
from keras_nfnet.training.evaluation_report import (
    Findings,
    write_evaluation_report,
)
from keras_nfnet.training.network import build
from keras_nfnet.training.recipe import Recipe
from keras_nfnet.training.recipe_file import read_recipe
from keras_nfnet.training.results import EMA_MODEL, MODEL
from keras_nfnet.utils.arguments import file_to_write
from keras_nfnet.utils.types import InputRange, Labels, Path
from keras_nfnet.weights.load import classes_in

# Pictures of one batch on each device; a recipe's batch is for many devices.
_BATCH = 64


def evaluate_source(
    source: Path,
    recipe: Recipe | None = None,
    data_dir: Path | None = None,
    average: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
    *,
    input_range: InputRange | None = None,
    report: Path | None = None,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """Evaluates with a recipe's data and preprocessing.

    Args:
        source: A run's folder, a `.keras` file, a file of weights, or
            `"imagenet"` for published ones.
        recipe: A `Recipe`, whose data, test split and size are taken, and
            for weights the model; `None` for that of the run.
        data_dir: Where TFDS keeps data sets.
        average: Of a run, take the average of the weights.
        batch_size: Pictures of one global batch; by default 64 for each
            device. The result does not depend on it.
        progress: Whether to show a progress bar.
        input_range: As for `keras_nfnet.export.to_onnx`.
        report: Path of an HTML file to write, or `None`: confusions, the
            worst errors with their pictures, and accuracy by class. It
            opens offline. Several processes write it once.
        labels: For the report, one name per class, or the path of a text
            file with one name a line; `None` for the data's.

    Returns:
        `{"accuracy", "top5", "loss", "examples", "corrupt"}`.

    Raises:
        ValueError: If there is no recipe, the model or the classes of the
            weights do not fit it, or `report` cannot be written.

    Example:

    >>> evaluate_source("runs/digits")["accuracy"]
    0.9944444444444445
    """
    if report is not None:
        report = file_to_write("report", report, ".html")
    elif labels is not None:
        raise ValueError(
            "`labels` are for a report, and need `report`. Received: "
            f"labels={labels!r}, report=None"
        )
    if recipe is None:
        recipe = read_recipe(recipe_of_run(source))
    engine = engine_for(recipe.strategy, batch_size)
    batch_size = batch_size or _BATCH * engine.replicas
    dataset, info = evaluation_data(recipe, batch_size, data_dir)
    names = info.label_names
    if labels is not None:
        names = class_names(labels, info.classes)
    with engine.running():
        with engine.scope():
            model = logits_model(_model(source, recipe, average))
        if model.output_shape[-1] != info.classes:
            raise ValueError(
                f"The model must have the classes of the data "
                f"({info.classes}). Received: {model.output_shape[-1]} classes"
            )
        contract = contract_of(model, input_range)
        findings = None if report is None else Findings(contract.pixels_of)
        values = Evaluation(model, engine, batch_size)(
            _as_taken(dataset, contract),
            progress_bar(info.examples, batch_size) if progress else None,
            findings,
        )
    corrupt = info.corrupt
    examples = corrupt.seen - corrupt.broken
    values.update(examples=examples, corrupt=corrupt.summary())
    if report is not None and engine.chief:
        files = None
        if info.counts is not None and not corrupt.broken:  # A folder.
            files = [name for name, _ in info.files()]
        write_evaluation_report(
            report,
            f"{model.name} on {info.name}, {info.split}",
            [("evaluated", str(source)), *shown(values)],
            findings,
            names,
            files,
        )
    return values


def shown(values):
    """What `evaluate_source` returned, as pairs of a name and a text."""
    rows = [
        ("accuracy", f"{100 * values['accuracy']:.2f}%"),
        ("top-5 accuracy", f"{100 * values['top5']:.2f}%"),
        ("loss", f"{values['loss']:.4f}"),
        ("examples", f"{values['examples']:,}"),
    ]
    if values["corrupt"]:
        rows.append(("corrupt", values["corrupt"]))
    return rows


def _as_taken(dataset, contract):
    """Batches of normalized RGB images as the model takes them."""
    if contract.channels == 3 and contract.input_range == "imagenet":
        return dataset
    mean, deviation = (np.float32(v) for v in channel_statistics(3))
    return (
        (
            ops.convert_to_numpy(
                contract.images(
                    contract.pixels(np.asarray(images) * deviation + mean)
                )
            ),
            labels,
        )
        for images, labels in dataset
    )


def recipe_of_run(source):
    """Path of the recipe in a run's folder."""
    path = os.path.join(source, "recipe.toml")
    if not os.path.isfile(path):
        raise ValueError(
            "SOURCE must be the folder of a run, or be given with a recipe. "
            f"Received: {str(source)!r}"
        )
    return path


def _model(source, recipe, average):
    path = source
    if os.path.isdir(source):
        path = os.path.join(source, EMA_MODEL if average else MODEL)
        if not os.path.isfile(path):
            raise ValueError(
                "The run must have been finished"
                + (", and keep an average (`ema_decay`)" if average else "")
                + f". Received: {str(source)!r}, which has no "
                f"{os.path.basename(path)}"
            )
    elif average:
        raise ValueError(
            "`--ema` needs the folder of a run; of files, name the one with "
            f"the average. Received: {str(source)!r}"
        )
    if str(path).endswith(".keras"):
        return load_keras_file(path, "source")
    classes = classes_in(path)
    if classes != recipe.classes:
        raise ValueError(
            "SOURCE must have a classifier of the recipe's classes "
            f"({recipe.classes}). Received: {str(source)!r}, with "
            f"{classes or 'no'} classes"
        )
    # Only the network is needed; a step in each epoch makes a schedule.
    recipe = recipe.replace(
        weights=str(path),
        new_head=False,
        ema_decay=None,
        gradient_accumulation_steps=None,
    )
    return build(recipe, 1)
