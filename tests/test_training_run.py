"""Runs: recipes, their files, the command line, what is left behind."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from html_page import Page, refuse_what_is_not_offline
from small_recipes import small

import keras_nfnet
from keras_nfnet import Recipe
from keras_nfnet.cli import main
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.labels import described
from keras_nfnet.training import recipes
from keras_nfnet.training.build import build
from keras_nfnet.training.recipe import (
    from_toml,
    read_recipe,
    to_toml,
    with_settings,
    write_recipe,
)
from keras_nfnet.training.run import train
from keras_nfnet.training.stop import TrainingDiverged

PAPER = [f"f{n}" for n in range(7)]
# The others' small forms differ from one of these in a number alone: a
# magnitude, or a width that the small form does not keep.
TRAINED = [
    *("f0", "f3", "f6", "fine_tune", "nf_1_baseline", "nf_3_second_conv"),
    *("nf_4_mixup", "nf_5_randaugment"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_the_same_after_its_file(name, tmp_path):
    recipe = recipes.recipe(name)
    assert recipe.name == name
    assert recipes.summary(name).endswith(".")
    for each in (recipe, small(recipe)):
        write_recipe(each, tmp_path / "recipe.toml")
        assert read_recipe(tmp_path / "recipe.toml") == each


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_imagenet_are_the_papers(name):
    recipe = recipes.recipe(name)
    config = keras_nfnet.VARIANTS[name.upper()]
    assert recipe.model == name.upper()
    assert (recipe.batch_size, recipe.epochs) == (4096, 360)
    assert recipe.peak_learning_rate == pytest.approx(1.6)
    assert recipe.warmup_epochs == 5 and recipe.label_smoothing == 0.1
    assert (recipe.size, recipe.test_size) == (
        config.train_size,
        config.test_size,
    )
    magnitude = {"f0": 5, "f1": 10, "f2": 10}.get(name, 15)
    assert recipe.augmentation == Augmentation(
        randaugment_layers=4,
        randaugment_magnitude=magnitude,
        mixup=0.2,
        cutmix=1.0,
    )
    assert recipe.ema_decay == 0.99999
    assert recipe.precision == "mixed_bfloat16"
    assert recipe.stochastic_depth_rate == 0.25
    assert (recipe.sam_rho is not None) == (name == "f6")
    assert recipe.sam_fraction == (0.2 if name == "f6" else 1.0)


def test_ablations_end_where_the_nfnet_begins():
    last = recipes.recipe("nf_6_cutmix")
    f0 = recipes.recipe("f0")
    assert last.replace(name="f0", model="F0") == f0
    assert last.model == keras_nfnet.VARIANTS["F0"]
    baseline = recipes.recipe("nf_1_baseline")
    assert not baseline.model.use_two_convs
    assert baseline.model.widths == (256, 512, 1024, 2048)
    assert not baseline.augmentation.mixes
    assert recipes.recipe("nf_7_default_width").model.use_two_convs


def test_settings_change_fields_and_fields_of_fields():
    recipe = with_settings(
        recipes.recipe("digits"),
        [
            "epochs=3",
            "clipping=none",
            "model.widths=[16, 32]",
            "model.depths=[1, 1]",
            "augmentation=none",
            "learning_rate=1",
            "data=pictures/mine",
            'precision="mixed_bfloat16"',
        ],
    )
    assert recipe.epochs == 3 and recipe.clipping is None
    assert recipe.model.widths == (16, 32)
    assert recipe.augmentation is None
    assert recipe.data == "pictures/mine"
    assert recipe.precision == "mixed_bfloat16"
    f0 = with_settings(recipes.recipe("f0"), ["augmentation.mixup=0"])
    assert f0.augmentation == Augmentation(mixup=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "did you mean epochs"),
        ("epochs", "key=value"),
        ("epochs=three", "epochs"),
        ("epochs=2.5", "epochs"),
        ("model.width=[3]", "did you mean widths"),
        ("data.a=1", "`data`"),
        ("warmup_epochs=24", "warmup_epochs"),
        ("clipping=0", "clipping"),
        ("ema_decay=1", "ema_decay"),
        ("precision=float8", "precision"),
        ("strategy=all", "strategy"),
        ("augmentation=none_such", "augment"),
        ("gradient_accumulation_steps=3", "gradient_accumulation_steps"),
        ("seed=-1", "seed"),
    ],
)
def test_a_bad_setting_is_named(setting, message, capsys):
    with pytest.raises(ValueError, match=message):
        with_settings(recipes.recipe("digits"), [setting])
    assert main(["train", "digits", "--set", setting]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bad_file_is_named(tmp_path, capsys):
    path = tmp_path / "recipe.toml"
    for text in ("epochs =", "epochs = 3", "", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError):
            read_recipe(path)
    assert main(["train", str(path)]) == 2
    assert main(["train", "none_such"]) == 2
    assert "f0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="fine_tune"):
        recipes.recipe("none_such")
    with pytest.raises(ValueError, match="function"):
        to_toml(recipes.recipe("digits").replace(augmentation=lambda x, s: x))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", TRAINED)
def test_the_small_form_of_a_recipe_trains(name, data_dir):
    recipe = small(recipes.recipe(name)).replace(epochs=1, warmup_epochs=0.5)
    result = train(recipe, data_dir=data_dir, verbose=0)
    assert math.isfinite(result.loss)
    assert result.steps == 5
    assert (result.ema_model is None) == (recipe.ema_decay is None)
    assert result.model.dtype_policy.name == recipe.precision


def test_the_other_small_forms_differ_in_a_number_alone():
    def shape(name):
        """A small form without the numbers that change no graph."""
        recipe = small(recipes.recipe(name))
        augmentation = recipe.augmentation
        if isinstance(augmentation, Augmentation):
            layers = augmentation.randaugment_layers
            augmentation = augmentation.replace(
                randaugment_magnitude=5.0 if layers else 0.0
            )
        config = dataclasses.replace(
            recipe.model,
            drop_rate=0.1,
            train_size=None,
            test_size=None,
            rand_augment=None,
        )
        return recipe.replace(
            name="any", model=config, augmentation=augmentation
        )

    trained = [shape(name) for name in TRAINED]
    for name in set(recipes.names()) - {*TRAINED, "digits"}:
        assert shape(name) in trained, name


def test_a_run_leaves_its_directory(data_dir, tmp_path, capsys):
    run = tmp_path / "run"
    recipe = small(recipes.recipe("digits")).replace(
        ema_decay=0.9, batch_size=8, gradient_accumulation_steps=2
    )
    path = tmp_path / "mine.toml"
    write_recipe(recipe, path)
    command = ["train", str(path), "--out", str(run), "--data-dir", data_dir]
    assert main([*command, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert read_recipe(run / "recipe.toml") == recipe
    results = json.loads((run / "results.json").read_text())
    # 40 examples: 5 steps of 8, in two parts each, for 2 epochs.
    assert results["steps"] == 20
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    last = {name: float(value) for name, value in rows[-1].items()}
    assert last["val_accuracy"] == results["val_accuracy"]
    assert {"loss", "clipped", "learning_rate", "ema_val_top5"} <= set(last)
    assert f"{100 * last['val_accuracy']:.2f}%" in printed
    assert (run / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert list((run / "tensorboard").rglob("events.out.*"))
    stages = {f"clipped_{stage}" for stage in ("stem", "stage1", "head")}
    assert {name for name in last if "clipped_" in name} == stages
    page = Page(run / "report.html")
    refuse_what_is_not_offline(page)
    shown = dict(page.tables[0])
    assert shown["held-out accuracy"] == f"{100 * last['val_accuracy']:.2f}%"
    assert [p["alt"] for p in page.pictures] == [
        "Training curves",
        "Signal propagation",
    ]
    assert [float(n) for n in page.tables[1][2][1:]] == pytest.approx(
        list(last.values())[1:], rel=1e-3
    )
    # As of a run that was killed after its first epoch.
    (run / "results.json").rename(tmp_path / "results.json")
    log = (run / "log.csv").read_text().splitlines()
    (run / "log.csv").write_text("\n".join(log[:2]))
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    page = Page(page)
    assert "Epoch 1 of 2." in page.text and len(page.pictures) == 1
    (run / "log.csv").write_text("\n".join(log[:1]))
    assert main(["report", str(run)]) == 2
    assert "an epoch or more" in capsys.readouterr().err
    (run / "log.csv").write_text("\n".join(log))
    (tmp_path / "results.json").rename(run / "results.json")
    beside = described(run / "model.keras")
    assert beside.labels == tuple("0123456789")
    assert beside.size == (recipe.test_size or recipe.size,) * 2
    assert beside.margin == recipe.evaluation_margin
    assert not list(run.glob(".*.tmp"))

    model = keras.models.load_model(run / "model.keras")
    average = keras.models.load_model(run / "ema_model.keras")
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(model.variables, average.variables, strict=True)
    )
    twin = build(
        recipe.replace(weights=str(run / "ema_weights.safetensors")), 2
    )
    for a, b in zip(
        twin.trainable_variables, average.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    other_classes = build(
        recipe.replace(weights=str(run / "weights.safetensors"), classes=7), 2
    )
    np.testing.assert_array_equal(
        np.asarray(other_classes.get_layer("stem_conv0").kernel),
        np.asarray(model.get_layer("stem_conv0").kernel),
    )

    for arguments, accuracy in (
        ([str(run)], last["val_accuracy"]),
        ([str(run), "--ema"], last["ema_val_accuracy"]),
        (
            [str(run / "weights.safetensors"), "--recipe", str(path)],
            last["val_accuracy"],
        ),
    ):
        arguments = ["evaluate", *arguments, "--data-dir", data_dir, "--quiet"]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert f"accuracy                 {100 * accuracy:.2f}%" in printed

    # Again: nothing is left to do, and the answer is the same.
    assert main([*command, "--quiet"]) == 0
    again = json.loads((run / "results.json").read_text())
    assert again == results
    # Another recipe has no business here.
    assert main([*command, "--set", "learning_rate=3"]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path)]) == 2
    assert main(["evaluate", str(run / "log.csv")]) == 2


def test_divergence_keeps_the_last_good_checkpoint(data_dir, tmp_path):
    recipe = small(recipes.recipe("digits")).replace(epochs=20)

    class Poison(keras.callbacks.Callback):
        """Makes a weight NaN after step 30, as a broken device might."""

        step = 0

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            if self.step == 30:
                if keras.backend.backend() == "jax":
                    self.model.jax_state_sync()
                variable = self.model.trainable_variables[0]
                variable.assign(np.asarray(variable) * np.nan)

    with pytest.raises(TrainingDiverged, match="last good checkpoint is kept"):
        train(
            recipe,
            tmp_path,
            data_dir=data_dir,
            verbose=0,
            callbacks=[Poison()],
            save_every=7,
        )
    from keras_nfnet.training.checkpoint import Checkpoints

    checkpoint = Checkpoints(tmp_path / "checkpoints").restore()
    assert 20 <= checkpoint.step < 30
    for name, array in checkpoint.arrays.items():
        if name.startswith("model/"):
            assert np.isfinite(array).all()


def pictures(folder, broken):
    """Two classes of 40 pictures each, some of which are no pictures."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(80):
        path = folder / ("dark", "light")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 100, (24, 24, 3)) + 150 * (index % 2)
        Image.fromarray(pixels.astype("uint8")).save(path)
        if index in broken:
            path.write_bytes(path.read_bytes()[:100] if index % 2 else b"")
    return str(folder)


