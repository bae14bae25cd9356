"""What a run leaves in its directory: models, a table, a plot."""

import json
import os

from keras_nfnet.data.description import description
from keras_nfnet.utils.files import replacing
from keras_nfnet.weights import save

MODEL = "model.keras"
EMA_MODEL = "ema_model.keras"
WEIGHTS = "weights.safetensors"
EMA_WEIGHTS = "ema_weights.safetensors"


def save_model(model, path):
    """Writes a `.keras` file, whole or not at all."""
    with replacing(path, ".keras") as temporary:
        model.save(temporary)


def write_results(directory, result, summary, recipe):
    """Writes models, weights, their description, results and a plot.

    Args:
        directory: The run's directory.
        result: A `TrainingResult`.
        summary: What `results.json` holds.
        recipe: The run's, for how pictures are prepared.
    """
    save_model(result.model, os.path.join(directory, MODEL))
    save(result.model, os.path.join(directory, WEIGHTS))
    if result.ema_model is not None:
        save_model(result.ema_model, os.path.join(directory, EMA_MODEL))
        save(result.ema_model, os.path.join(directory, EMA_WEIGHTS))
    size = recipe.test_size or recipe.size
    texts = description(
        result.model.name,
        result.label_names,
        (size, size),
        recipe.precision,
        recipe.evaluation_margin,
    )
    texts["results.json"] = json.dumps(summary, indent=1) + "\n"
    for name, text in texts.items():
        with replacing(os.path.join(directory, name)) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
    with replacing(os.path.join(directory, "training.png")) as temporary:
        training_figure(result.history).savefig(
            temporary, dpi=110, format="png"
        )


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
    _curve(clipped, history.get("clipped"), "clipped")
    clipped.set_ylabel("fraction of units clipped, last step")
    _curve(rate, history.get("learning_rate"), "learning rate")
    rate.set_ylabel("learning rate")
    for axis in (loss, accuracy, clipped, rate):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    return figure


def _curve(axis, values, label):
    if values:
        values = [float("nan") if v is None else v for v in values]
        axis.plot(
            range(1, len(values) + 1), values, label=label, marker=".", ms=3
        )
