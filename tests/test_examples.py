"""The programs of `examples/`, in short forms, do what they say."""

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_nfnet

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
CONFIG = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Imports an example, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.fixture
def light(monkeypatch):
    """Makes ECA-NFNet-L0 narrow and shallow."""
    row = keras_nfnet.VARIANTS["eca_nfnet_l0"]
    row = dataclasses.replace(
        row, widths=(32, 32, 64, 64), depths=(1,) * 4, group_width=8
    )
    monkeypatch.setitem(keras_nfnet.VARIANTS, "eca_nfnet_l0", row)


def width_of(path):
    return Image.open(path).size[0]


@pytest.mark.long
def test_fine_tuning_on_a_folder(example):
    accuracy = example("fine_tune").main(network=CONFIG, epochs=2)
    assert 0 <= accuracy <= 1
    assert width_of("fine_tune/confusion.png") == 500
    model = keras.saving.load_model("fine_tune/model.keras")
    assert model.output_shape == (None, 5)


def test_fine_tuning_takes_a_folder_of_the_users_own(example):
    fine_tune = example("fine_tune")
    fine_tune.write_digits(Path("mine"), (3, 8), 10)
    fine_tune.main("out", "mine", CONFIG, epochs=1)
    model = keras.saving.load_model("out/model.keras")
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_spectrograms(example, light, suffix):
    """The other half needs OpenVINO: make test-openvino."""
    if suffix == ".xml":
        pytest.importorskip("openvino")
    program = example("spectrograms")
    program.main(f"sounds{suffix}", count=2, epochs=1, size=64)
    assert width_of("sounds.png") == 1000


def test_spectrograms_show_what_was_played(example):
    program = example("spectrograms")
    waves, labels = program.sounds(3)
    pixels = program.spectrograms(waves, 64)
    assert pixels.shape == (12, 64, 64, 1)
    assert pixels.min() >= 0 and pixels.max() <= 255
    loudest = pixels[..., 0].argmax(axis=1)
    first, last = loudest[:, :16].mean(1), loudest[:, -16:].mean(1)
    assert (first < last)[labels == 0].all()  # Low frequencies come first.
    assert (first > last)[labels == 1].all()


@pytest.mark.long
def test_a_segmentation_head_learns_on_frozen_features(example, light):
    segmentation = example("segmentation")
    _, labels = segmentation.examples(64)
    majority = max(np.mean(labels), 1 - np.mean(labels))
    assert segmentation.main(epochs=8, size=64) > majority
    assert width_of("segmentation.png") == 700


def test_retrieval(example):
    retrieval = example("retrieval")
    precision = retrieval.main(epochs=1, config=CONFIG)
    assert precision["pixels"] == pytest.approx(0.87, abs=0.05)
    assert 0 < precision["features"] < 1
    features = np.float32([[1, 0], [2, 0.1], [0, 1], [0, 3], [1, 0.2], [0, -1]])
    assert retrieval.neighbours(features)[3, 0] == 2


@pytest.mark.long
def test_distillation(example):
    distillation = example("distillation")
    small = {"widths": (16,), "depths": (1,)}
    accuracies = distillation.main(
        epochs=1,
        teacher=distillation.dataclasses.replace(distillation.TEACHER, **small),
        student=distillation.dataclasses.replace(distillation.STUDENT, **small),
    )
    assert len(accuracies) == 3
    assert width_of("distillation.png") == 600


def test_the_network_of_signals_keeps_its_variance(example):
    signals = example("signals")
    report = keras_nfnet.check_normalizer_free(signals.network())
    assert not report.departures, str(report)


@pytest.mark.long
def test_signals(example):
    signals = example("signals")
    assert 0 <= signals.main(count=16, epochs=1, width=8) <= 1
    assert width_of("signals.png") == 900


@pytest.mark.long
def test_a_training_loop_in_jax(tmp_path):
    """In a process of its own, on the JAX backend."""
    program = (
        "import jax_training_loop as loop, keras_nfnet\n"
        "config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)\n"
        "model, accuracy = loop.main(epochs=2, examples=500, config=config)\n"
        "assert model.optimizer.iterations in (6, 12), 'the best epoch'\n"
        "images, labels = loop.data()\n"
        "logits = model.predict(images[400:500], verbose=0)\n"
        "right = (logits.argmax(-1) == labels[400:500]).sum()\n"
        "assert right == round(100 * accuracy)\n"
    )
    paths = [str(ROOT / "examples"), str(ROOT)]
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert width_of(tmp_path / "jax_training_loop.png") == 600


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_the_page_and_the_docstring_have_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    command = f"python examples/{path.name}"
    assert f"    {command}\n" in docstring
    assert f"\n{command}" in PAGE


def test_what_the_page_shows_is_there():
    assert set(re.findall(r"python examples/(\w+\.py)", PAGE)) == {
        path.name for path in PROGRAMS
    }
