"""What a run does with skipped steps, callbacks, classifiers and signals."""

import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig, Recipe
from keras_nfnet.cli import main
from keras_nfnet.predict import predict
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.training.recipe import write_recipe
from keras_nfnet.training.stop import (
    SignalFlag,
    TrainingDiverged,
    TrainingStopped,
)

CONFIG = NFNetConfig((16,), (1,), group_width=8)
RECIPE = Recipe(
    name="rules",
    model=CONFIG,
    data="noise",
    classes=2,
    size=32,
    batch_size=8,
    epochs=2,
    warmup_epochs=0,
    strategy="one",
)


def examples(not_finite=()):
    """48 dark and bright images, six batches; some batches are NaN."""
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = generator.standard_normal((48, 32, 32, 3)).astype("float32")
    images += labels[:, None, None, None]
    for batch in not_finite:
        images[8 * batch : 8 * (batch + 1)] = np.nan
    return tf.data.Dataset.from_tensor_slices((images, labels))


def train(recipe, directory=None, not_finite=(), **options):
    return keras_nfnet.train(
        recipe,
        directory,
        verbose=0,
        data=examples(not_finite),
        test_data=examples(),
        **options,
    )


def test_skipped_steps_are_counted_and_left_out_of_the_means():
    result = train(RECIPE, not_finite=[1, 4])
    assert result.history["skipped_steps"] == [2.0, 4.0]
    assert np.isfinite(result.history["loss"]).all()
    # Means of the batches that count: 0 or 1 of 32 images.
    accuracy = 32 * np.array(result.history["accuracy"])
    np.testing.assert_allclose(accuracy, accuracy.round(), atol=1e-4)
    assert np.isfinite(result.loss)


@pytest.mark.parametrize(
    ("not_finite", "allowed", "message"),
    [([1, 4], 1, "2 of the last 100"), (range(6), 10, "no step")],
)
def test_a_run_ends_where_too_many_steps_are_skipped(
    not_finite, allowed, message
):
    with pytest.raises(TrainingDiverged, match=message):
        train(RECIPE.replace(max_skipped_steps=allowed), not_finite=not_finite)


class Change(keras.callbacks.Callback):
    """Ends the run after its first epoch, and then changes the weights."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True

    def on_train_end(self, logs=None):
        bias = self.model.get_layer("predictions_logits").layer.bias
        bias.assign([100.0, 0.0])


def test_what_is_reported_was_measured_on_the_saved_model(tmp_path):
    recipe = RECIPE.replace(ema_decay=0.9)
    result = train(recipe, tmp_path, callbacks=[Change()])
    assert result.steps == 6
    # All are said to be of the first class.
    assert result.accuracy == 0.5 and result.loss > 20
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["val_loss"] == result.loss
    model = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.get_layer("predictions").bias[0], 100)
    np.testing.assert_allclose(
        np.sum(model(np.zeros((1, 32, 32, 3), "float32"))), 1, atol=1e-6
    )
    # The run is over, and stays as it was saved.
    again = train(recipe, tmp_path)
    assert (again.steps, again.loss) == (6, result.loss)


def test_a_handler_of_the_program_around_python_stays(monkeypatch):
    set_by_us = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(
        signal, "signal", lambda number, handler: set_by_us.append(number)
    )
    with SignalFlag().watching() as flag:
        assert flag.number is None
    assert not set_by_us


def weights_of(classes, path):
    model = NFNet(CONFIG, weights=None, classes=classes)
    keras_nfnet.weights.save(model, path)
    return np.asarray(model.get_layer("predictions").kernel)


def test_new_head_says_whether_the_classifier_starts_anew(tmp_path):
    from keras_nfnet.training.build import build

    path = str(tmp_path / "two.safetensors")
    kernel = weights_of(2, path)
    for new_head, same in ((None, True), (False, True), (True, False)):
        model = build(RECIPE.replace(weights=path, new_head=new_head), 1)
        found = model.get_layer("predictions_logits").layer.kernel
        assert np.array_equal(found, kernel) == same
    with pytest.raises(ValueError, match="`new_head` must be true"):
        build(RECIPE.replace(weights=path, new_head=False, classes=3), 1)
    with pytest.raises(ValueError, match="new_head"):
        RECIPE.replace(new_head="yes")


def test_evaluate_refuses_weights_of_other_classes(tmp_path, capsys):
    path = str(tmp_path / "three.safetensors")
    weights_of(3, path)
    folder = pictures(tmp_path)
    recipe = str(tmp_path / "recipe.toml")
    write_recipe(RECIPE.replace(data=folder), recipe)
    assert main(["evaluate", path, "--recipe", recipe, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "with 3 classes" in error


def test_convert_takes_both_layouts_by_name(tmp_path, capsys):
    path = str(tmp_path / "two.npz")
    weights_of(2, path)
    for layout in ("keras_nfnet", "timm"):
        out = str(tmp_path / f"{layout}.safetensors")
        assert main(["convert", path, out, "--layout", layout]) == 0
    out = str(tmp_path / "other.npz")
    assert main(["convert", path, out, "--layout", "keras_nfnet"]) == 2


def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "data" / ("dark", "light")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 100, (32, 32, 3)) + 150 * (index % 2)
        Image.fromarray(pixels.astype("uint8")).save(path)
    return str(tmp_path / "data")


@pytest.mark.tensorflow
def test_one_sigmoid_unit_goes_the_whole_way(tmp_path, capsys):
    recipe = RECIPE.replace(
        data=pictures(tmp_path),
        classes=1,
        test_split="train",
        evaluation_margin=0,
        epochs=6,
        learning_rate=1.0,
    )
    run = tmp_path / "run"
    result = keras_nfnet.train(recipe, run, verbose=0)
    assert result.model.output_shape == (None, 1)
    assert result.label_names == ("dark", "light")
    assert result.accuracy > 0.9
    assert main(["evaluate", str(run), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy                 {100 * result.accuracy:.2f}%" in printed

    picture = tmp_path / "data" / "light" / "1.png"
    (predicted,) = predict(picture, str(run / "model.keras"))
    assert [label for label, _ in predicted] == ["light", "dark"]
    assert sum(score for _, score in predicted) == pytest.approx(1)
    report = keras_nfnet.export.to_saved_model(
        result.model, tmp_path / "saved", labels=result.label_names, margin=0
    )
    served = tf.saved_model.load(report.path).signatures["serve_bytes"](
        image_bytes=tf.constant([picture.read_bytes()])
    )
    assert served["classes"].numpy()[0].tolist() == [b"light", b"dark"]
    assert served["probabilities"].shape == (1, 2)
    np.testing.assert_allclose(served["probabilities"].numpy().sum(), 1)


class SignalsIn(keras.callbacks.Callback):
    """Sends SIGTERM at the end of a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_the_first_step_keeps_it(tmp_path):
    with pytest.raises(TrainingStopped, match="step 1, which is saved"):
        train(RECIPE, tmp_path, callbacks=[SignalsIn(1)])


