"""Tests of `to_openvino`, each file run by OpenVINO's own runtime."""

import itertools
import json
import os
import resource
import signal
import sys

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images
from test_family_whole_way import each_form, small
from test_fold import network, randomized
from test_reference import deepmind_network

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig
from keras_nfnet.cli import main
from keras_nfnet.export import lowering, openvino_file, to_openvino
from keras_nfnet.export.command import verify
from keras_nfnet.export.comparison import weights_of
from keras_nfnet.export.folded_layers import PlainActivation
from keras_nfnet.utils.files import staged

openvino = pytest.importorskip(
    "openvino", reason="needs openvino: make test-openvino"
)


def pixels(batch, height=32, width=32):
    generator = np.random.default_rng(batch)
    shape = (batch, height, width, 3)
    return generator.uniform(0, 255, shape).astype("float32")


def crops(count, size):
    """Parts of two photographs, at any scale."""
    generator = np.random.default_rng(0)
    pictures = []
    for image in itertools.islice(
        itertools.cycle(load_sample_images().images), count
    ):
        side = generator.integers(size, 420)
        top, left = (generator.integers(n - side + 1) for n in image.shape[:2])
        part = image[top : top + side, left : left + side]
        pictures.append(keras.ops.image.resize(part, (size, size)))
    return np.array(pictures, "float32")


def outputs(model, batch):
    images = keras_nfnet.preprocess_input(batch)
    return model.predict(images, verbose=0)


@pytest.fixture(scope="module")
def model():
    return network(input_shape=(32, 32, 3), classifier_activation=None)


@each_form
def test_a_network_of_each_family_gives_its_outputs_at_any_resolution(
    form, tmp_path
):
    model = small(form)
    path = tmp_path / "a.xml"
    report = to_openvino(model, path, size=64)
    assert report.largest_difference < 1e-5
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.xml"]
    assert report.size == sum(x.stat().st_size for x in tmp_path.iterdir())
    run = openvino_file.runner(path)
    for batch, height, width in ((1, 61, 50), (3, 64, 64)):
        x = pixels(batch, height, width)
        np.testing.assert_allclose(run(x), outputs(model, x), atol=1e-5)
    assert verify(path, model).largest_difference < 1e-5


@pytest.mark.parametrize(
    "precision, bound", [("float32", 1e-5), ("float16", 5e-3)]
)
def test_every_precision_gives_the_models_outputs(
    precision, bound, model, tmp_path
):
    to_openvino(model, tmp_path / "a.xml", precision)
    expected = outputs(model, pixels(3))
    got = openvino_file.runner(tmp_path / "a.xml")(pixels(3))
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= bound * np.abs(expected).max()


def test_int8_has_weights_of_8_bits(tmp_path):
    pytest.importorskip("nncf")
    model = network(
        {"final_conv_mult": 40.0}, include_top=False, input_shape=(32, 32, 3)
    )
    report = to_openvino(model, tmp_path / "a.xml", "int8", pixels(8))
    assert report.cosine > 0.99
    weights = (tmp_path / "a.bin").stat().st_size
    kept = sum(
        np.prod(kernel.shape)
        for kernel in (v for v in model.weights if v.name == "kernel")
        if kernel.path.removesuffix("/kernel").replace("/", "_")
        in report.float_layers
    )
    assert kept
    assert weights < 1.1 * (model.count_params() + 3 * kept) + 60_000
    # What cost too much is in float, and named.
    assert report.float_layers and ", ".join(report.float_layers) in str(report)
    run = openvino_file.runner(tmp_path / "a.xml")
    x, expected = pixels(8), outputs(model, pixels(8))
    got = run(x)
    cosine = np.vdot(got, expected)
    cosine /= np.linalg.norm(got) * np.linalg.norm(expected)
    assert cosine >= 0.999
    nodes = {
        node.get_friendly_name(): node
        for node in openvino.Core().read_model(tmp_path / "a.xml").get_ops()
    }
    for name in report.float_layers:
        source = nodes[name].input_value(0).get_node()
        assert source.get_type_name() != "FakeQuantize"


@pytest.mark.slow
def test_f0_in_int8_leaves_nothing_in_float(figures, tmp_path):
    pytest.importorskip("nncf")
    figure = figures("nfnet_outputs.json")[0]
    model, _ = deepmind_network(figure)
    pictures = crops(32, 256)
    path = tmp_path / "a.xml"
    report = to_openvino(model, path, "int8", pictures[:8], size=256)
    assert report.float_layers == ()
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 73e6
    # On pictures that it was not calibrated with.
    got = openvino_file.runner(path)(pictures[16:])
    expected = outputs(model, pictures[16:])
    cosine = np.vdot(got, expected)
    cosine /= np.linalg.norm(got) * np.linalg.norm(expected)
    assert cosine >= 0.999


@pytest.mark.parametrize("activation", [*keras_nfnet.layers.ACTIVATIONS])
def test_activations_have_their_operations(activation, tmp_path):
    model = network(
        {"activation": activation, "attention": "eca"},
        classifier_activation="sigmoid",
    )
    report = to_openvino(model, tmp_path / "a.xml", size=32)
    assert report.largest_difference < 1e-5


def test_feature_maps_come_out_by_their_names(tmp_path):
    features = keras_nfnet.features(network())
    to_openvino(features, tmp_path / "a.xml", size=32)
    x = pixels(2, 40, 33)
    got = openvino_file.runner(tmp_path / "a.xml")(x)
    expected = outputs(features, x)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(got[name], value, atol=bound)


