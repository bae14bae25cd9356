"""What a run leaves in its directory: models, a table, a report."""

import json
import os

from keras_nfnet.data.labels import description
from keras_nfnet.diagnostics import signal_propagation
from keras_nfnet.training.html_page import png_of
from keras_nfnet.training.run_report import training_figure, write_run_report
from keras_nfnet.utils.files import replacing
from keras_nfnet.weights import save

MODEL = "model.keras"
EMA_MODEL = "ema_model.keras"
WEIGHTS = "weights.safetensors"
EMA_WEIGHTS = "ema_weights.safetensors"
REPORT = "report.html"


def save_model(model, path):
    """Writes a `.keras` file, whole or not at all."""
    with replacing(path, ".keras") as temporary:
        model.save(temporary)


def write_results(directory, result, summary, recipe, with_signal=True):
    """Writes models, weights, their description, results and a report.

    Args:
        directory: The run's directory.
        result: A `TrainingResult`.
        summary: What `results.json` holds.
        recipe: The run's, for how pictures are prepared.
        with_signal: Whether the report shows the signal's propagation; one
            of several processes cannot measure it alone.
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
    curves = png_of(training_figure(result.history))
    with replacing(os.path.join(directory, "training.png")) as temporary:
        with open(temporary, "wb") as file:
            file.write(curves)
    write_run_report(
        os.path.join(directory, REPORT),
        recipe,
        result.history,
        curves,
        summary,
        signal_propagation(result.model) if with_signal else None,
    )
