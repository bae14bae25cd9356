"""Tests of `keras-nfnet export` and the scripts in `export/`."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from test_fold import network

import keras_nfnet
from keras_nfnet.cli import main
from keras_nfnet.data.labels import description
from keras_nfnet.export import onnx_file, tflite
from keras_nfnet.export.command import verify

pytestmark = pytest.mark.tensorflow

SCRIPTS = pathlib.Path(__file__).parents[1] / "export"


def script(name):
    spec = importlib.util.spec_from_file_location("script", SCRIPTS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    return network(input_shape=(32, 32, 3))


@pytest.fixture
def saved(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("digits.keras")
    return "digits.keras"


def pixels():
    return np.full((1, 32, 32, 3), 100, "float32")


def test_a_keras_file_is_exported_to_every_format(saved, model, capsys):
    assert main(["export", saved, "--out", "served"]) == 0
    assert main(["export", saved, "--out", "served"]) == 0
    assert sorted(os.listdir("served")) == ["1", "2"]
    command = ["export", saved, "--out", "a.tflite", "--format", "tflite"]
    assert main([*command, "--precision", "dynamic_int8"]) == 0
    command = ["export", saved, "--out", "a.onnx", "--format", "onnx"]
    assert main([*command, "--precision", "float16"]) == 0
    printed = capsys.readouterr().out
    assert "served/2" in printed and "dynamic_int8" in printed
    expected = np.asarray(
        model(keras_nfnet.preprocess_input(pixels()), training=False)
    )
    for runner, file in (
        (tflite.runner, "a.tflite"),
        (onnx_file.runner, "a.onnx"),
    ):
        np.testing.assert_allclose(runner(file)(pixels()), expected, atol=0.02)
    assert verify("served/1", model).largest_difference < 1e-5
    assert verify("a.onnx", model, "float16").largest_difference < 1e-3
    with pytest.raises(ValueError, match="float32 export must give"):
        verify("a.tflite", model)


def test_what_a_run_left_beside_the_file_goes_into_the_artifact(saved):
    # Another size than the model's, which is fixed.
    texts = description("m", list("abcdefghij"), (48, 48), "float32", 0)
    for name, text in texts.items():
        pathlib.Path(name).write_text(text)
    for options, margin, labels in (
        ((), 0, "a\n"),
        (("--margin", "4", "--labels", "other.txt"), 4, "0\n"),
    ):
        pathlib.Path("other.txt").write_text(
            "".join(f"{i}\n" for i in range(10))
        )
        command = ["export", saved, "--format", "onnx", "--overwrite"]
        assert main([*command, "--out", "a.onnx", *options]) == 0
        entries = {
            entry.key: entry.value
            for entry in onnx.load("a.onnx").metadata_props
        }
        assert json.loads(entries["preprocessing.json"])["margin"] == margin
        assert entries["labels.txt"].startswith(labels)
        assert json.loads(entries["preprocessing.json"])["size"] == [32, 32]
    for wrong in (("--margin", "-1"), ("--size", "0"), ("--size", "48")):
        assert main(["export", saved, *wrong]) == 2


def test_bad_input_is_status_2_and_one_line(saved, capsys):
    for arguments, message in (
        ([saved, "--format", "onnx", "--precision", "dynamic_int8"], "onnx"),
        (["missing.keras"], "missing.keras"),
        (["F99"], "F99"),
        ([saved, "--weights", "a.h5"], "--weights"),
        ([saved, "--out", "digits.keras", "--format", "tflite"], "exists"),
    ):
        assert main(["export", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error
    whole = pathlib.Path(saved).read_bytes()
    inside = whole.index(b"config.json") + 200  # What its checksum covers.
    damaged = whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :]
    for content in (b"PK", whole[: len(whole) // 2], damaged):
        pathlib.Path("broken.keras").write_bytes(content)
        assert main(["export", "broken.keras"]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("keras-nfnet: error: ") and "\n" not in error
    assert sorted(os.listdir()) == ["broken.keras", saved]


def test_the_scripts_export_and_verify(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    config = keras_nfnet.NFNetConfig((32, 64), (1, 2), group_width=16)
    monkeypatch.setitem(keras_nfnet.VARIANTS, "TINY", config)
    keras_nfnet.NFNet("TINY", weights=None, classes=10).save_weights(
        "tiny.weights.h5"
    )
    common = ["TINY", "--classes", "10", "--weights", "tiny.weights.h5"]
    monkeypatch.setattr(sys, "argv", ["to_onnx.py", *common, "--size", "32"])
    main_of = script("to_onnx.py").main
    assert main_of("onnx", "text") == 0
    assert os.path.exists("nfnet_tiny.onnx")
    assert script("verify.py").main(["nfnet_tiny.onnx", *common]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert script("verify.py").main(["tiny.weights.h5", *common]) == 2
    assert "`path` must be" in capsys.readouterr().err


def test_a_file_exports_without_the_code_that_trained_it(tmp_path):
    training = tmp_path / "training_code.py"
    training.write_text(
        "import sys, keras, numpy as np, keras_nfnet\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Rate(keras.optimizers.schedules.LearningRateSchedule):\n"
        "    def __call__(self, step): return 0.1\n"
        "    def get_config(self): return {}\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Loss(keras.losses.Loss):\n"
        "    def call(self, y, p): return keras.ops.mean(p, axis=-1)\n"
        "config = keras_nfnet.NFNetConfig((32,), (1,), group_width=16)\n"
        "model = keras_nfnet.NFNet(config, weights=None, classes=3,\n"
        "                          input_shape=(32, 32, 3))\n"
        "model.compile(keras_nfnet.SGDAGC(Rate()), Loss())\n"
        "model.fit(np.ones((2, 32, 32, 3)), np.ones((2, 1)), verbose=0)\n"
        "model.save(sys.argv[1])\n"
    )
    file = str(tmp_path / "trained.keras")
    subprocess.run([sys.executable, str(training), file], check=True)
    training.unlink()
    out = str(tmp_path / "a.onnx")
    assert main(["export", file, "--format", "onnx", "--out", out]) == 0
    assert onnx_file.runner(out)(pixels()).shape == (1, 3)


@pytest.mark.parametrize(
    "kind, module",
    [
        *(("openvino", "openvino"), ("onnx", "onnxruntime")),
        *(("tflite", "ai_edge_litert"), ("tflite", "sklearn")),
    ],
)
def test_a_format_that_is_not_installed_is_one_line(
    kind, module, saved, capsys, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *package: (
            None if name == module else find_spec(name, *package)
        ),
    )
    assert main(["export", saved, "--format", kind]) == 2
    error = capsys.readouterr().err.strip()
    extra = "openvino" if kind == "openvino" else "export"
    assert module in error and f"keras-nfnet[{extra}]" in error
    assert "\n" not in error
    assert os.listdir() == [saved]