def test_dilated_convolutions_give_their_outputs(tmp_path):
    config = NFNetConfig((16, 16, 16), (1, 2, 2), group_width=8)
    model = randomized(NFNet(config, weights=None, output_stride=8))
    assert model.get_layer("stage3_block1").dilation_rate == 2
    report = to_openvino(model, tmp_path / "a.xml", size=32)
    assert report.largest_difference < 1e-5


def test_pixels_of_one_channel_and_a_rescaling_of_the_users(tmp_path):
    grey = network(input_shape=(32, 32, 1))
    assert to_openvino(grey, tmp_path / "a.xml").largest_difference < 1e-5
    body = network(include_top=False, input_shape=(32, 32, 3), pooling="avg")
    own = keras.Sequential([keras.layers.Rescaling(1 / 255), body])
    own.build((None, 32, 32, 3))
    to_openvino(own, tmp_path / "b.xml")
    got = openvino_file.runner(tmp_path / "b.xml")(pixels(2))
    expected = own.predict(pixels(2), verbose=0)
    np.testing.assert_allclose(
        got, expected, atol=1e-5 * np.abs(expected).max()
    )


def head_of_another_layer():
    body = network(include_top=False, input_shape=(32, 32, 3))
    return keras.Sequential(
        [
            body,
            keras.layers.LayerNormalization(name="strange"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(4),
        ]
    )


@pytest.mark.tensorflow
def test_other_layers_go_through_onnx(tmp_path):
    pytest.importorskip("tf2onnx")
    model = head_of_another_layer()
    to_openvino(model, tmp_path / "a.xml")
    run = openvino_file.runner(tmp_path / "a.xml")
    np.testing.assert_allclose(
        run(pixels(3)), outputs(model, pixels(3)), atol=1e-5
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_other_layers_need_the_packages_of_onnx(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("onnx_target", "onnx_weights"):
        monkeypatch.delitem(
            sys.modules, f"keras_nfnet.export.{name}", raising=False
        )
    with pytest.raises(ValueError, match=rf"\({package} is missing\)"):
        to_openvino(head_of_another_layer(), tmp_path / "a.xml")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="on TensorFlow, tf2onnx converts what is refused elsewhere",
)
def test_other_layers_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="`model` must.*'strange'"):
        to_openvino(head_of_another_layer(), tmp_path / "a.xml")
    assert not os.listdir(tmp_path)


def test_the_file_describes_itself(tmp_path):
    model = network(classes=3, input_shape=(24, 32, 3))
    names = ["cat", "dög", "two words"]
    to_openvino(model, tmp_path / "a.xml", labels=names)
    content = openvino.Core().read_model(tmp_path / "a.xml")

    def text(name):
        return content.get_rt_info(["keras_nfnet", name]).astype(str)

    assert text("labels.txt").splitlines() == names
    facts = json.loads(text("preprocessing.json"))
    assert facts["size"] == [24, 32] and facts["range"] == [0, 255]


def test_bad_places_get_one_clear_error_and_keep_what_was_there(
    model, tmp_path
):
    there, beside = tmp_path / "a.xml", tmp_path / "a.bin"
    beside.write_bytes(b"mine")
    for place, message in {
        there: "must be new.*overwrite.*a.bin.*exists",
        tmp_path: "must be a file",
        tmp_path / "a": "must end in .xml",
        "": "path of a file",
    }.items():
        with pytest.raises(ValueError, match=f"`path`.*{message}"):
            to_openvino(model, place)
    assert beside.read_bytes() == b"mine" and not there.exists()
    to_openvino(model, there, overwrite=True)
    assert np.isfinite(openvino_file.runner(there)(pixels(1))).all()
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.xml"]


def test_a_disk_that_is_full_keeps_both_files(model, tmp_path):
    there, beside = tmp_path / "a.xml", tmp_path / "a.bin"
    there.write_bytes(b"mine")
    beside.write_bytes(b"its weights")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Files of this process end here, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ValueError, match="`path`.*can be written"):
            to_openvino(model, there, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert there.read_bytes() == b"mine"
    assert beside.read_bytes() == b"its weights"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("existing", [(), ("a.bin",), ("a.bin", "a.xml")])
@pytest.mark.parametrize("failing", range(1, 5))
def test_both_files_move_or_none(existing, failing, tmp_path, monkeypatch):
    for name in existing:
        (tmp_path / name).write_text(f"old {name}")
    rename, calls = os.rename, []

    def failing_rename(*args):
        calls.append(args)
        if len(calls) == failing:
            raise OSError("no")
        rename(*args)

    target = str(tmp_path / "a.xml")
    beside = str(tmp_path / "a.bin")
    monkeypatch.setattr(os, "rename", failing_rename)
    fails = failing <= len(existing) + 2
    try:
        with staged(target, beside=[beside]) as new:
            for path in (new, weights_of(new)):
                with open(path, "w") as file:
                    file.write("new")
    except OSError:
        assert fails
    else:
        assert not fails
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    if fails:
        assert found == {name: f"old {name}" for name in existing}
    else:
        assert found == {"a.xml": "new", "a.bin": "new"}


def test_a_file_that_differs_is_not_written(model, tmp_path, monkeypatch):
    # A conversion that loses the activations.
    monkeypatch.setitem(
        lowering._LOWERINGS, PlainActivation, lambda target, layer, x: x
    )
    with pytest.raises(ValueError, match="float32.*nothing was written"):
        to_openvino(model, tmp_path / "a.xml")
    assert not os.listdir(tmp_path)


def test_the_command_writes_it(tmp_path, capsys):
    file, out = tmp_path / "tiny.keras", tmp_path / "tiny.xml"
    network(input_shape=(32, 32, 3)).save(file)
    command = ["export", str(file), "--format", "openvino", "--out", str(out)]
    assert main(command) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err
