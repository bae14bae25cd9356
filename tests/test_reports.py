"""Pages that runs and evaluations write: their numbers, safe and offline."""

import collections
import os

import keras
import numpy as np
import pytest
from html_page import Page, refuse_what_is_not_offline
from PIL import Image

from keras_nfnet import NFNet, NFNetConfig, Recipe, preprocess_input
from keras_nfnet.cli import main
from keras_nfnet.training.evaluate import _by_row, evaluate_source
from keras_nfnet.training.evaluation_report import (
    Findings,
    write_evaluation_report,
)
from keras_nfnet.training.recipe import write_recipe

pytestmark = pytest.mark.tensorflow

CONFIG = NFNetConfig((16,), (1,), group_width=8)
HOSTILE = (
    "<script>alert(1)<",
    "' onerror='alert(1)",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}{&lt;b&gt;",
    "猫 и кошка",
    "\u202eright to left",
)
RECIPE = Recipe(
    name="reports",
    model=CONFIG,
    data="folder",
    test_split="train",
    classes=len(HOSTILE),
    size=32,
    batch_size=8,
    epochs=1,
    warmup_epochs=0,
    evaluation_margin=0,
    strategy="one",
).replace


@pytest.fixture
def pictures(tmp_path):
    """A folder of noise with the hostile names as classes."""
    generator = np.random.default_rng(0)
    for index in range(24):
        folder = tmp_path / "data" / "train" / HOSTILE[index % len(HOSTILE)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (32, 32, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"


def network(path, classes, channels=3):
    model = NFNet(
        CONFIG,
        weights=None,
        classes=classes,
        input_shape=(32, 32, channels),
        classifier_activation="sigmoid" if classes == 1 else "softmax",
    )
    generator = np.random.default_rng(1)
    kernel = model.get_layer("predictions").kernel
    kernel.assign(generator.normal(size=kernel.shape))
    model.save(path)
    return str(path)


def test_a_model_of_another_size_is_refused(pictures, tmp_path, capsys):
    model = network(tmp_path / "model.keras", len(HOSTILE))
    write_recipe(RECIPE(data=str(pictures)), tmp_path / "recipe.toml")
    recipe = ["--recipe", str(tmp_path / "recipe.toml"), "--quiet"]
    assert main(["evaluate", model, *recipe, "--set", "size=40"]) == 2
    error = capsys.readouterr().err
    assert "a model of (32, 32), and 40 pixels" in error


@pytest.mark.parametrize("channels", [3, 1])
def test_a_report_counts_what_the_model_says(
    channels, pictures, tmp_path, capsys
):
    """The matrix is counted anew from the files."""
    model = network(tmp_path / "model.keras", len(HOSTILE), channels)
    recipe = tmp_path / "recipe.toml"
    write_recipe(RECIPE(data=str(pictures)), recipe)
    report = tmp_path / "report.html"
    arguments = ["evaluate", model, "--recipe", str(recipe), "--quiet"]
    assert main([*arguments, "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    if channels == 3:
        assert main(arguments) == 0
        assert capsys.readouterr().out in printed

    names = sorted(HOSTILE)
    files = sorted(pictures.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    if channels == 1:
        pixels = pixels @ np.float32([[0.299], [0.587], [0.114]])
    outputs = keras.models.load_model(model)(preprocess_input(pixels))
    expected = collections.Counter(
        (file.parent.name, names[index])
        for file, index in zip(files, np.argmax(outputs, -1), strict=True)
    )
    page = Page(report)
    refuse_what_is_not_offline(page)
    summary, matrix, pairs, classes = page.tables
    for name, value in summary[1:]:
        assert f"{name:24s} {value}\n" in printed
    right = sum(expected[name, name] for name in names)
    assert dict(map(tuple, summary[1:]))["accuracy"] == (
        f"{100 * right / len(files):.2f}%"
    )
    for row, name in zip(matrix[1:], names, strict=True):
        assert row[1] == name
        assert [int(n) for n in row[2:]] == [expected[name, n] for n in names]
    wrong = {(a, b): n for (a, b), n in expected.items() if a != b}
    assert {(a, b): int(n) for a, b, n, _ in pairs[1:]} == wrong
    counts = [int(row[2]) for row in pairs[1:]]
    assert counts == sorted(counts, reverse=True)
    assert {row[0]: row[1:3] for row in classes[1:]} == {
        name: ["4", str(expected[name, name])] for name in names
    }

    # The errors are shown, the surest first, with their own pictures.
    assert len(page.pictures) == min(40, len(files) - right)
    alts = collections.Counter(p["alt"] for p in page.pictures)
    for alt, count in alts.items():
        a, b = alt.split(", taken for ")
        assert count <= wrong[a, b]


@pytest.mark.parametrize(("classes", "shown"), [(1, 2), (40, 40)])
def test_a_report_of_any_number_of_classes(classes, shown, tmp_path):
    generator = np.random.default_rng(0)
    for index in range(80):
        folder = tmp_path / "data" / "train" / f"{index % shown:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (32, 32, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    report = tmp_path / "report.html"
    labels = [f"name {index}" for index in range(shown)]
    values = evaluate_source(
        network(tmp_path / "model.keras", classes),
        RECIPE(data=str(tmp_path / "data"), classes=classes),
        progress=False,
        report=report,
        labels=labels,
        batch_size=32,
    )
    page = Page(report)
    refuse_what_is_not_offline(page)
    assert len(page.tables) == (4 if shown <= 30 else 3)
    rows = page.tables[-1][1:]
    assert {row[0] for row in rows} == set(labels)
    right = sum(int(row[2]) for row in rows)
    assert right / 80 == values["accuracy"]


def test_the_worst_errors_are_those_of_largest_loss(tmp_path):
    generator = np.random.default_rng(0)
    loss = generator.uniform(1, 9, 200)
    findings = Findings(lambda image: image)
    labels = np.eye(2)[np.zeros(200, int)]
    values = np.stack([loss, *np.zeros((2, 200)), *np.ones((2, 200))], -1)
    images = np.zeros((200, 8, 8, 3))
    for part in (slice(0, 90), slice(90, 200)):
        findings(images[part], labels[part], values[part])
    worst = findings.worst()
    assert [index for index, *_ in worst] == list(np.argsort(-loss)[:40])
    assert [p for *_, p, _, _ in worst] == sorted(np.exp(-loss))[:40]


def test_a_page_that_cannot_be_written_is_refused_before_all_work(
    tmp_path, capsys
):
    (tmp_path / "folder.html").mkdir()
    for path in ("page.txt", "no/such/page.html", "folder.html", ""):
        command = ["evaluate", "none", "--report", str(tmp_path / path)]
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "`report` must be" in line
    with pytest.raises(ValueError, match="need `report`"):
        evaluate_source("none", labels=["a"])


def test_outputs_that_are_not_finite_are_refused_and_leave_the_page(tmp_path):
    findings = Findings(lambda image: image)
    values = np.array([[np.nan, 0, 0, 1, np.nan]])
    findings(np.zeros((1, 8, 8, 3)), np.eye(2)[:1], values)
    report = tmp_path / "report.html"
    report.write_text("before")
    with pytest.raises(ValueError, match="outputs are finite"):
        write_evaluation_report(report, "title", [], findings, ["a", "b"])
    assert report.read_text() == "before"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_tie_is_no_hit_and_counts_for_the_other_class():
    logits = np.float32([[1, 1, 0], [0, 2, 2], [5, 1, 1], [np.nan, 0, 1]])
    labels = np.eye(3, dtype="float32")[[0, 2, 0, 0]]
    rows = np.int32([0, 1, 2, 3])
    found = np.asarray(_by_row(6, logits, labels, rows))
    np.testing.assert_array_equal(found[:, 1], [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(found[:4, 3], [1, 1, 0, 2])
    np.testing.assert_array_equal(found[:3, 2], [1, 1, 1])
    assert not np.isfinite(found[3, 0]) and not found[4:].any()
