"""The whole way on real images: data, training, export, prediction.

`make demo` runs this on the handwritten digits that ship with scikit-learn.
"""

import time
from pathlib import Path

import numpy as np

from keras_nfnet.utils.files import replacing, write_whole

TARGET = 0.985  # held-out accuracy below which the demo fails
_SHOWN = 10


def demo(directory="demo", recipe=None, verbose="auto"):
    """Trains, evaluates, saves, exports, loads back and predicts.

    Args:
        directory: Folder for the results; made if it is not there.
        recipe: A `Recipe` on `nf_digits`; by default the digits recipe.
        verbose: As for `keras.Model.fit`.

    Returns:
        The accuracy on the held-out digits, in [0, 1].

    Raises:
        ValueError: If `directory` is a file, or the SavedModel does not
            predict what the model predicts.
    """
    import tensorflow as tf

    from keras_nfnet.data.decoding import decode_picture
    from keras_nfnet.data.pipeline import load_split
    from keras_nfnet.diagnostics import signal_propagation
    from keras_nfnet.export import to_saved_model
    from keras_nfnet.training import recipes
    from keras_nfnet.training.directory import save_described
    from keras_nfnet.training.run import train

    start = time.perf_counter()
    recipe = recipe or recipes.recipe("digits")
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(
            "`directory` must be a folder, or a path for a new one. "
            f"Received: directory={str(directory)!r}, which is a file"
        )
    directory.mkdir(parents=True, exist_ok=True)
    data_dir = str(directory / "data")

    result = train(recipe, data_dir=data_dir, verbose=verbose)
    trained = time.perf_counter()
    model = result.model
    save_described(model, directory / "digits.keras", recipe, result)
    report = to_saved_model(
        model,
        str(directory / "saved_model"),
        labels=result.label_names,
        size=recipe.test_size or recipe.size,
        margin=recipe.evaluation_margin,
        overwrite=True,
    )

    images, _ = load_split(recipe.data, recipe.test_split, data_dir)
    encoded, labels = next(iter(images.batch(result.examples)))
    loaded = tf.saved_model.load(report.path)
    answer = loaded.signatures["serve_bytes"](image_bytes=encoded)
    predicted = answer["classes"].numpy()[:, 0].astype(str)
    truth = np.array(result.label_names)[labels.numpy()]
    (directory / "pictures").mkdir(exist_ok=True)
    for index, image in enumerate(encoded.numpy()[:_SHOWN]):
        name = f"digit{index}_is_{truth[index]}.png"
        write_whole(directory / "pictures" / name, image)
    served_accuracy = float(np.mean(predicted == truth))
    if abs(served_accuracy - result.accuracy) > 1e-6:
        raise ValueError(
            "The SavedModel and the model disagree on the held-out digits: "
            f"{served_accuracy:.4f} and {result.accuracy:.4f} are right"
        )

    rows = [
        ("held-out accuracy", f"{100 * result.accuracy:.2f}%"),
        ("held-out digits", str(result.examples)),
        ("accuracy of the SavedModel on PNGs", f"{100 * served_accuracy:.2f}%"),
        ("parameters", f"{model.count_params():,}"),
        ("epochs", str(recipe.epochs)),
        ("SavedModel", f"{report.size / 1e6:.2f} MB"),
        (
            "largest difference from the model",
            f"{report.largest_difference:.1e}",
        ),
        ("data and training", f"{trained - start:.0f} s"),
        ("all", f"{time.perf_counter() - start:.0f} s"),
    ]
    table = _table(rows, predicted, truth, answer["scores"].numpy()[:, 0])
    write_whole(directory / "results.md", table.encode())
    _plot(
        directory / "results.png",
        result.history,
        [decode_picture(e)[..., 0] for e in encoded.numpy()[:_SHOWN]],
        predicted[:_SHOWN],
        answer["scores"].numpy()[:_SHOWN, 0],
        signal_propagation(model),
    )
    print()
    for name, value in rows:
        print(f"{name:36s} {value}")
    print(
        f"\nresults in {directory}/: results.md, results.png, digits.keras, "
        "saved_model/ (takes\nencoded images), pictures/. Next: "
        f"keras-nfnet predict {directory}/pictures/*.png --model "
        f"{directory}/digits.keras"
    )
    return result.accuracy


def _table(rows, predicted, truth, scores):
    lines = ["# Handwritten digits with an NFNet", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "Held-out digits that the SavedModel got wrong:", ""]
    wrong = np.flatnonzero(predicted != truth)
    lines += ["| image | is | predicted | probability |", "|---|---|---|---|"]
    lines += [
        f"| {i} | {truth[i]} | {predicted[i]} | {scores[i]:.3f} |"
        for i in wrong
    ]
    return "\n".join(lines) + "\n"


def _plot(path, history, images, predicted, scores, signal):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    curves, examples, propagation = figure.subfigures(
        3, 1, height_ratios=(3, 1.6, 3)
    )
    curves.suptitle("Training")
    loss, accuracy = curves.subplots(1, 2)
    epochs = range(1, len(history["loss"]) + 1)
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        axis.plot(epochs, history[name], label="training")
        axis.plot(epochs, history[f"val_{name}"], label="held out")
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.legend()
    accuracy.set_ylim(0.8, 1.005)

    examples.suptitle("Predictions of the exported SavedModel")
    for axis, image, label, score in zip(
        examples.subplots(1, len(images)),
        images,
        predicted,
        scores,
        strict=True,
    ):
        axis.imshow(image, cmap="gray_r")
        axis.set_title(f"{label}  ({100 * score:.0f}%)", fontsize=10)
        axis.axis("off")

    propagation.suptitle("Signal propagation of the trained network")
    signal.draw(propagation.subplots(1, 3))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
