"""The page of a run: results, curves, signal propagation, recipe."""

import csv
import json
import os

from keras_nfnet.training.html_page import (
    element,
    picture,
    png_of,
    table,
    write_page,
)
from keras_nfnet.training.recipe_file import read_recipe, to_toml


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
    from keras_nfnet.diagnostics import signal_propagation
    from keras_nfnet.models.keras_file import load_keras_file
    from keras_nfnet.training.evaluate import recipe_of_run
    from keras_nfnet.training.results import MODEL, REPORT
    from keras_nfnet.utils.arguments import file_to_write

    recipe = read_recipe(recipe_of_run(directory))
    page = file_to_write(
        "path", path or os.path.join(directory, REPORT), ".html"
    )
    history = _read_log(os.path.join(directory, "log.csv"))
    results = os.path.join(directory, "results.json")
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
        history = {
            name: [float(row[name]) if row[name] else None for row in rows]
            for name in rows[0]
            if name != "epoch"
        }
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            "The run must have a log of an epoch or more. "
            f"Received: {path!r} ({error})"
        ) from error
    return history


def write_run_report(path, recipe, history, curves, summary, signal=None):
    """Writes the page.

    Args:
        path: The file.
        recipe: The run's `Recipe`.
        history: `{name: values by epoch}`.
        curves: `training_figure` of it, a PNG.
        summary: What `results.json` holds, or `None` of a run that is not
            finished.
        signal: The `SignalPropagation` of the trained model, or `None`.
    """
    epochs = len(next(iter(history.values())))
    parts = [element("p", f"Epoch {epochs:,} of {recipe.epochs:,}.")]
    if summary is not None:
        parts.append(table(_results(summary)))
    parts += [element("h2", "Training"), picture(curves, "Training curves")]
    if signal is not None:
        parts += [
            element("h2", "Signal propagation"),
            element(
                "p",
                "Of standard-normal images through the trained network, by "
                "block; expected is what the analysis says of a network "
                "before training.",
            ),
            picture(png_of(signal.plot()), "Signal propagation"),
        ]
    rows = [
        (epoch, *map(_number, values))
        for epoch, values in enumerate(zip(*history.values(), strict=True), 1)
    ]
    log = table(rows, ("epoch", *history))
    parts += [
        element("h2", "Recipe"),
        element("pre", to_toml(recipe)),
        element("details", element("summary", "The log"), log),
    ]
    write_page(path, f"Run of {recipe.name}", *parts)


def _results(summary):
    for prefix, weights in (("val", ""), ("ema_val", ", averaged weights")):
        for name, text in (
            ("accuracy", "held-out accuracy"),
            ("top5", "held-out top-5 accuracy"),
        ):
            value = summary.get(f"{prefix}_{name}")
            if value is not None:
                yield text + weights, f"{100 * value:.2f}%"
        value = summary.get(f"{prefix}_loss")
        if value is not None:
            yield f"held-out loss{weights}", f"{value:.4f}"
    for name in ("examples", "steps", "parameters", "backend"):
        text = "held-out examples" if name == "examples" else name
        yield text, summary[name]
    for split, line in summary["corrupt"].items():
        yield f"corrupt, {split}", line


def _number(value):
    return "–" if value is None else f"{value:.4g}"


def training_figure(history):
    """Loss, accuracy, clipped units and learning rate over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (loss, accuracy), (clipped, rate) = figure.subplots(2, 2)
    for axis, name, title in (
        (loss, "loss", "loss"),
        (accuracy, "accuracy", "accuracy"),
    ):
        for prefix, label in (
            ("", "training"),
            ("val_", "held out"),
            ("ema_val_", "held out, average of the weights"),
        ):
            _curve(axis, history.get(prefix + name), label)
        axis.set_ylabel(title)
        axis.legend()
    _curve(clipped, history.get("clipped"), "all", color="black")
    for stage in ("stem", "stage1", "stage2", "stage3", "stage4", "head"):
        _curve(clipped, history.get(f"clipped_{stage}"), stage, linewidth=1)
    clipped.set_ylabel("fraction of units clipped, last step")
    if clipped.lines:
        clipped.legend()
    _curve(rate, history.get("learning_rate"), "learning rate")
    rate.set_ylabel("learning rate")
    for axis in (loss, accuracy, clipped, rate):
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    return figure


def _curve(axis, values, label, **style):
    if values:
        values = [float("nan") if v is None else v for v in values]
        axis.plot(
            range(1, len(values) + 1),
            values,
            label=label,
            marker=".",
            ms=3,
            **style,
        )
