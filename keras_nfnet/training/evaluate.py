"""Evaluation: of a model, and of a run, a model or weights on the disk."""

import functools
import os
from typing import Any

import numpy as np
from keras import ops

from keras_nfnet.data.labels import class_names
from keras_nfnet.data.preprocessing import channel_statistics
from keras_nfnet.export.contract import contract_of
from keras_nfnet.models.keras_file import load_keras_file
from keras_nfnet.models.output import logits_model
from keras_nfnet.training.build import evaluation_data, network
from keras_nfnet.training.directory import EMA_MODEL, MODEL, recipe_of_run
from keras_nfnet.training.distribution import engine_for
from keras_nfnet.training.evaluation_report import (
    Findings,
    write_evaluation_report,
)
from keras_nfnet.training.recipe import Recipe, read_recipe
from keras_nfnet.utils.arguments import file_to_write
from keras_nfnet.utils.types import InputRange, Labels, Path
from keras_nfnet.weights.load import classes_in

# Images of one batch on each device; a recipe's batch is for many devices.
_BATCH = 64


class Evaluation:
    """Evaluates one model, as often as needed.

    Every image counts exactly once, on any number of devices: batches are
    padded with images that are not counted, and sums are divided, not means
    averaged. The loss is computed from logits, without label smoothing.

    Args:
        model: A classifier that ends in a softmax, in logits, or in one
            sigmoid unit.
        engine: An engine, see `training.distribution`.
        batch_size: Images of one global batch.

    Example:

    >>> Evaluation(model, engine_for("one"), 64)(dataset)
    {'loss': 0.04, 'accuracy': 0.994, 'top5': 1.0}
    """

    def __init__(self, model, engine, batch_size):
        self.batch_size = batch_size
        with engine.scope():
            self._summed = engine.summed(
                functools.partial(_by_row, batch_size), logits_model(model)
            )

    def __call__(self, dataset, progress=iter, each=None):
        """Evaluates on `(images, labels)`.

        Args:
            dataset: Batches of at most `batch_size`, labels one-hot.
            progress: A function that wraps the batches, such as `tqdm`.
            each: A function of the images and labels of a batch and of a
                float64 array `(images, 5)`: loss, top-1 and top-5 hit (0
                or 1), the predicted class and its probability. It is called
                for every batch, in order.

        Returns:
            `{"loss", "accuracy", "top5"}`; top-1 and top-5 accuracy in
            [0, 1].

        Raises:
            ValueError: If there are no images.
        """
        rows = np.arange(self.batch_size, dtype="int32")
        total, count = np.zeros(3), 0
        for images, labels in progress(dataset):
            images, labels = np.asarray(images), np.asarray(labels)
            padding = (0, self.batch_size - len(images))
            values = self._summed(
                np.pad(images, [padding, (0, 0), (0, 0), (0, 0)]),
                np.pad(labels, [padding, (0, 0)]),
                rows,
            )
            values = np.asarray(values, "float64")[: len(images)]
            if each is not None:
                each(images, labels, values)
            total += values[:, :3].sum(axis=0)
            count += len(images)
        if not count:
            raise ValueError(
                "The data must hold images that can be decoded. Received: none"
            )
        loss, top1, top5 = (float(each) for each in total / count)
        return {"loss": loss, "accuracy": top1, "top5": top5}


def _by_row(batch_size, logits, labels, rows):
    """What is known of each image, in its row of the global batch.

    A device that has other images of the batch leaves their rows 0, so
    that the sum over devices covers the global batch.

    Args:
        batch_size: Images of the global batch.
        logits: Tensor `(images, classes)` of one device.
        labels: Their labels, one-hot.
        rows: Where they are in the global batch.

    Returns:
        A float32 tensor `(batch_size, 5)`, see `Evaluation.__call__`.
    """
    logits = ops.cast(logits, "float32")
    is_true = labels > 0.5
    true = ops.sum(ops.where(is_true, logits, 0.0), axis=-1)
    total = ops.logsumexp(logits, axis=-1)
    loss = total - true
    # Classes before the true one; a tie, as between NaNs, is no hit.
    others = ops.where(is_true, -np.inf, logits)
    before = ops.cast(others >= true[:, None], "float32")
    above = ops.sum(ops.where(is_true, 0.0, before), axis=-1)
    finite = ops.isfinite(loss)
    top1, top5 = (ops.logical_and(finite, above < top) for top in (1, 5))
    # In a tie the wrong class counts as predicted, as it is no hit.
    predicted = ops.where(
        top1, ops.argmax(ops.cast(is_true, "int32"), -1), ops.argmax(others, -1)
    )
    best = ops.where(top1, true, ops.max(others, axis=-1))
    values = (loss, top1, top5, predicted, ops.exp(best - total))
    values = ops.stack([ops.cast(v, "float32") for v in values], axis=-1)
    return ops.segment_sum(values, rows, num_segments=batch_size)


def progress_bar(examples, batch_size, shown=True):
    """A function that wraps the batches of an evaluation in a progress bar."""
    from tqdm import tqdm

    total = -(-examples // batch_size)
    options = {"leave": False, "delay": 2, "disable": not shown}
    return lambda batches: tqdm(batches, "evaluation", total, **options)


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
        average: Whether to evaluate the average of a run's weights.
        batch_size: Images of one global batch; by default 64 for each
            device. The result does not depend on it.
        progress: Whether to show a progress bar.
        input_range: As for `keras_nfnet.export.to_onnx`.
        report: Path of an HTML file to write, or `None`: confusions, the
            worst errors with their images, and accuracy by class. It
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
        size = recipe.test_size or recipe.size
        if any(side not in (None, size) for side in model.input_shape[1:3]):
            raise ValueError(
                "The model must take images of the recipe's size. Received: "
                f"a model of {model.input_shape[1:3]}, and {size} pixels "
                "(`test_size`, else `size`)"
            )
        contract = contract_of(model, input_range)
        findings = None if report is None else Findings(contract.pixels_of)
        values = Evaluation(model, engine, batch_size)(
            _as_taken(dataset, contract),
            progress_bar(info.examples, batch_size, progress),
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
        yield from dataset
        return
    mean, std = (np.float32(v) for v in channel_statistics(3))
    for images, labels in dataset:
        pixels = contract.pixels(np.asarray(images) * std + mean)
        yield ops.convert_to_numpy(contract.images(pixels)), labels


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
    return network(recipe.replace(weights=str(path), new_head=False))
