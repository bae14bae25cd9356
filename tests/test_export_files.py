"""Tests of `to_tflite` and `to_onnx`, each run by its own runtime."""

import gc
import json
import os
import resource
import signal
import zipfile

import keras
import numpy as np
import pytest
from fill import images
from test_fold import network

from keras_nfnet import NFNet, NFNetConfig, fold
from keras_nfnet.data.preprocessing import preprocess_input
from keras_nfnet.export import lowering, onnx_file, tflite, to_onnx, to_tflite
from keras_nfnet.export.contract import Contract
from keras_nfnet.export.folded_layers import PlainActivation

tensorflow = pytest.mark.tensorflow
RGB = Contract(3, "imagenet", "float32", ("output",))
FILES = [
    pytest.param(to_tflite, tflite.runner, id="tflite", marks=tensorflow),
    pytest.param(to_onnx, onnx_file.runner, id="onnx"),
]
PRECISIONS = [
    pytest.param(to_tflite, tflite.runner, name, bound, marks=tensorflow)
    for name, bound in [
        ("float32", 1e-5),
        ("float16", 5e-3),
        ("dynamic_int8", 0.1),
        ("int8", 0.2),
    ]
] + [
    (to_onnx, onnx_file.runner, name, bound)
    for name, bound in [("float32", 1e-5), ("float16", 5e-3), ("int8", 0.2)]
]


@pytest.fixture(scope="module")
def model():
    return network(input_shape=(32, 32, 3), classifier_activation=None)


def pixels(batch, height=32, width=32):
    return (
        np.random.default_rng(batch)
        .uniform(0, 255, (batch, height, width, 3))
        .astype("float32")
    )


def outputs(model, batch):
    return np.asarray(model(preprocess_input(batch), training=False))


@pytest.mark.parametrize("write, runner, precision, bound", PRECISIONS)
def test_every_precision_gives_the_models_outputs(
    write, runner, precision, bound, model, tmp_path
):
    path = tmp_path / "model"
    calibration = pixels(8) if precision == "int8" else None
    report = write(model, path, precision, calibration)
    assert os.listdir(tmp_path) == ["model"]
    assert report.path == str(path) and report.precision == precision
    assert report.size == path.stat().st_size
    assert report.pictures == 4 and report.cosine > 0.99
    run = runner(path)
    for batch in (1, 3):
        expected = outputs(model, pixels(batch))
        difference = np.abs(run(pixels(batch)) - expected).max()
        assert difference <= bound * np.abs(expected).max()
        assert run(pixels(batch)).dtype == np.float32


@pytest.mark.parametrize("write, runner", FILES)
def test_any_resolution_stays_open_and_feature_maps_come_out(
    write, runner, tmp_path
):
    model = network(include_top=False)
    path = tmp_path / "model"
    write(model, path, size=32)
    run = runner(path)
    for batch, height, width in ((1, 40, 33), (2, 64, 48), (1, 32, 32)):
        x = pixels(batch, height, width)
        expected = outputs(model, x)
        assert run(x).shape == expected.shape
        np.testing.assert_allclose(
            run(x), expected, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    "activation",
    ["relu", "silu", "celu", "leaky_relu", "relu6", "log_sigmoid", "identity"],
)
def test_activations_have_their_onnx_operators(activation, tmp_path):
    model = network({"activation": activation}, classifier_activation="sigmoid")
    report = to_onnx(model, tmp_path / "model", size=32)
    assert report.largest_difference < 1e-5


@tensorflow
def test_other_layers_are_converted_by_tf2onnx(tmp_path):
    body = network(include_top=False, input_shape=(32, 32, 3))
    model = keras.Sequential(
        [
            body,
            keras.layers.LayerNormalization(),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(4),
        ]
    )
    to_onnx(model, tmp_path / "model")
    run = onnx_file.runner(tmp_path / "model")
    np.testing.assert_allclose(
        run(pixels(3)), outputs(model, pixels(3)), atol=1e-5
    )


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="on TensorFlow, tf2onnx converts what is refused elsewhere",
)
def test_other_layers_are_refused_by_name_without_tensorflow(tmp_path):
    body = network(include_top=False, input_shape=(32, 32, 3), pooling="avg")
    strange = keras.layers.LayerNormalization(name="strange")
    for model, message in (
        (keras.Sequential([body, strange]), "layer 'strange'"),
        (
            network({"activation": "sparse_sigmoid"}),
            "activation 'sparse_sigmoid'",
        ),
    ):
        with pytest.raises(ValueError, match=f"`model` must.*{message}"):
            to_onnx(model, tmp_path / "a", size=32)
    assert not os.listdir(tmp_path)


def test_tflite_and_onnx_describe_themselves(tmp_path):
    model = network(classes=3, input_shape=(24, 32, 3))
    names = ["cat", "dög", "two words"]
    to_onnx(model, tmp_path / "a.onnx", labels=names)
    import onnx

    stored = {
        entry.key: entry.value
        for entry in onnx.load(tmp_path / "a.onnx").metadata_props
    }
    if keras.backend.backend() == "tensorflow":
        to_tflite(model, tmp_path / "a.tflite", labels=names)
        with zipfile.ZipFile(tmp_path / "a.tflite") as archive:
            assert archive.testzip() is None
            for name, text in stored.items():
                assert archive.read(name).decode() == text
    assert stored["labels.txt"].splitlines() == names
    facts = json.loads(stored["preprocessing.json"])
    assert facts["size"] == [24, 32] and facts["range"] == [0, 255]