def test_a_folder_with_broken_pictures_trains_through(tmp_path, capsys):
    recipe = small(recipes.recipe("fine_tune")).replace(
        data=pictures(tmp_path / "pictures", broken=(3, 24, 41, 62)),
        train_split="train",
        test_split="test",
        classes=2,
        ema_decay=None,
        precision="float32",
        max_corrupt=0.1,
    )
    result = train(recipe, tmp_path / "run", verbose=2)
    assert "could not be decoded" in capsys.readouterr().out
    assert "could not be decoded" in result.corrupt["training"]
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert kept["corrupt"] == result.corrupt
    assert result.steps == len(result.history["loss"]) * (
        result.steps // recipe.epochs
    )
    assert math.isfinite(result.loss)
    with pytest.raises(ValueError, match="max_corrupt"):
        train(recipe.replace(max_corrupt=0.01), verbose=0)


def test_bad_arguments_of_train_are_named(tmp_path):
    recipe = small(recipes.recipe("digits"))
    with pytest.raises(ValueError, match="recipe"):
        train({"model": "F0"})
    with pytest.raises(ValueError, match="save_every"):
        train(recipe, save_every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        train(recipe, tmp_path / "file")
    for url in ("gs://bucket/run", Path("gs://bucket/run")):
        with pytest.raises(ValueError, match="`directory` must be a folder of"):
            train(recipe, url)
    with pytest.raises(ValueError, match="classes"):
        train(recipe.replace(classes=11), data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="batch_size"):
        train(recipe.replace(batch_size=64), data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="TF_CONFIG|KERAS_DISTRIBUTION"):
        train(recipe.replace(strategy="multi_worker"))
    with pytest.raises(ValueError, match="TPU"):
        train(recipe.replace(strategy="tpu"))


def test_recipe_refuses_what_is_no_recipe():
    with pytest.raises(ValueError, match="RECIPE|Recipe|field is missing"):
        from_toml("name = 'x'")
    with pytest.raises(ValueError, match="model"):
        Recipe("x", "F9", "nf_digits", 10, 32, 8, 2, warmup_epochs=0)
