"""Evaluation of what is on the disk: a run, a model, or weights."""

import os

from keras_nfnet.models.keras_file import load_keras_file
from keras_nfnet.models.output import logits_model
from keras_nfnet.training.batches import evaluation_data, progress_bar
from keras_nfnet.training.distribution import engine_for
from keras_nfnet.training.evaluation import Evaluation
from keras_nfnet.training.network import build
from keras_nfnet.training.recipe_file import read_recipe
from keras_nfnet.training.results import EMA_MODEL, MODEL
from keras_nfnet.weights.load import classes_in

# Pictures of one batch on each device; a recipe's batch is for many devices.
_BATCH = 64


def evaluate_source(
    source,
    recipe=None,
    data_dir=None,
    average=False,
    batch_size=None,
    progress=True,
):
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

    Returns:
        `{"accuracy", "top5", "loss", "examples", "corrupt"}`.

    Raises:
        ValueError: If there is no recipe, or the model or the classes of
            the weights do not fit it.

    Example:

    >>> evaluate_source("runs/digits")["accuracy"]
    0.9944444444444445
    """
    if recipe is None:
        recipe = read_recipe(recipe_of_run(source))
    engine = engine_for(recipe.strategy, batch_size)
    batch_size = batch_size or _BATCH * engine.replicas
    dataset, info = evaluation_data(recipe, batch_size, data_dir)
    with engine.running():
        with engine.scope():
            model = logits_model(_model(source, recipe, average))
        if model.output_shape[-1] != info.classes:
            raise ValueError(
                f"The model must have the classes of the data "
                f"({info.classes}). Received: {model.output_shape[-1]} classes"
            )
        values = Evaluation(model, engine, batch_size)(
            dataset,
            progress_bar(info.examples, batch_size) if progress else None,
        )
    corrupt = info.corrupt
    examples = corrupt.seen - corrupt.broken
    return {**values, "examples": examples, "corrupt": corrupt.summary()}


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