@tensorflow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_onnx_file_is_as_onnx_would_write_it(precision, model, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "a.onnx"
    to_onnx(model, path, precision)
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    # Each constant is written by itself: nothing twice, nothing left out.
    assert len(content.SerializeToString()) == path.stat().st_size
    names = [value.name for value in content.graph.initializer]
    assert len(names) == len(set(names))


@tensorflow
def test_a_folded_networks_memory_goes_back_with_it():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    config = NFNetConfig((256, 2048), (1, 1), group_width=64)
    model = NFNet(config, weights=None, classes=2, input_shape=(32, 32, 3))
    fold(model)  # What TensorFlow keeps to reuse it is taken once.
    folded = fold(model)
    kernels = sum(
        4 * np.prod(kernel.shape)
        for layer in folded._flatten_layers()
        for kernel in getattr(layer, "kernels", ())
    )
    gc.collect()
    before = resident()
    del folded
    gc.collect()
    assert before - resident() > 0.9 * kernels > 1e7


def test_weights_take_the_bytes_of_their_precision(tmp_path):
    model = network(
        {"final_conv_mult": 40.0}, include_top=False, input_shape=(32, 32, 3)
    )
    parameters = model.count_params()
    for precision, size in {
        "float32": 4,
        "float16": 2,
        "dynamic_int8": 1,
    }.items():
        report = to_tflite(model, tmp_path / precision, precision)
        # The graph takes what is small only beside real networks.
        assert report.size < 1.1 * size * parameters + 60_000
    for precision, size in {"float32": 4, "float16": 2}.items():
        report = to_onnx(model, tmp_path / f"{precision}.onnx", precision)
        assert report.size < 1.1 * size * parameters + 60_000


@pytest.mark.parametrize("write, runner", FILES)
def test_bad_places_get_one_clear_error_and_keep_what_was_there(
    write, runner, model, tmp_path
):
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    for place, message in {
        there: "must be new.*overwrite.*exists",
        tmp_path: "must be a file",
        "/proc/a": "can be written",
        "": "path of a file",
    }.items():
        with pytest.raises(ValueError, match=f"`path`.*{message}"):
            write(model, place)
    assert there.read_bytes() == b"mine"
    write(model, there, overwrite=True)
    assert np.isfinite(runner(there)(pixels(1))).all()
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("write, runner", FILES)
def test_a_disk_that_is_full_keeps_what_was_there(
    write, runner, model, tmp_path
):
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Files of this process end here, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ValueError, match="`path`.*can be written"):
            write(model, there, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert there.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("write, runner", FILES)
def test_a_file_that_differs_is_not_written(
    write, runner, model, tmp_path, monkeypatch
):
    # A conversion that loses the activations.
    monkeypatch.setitem(
        lowering._LOWERINGS, PlainActivation, lambda target, layer, x: x
    )
    with pytest.raises(ValueError, match="float32.*nothing was written"):
        write(model, tmp_path / "a")
    assert not os.listdir(tmp_path)


@tensorflow
def test_int8_that_rounds_every_probability_to_0_is_not_written(tmp_path):
    # A new network's 1000 probabilities are 0.001 each, int8's step 1/256.
    config = NFNetConfig((16,), (1,), group_width=16)
    options = {"weights": None, "input_shape": (32, 32, 3)}
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="int8.*Received: 0.0000"):
        to_tflite(NFNet(config, **options), path, "int8", pixels(8))
    assert not os.listdir(tmp_path)
    logits = NFNet(config, classifier_activation=None, **options)
    assert to_tflite(logits, path, "int8", pixels(8)).cosine < 1


@pytest.mark.parametrize("write, runner", FILES)
def test_bad_models_and_arguments_get_one_clear_error(
    write, runner, model, tmp_path
):
    place = tmp_path / "a"
    for options, message in (
        ({"labels": ["a"]}, "10 classes"),
        ({"size": 48}, "fixed at"),
        ({"precision": "int4"}, "`precision`"),
        ({"precision": "int8", "calibration": "missing"}, "`calibration`"),
        ({"precision": "int8", "calibration": images(9, 9, 0)}, "0–255"),
        ({"precision": "int8", "calibration": np.ones(3)}, "`calibration`"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*Received"):
            write(model, place, **options)
    features = network(include_top=False)
    with pytest.raises(ValueError, match="`labels`.*Received"):
        write(features, place, labels=["a"])
    with pytest.raises(ValueError, match="`model` must.*Received"):
        write("F0", place)
    broken = network(input_shape=(32, 32, 3))
    kernel = broken.get_layer("stage2_block1").conv1.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="finite.*stage2_block1.*kernel"):
        write(broken, place)
    assert not os.listdir(tmp_path)


def test_calibration_reads_a_folder_or_takes_views_of_photographs(tmp_path):
    from PIL import Image

    from keras_nfnet.export.calibration import calibration_pixels

    with pytest.raises(ValueError, match="empty"):
        calibration_pixels(str(tmp_path), (16, 16), 32, RGB)
    (tmp_path / "cats").mkdir()
    for index in range(3):
        Image.new("RGB", (40, 30), (index, 5, 9)).save(
            tmp_path / "cats" / f"{index}.png"
        )
    pictures = calibration_pixels(tmp_path, (16, 24), 32, RGB)
    assert pictures.shape == (3, 16, 24, 3)
    np.testing.assert_allclose(pictures[2, 3, 3], (2, 5, 9), atol=1e-3)
    with pytest.warns(UserWarning, match="two photographs"):
        pictures = calibration_pixels(None, (16, 16), 32, RGB)
    assert pictures.shape == (12, 16, 16, 3)