def test_a_signal_stops_an_evaluation_and_loses_nothing(tmp_path, capfd):
    # A signal in the last step of an epoch is seen in the evaluation.
    for options in ({}, {"callbacks": [SignalsIn(6)]}):
        directory = tmp_path / ("stopped" if options else "undisturbed")
        if options:
            with pytest.raises(TrainingStopped, match="step 6, which is saved"):
                train(RECIPE, directory, **options)
            assert "SIGTERM: the run saves its state" in capfd.readouterr().err
            checkpoint = Checkpoints(directory / "checkpoints").restore()
            assert checkpoint.metadata["history"] == []
            assert "val_loss" not in checkpoint.metadata["unevaluated"]
        train(RECIPE, directory)
    one, other = (
        (tmp_path / name / "log.csv").read_text()
        for name in ("undisturbed", "stopped")
    )
    assert one == other and one.count("\n") == 3


def test_a_start_that_failed_does_not_keep_the_folder(tmp_path):
    """As `keras-nfnet train fine_tune` without a connection."""
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="missing.safetensors"):
        train(
            RECIPE.replace(weights=str(tmp_path / "missing.safetensors")), run
        )
    assert (run / "recipe.toml").exists()
    train(RECIPE.replace(epochs=1), run)
    for name in ("checkpoints", "log.csv"):  # Each of them is a run.
        with pytest.raises(ValueError, match="Another recipe.*seed=1 in place"):
            train(RECIPE.replace(epochs=1, seed=1), run)
        if name == "checkpoints":
            shutil.rmtree(run / name)


def test_another_recipe_and_other_data_are_refused(tmp_path):
    folder = pictures(tmp_path)
    recipe = RECIPE.replace(data=folder, epochs=1, evaluation_margin=0)
    run = tmp_path / "run"
    keras_nfnet.train(recipe, run, verbose=0)
    (run / "recipe.toml").unlink()
    with pytest.raises(ValueError, match="Another recipe.*seed=1 in place of"):
        keras_nfnet.train(recipe.replace(seed=1), run, verbose=0)
    assert not (run / "recipe.toml").exists()
    picture = next((tmp_path / "data" / "dark").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="data of the run.*were others"):
        keras_nfnet.train(recipe, run, verbose=0)
