"""Tests of `keras_nfnet.export.to_saved_model`."""

import io
import os
import resource

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_nfnet
from keras_nfnet.data.decoding import decode_picture
from keras_nfnet.data.preprocessing import evaluation_picture, preprocess_input
from keras_nfnet.export import to_saved_model
from keras_nfnet.export.saved_model import next_version

if keras.backend.backend() != "tensorflow":
    pytest.skip("SavedModels are TensorFlow's", allow_module_level=True)

import tensorflow as tf

CONFIG = keras_nfnet.NFNetConfig((32, 64), (1, 2), group_width=16)


def build(**options):
    options = {"classes": 10, "input_shape": (32, 32, 3), **options}
    model = keras_nfnet.NFNet(CONFIG, weights=None, **options)
    # Larger than initialized, so that the branches and the classes differ.
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "skip" in variable.path or "predictions" in variable.path:
            variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "1"
    return directory, to_saved_model(model, directory)


def encode(picture, file_format):
    file = io.BytesIO()
    picture.save(file, file_format)
    return file.getvalue()


def outputs(model, pictures):
    images = preprocess_input(np.stack(pictures).astype("float32"))
    return np.asarray(model(images, training=False), "float32")


def test_serving_default_takes_pixels_of_any_batch(model, exported):
    directory, report = exported
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    (spec,) = serve.structured_input_signature[1].values()
    assert spec.name == "images" and spec.dtype == tf.float32
    pixels = np.random.default_rng(1).uniform(0, 255, (5, 32, 32, 3))
    for batch in (0, 1, 5):
        images = tf.constant(pixels[:batch], tf.float32)
        got = serve(images=images)
        assert list(got) == ["probabilities"]
        assert got["probabilities"].shape == (batch, 10)
        if batch:
            np.testing.assert_allclose(
                got["probabilities"],
                outputs(model, pixels[:batch]),
                atol=1e-5,
            )
    assert report.path == str(directory)
    assert report.largest_difference < 1e-4
    assert report.top1_agreement == 1
    assert report.seconds_per_picture > 0
    assert report.size == sum(
        file.stat().st_size for file in directory.rglob("*") if file.is_file()
    )
    # The weights once, not again as constants or under other names.
    variables = directory / "variables" / "variables.data-00000-of-00001"
    assert variables.stat().st_size < 4.1 * model.count_params()
    assert "MB" in str(report)


def test_serve_bytes_takes_pictures_of_any_size_and_format(model, exported):
    serve = tf.saved_model.load(str(exported[0])).signatures["serve_bytes"]
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    encoded = [
        encode(photo, "PNG"),
        encode(photo.resize((70, 50)).convert("L"), "PNG"),
        encode(photo.resize((20, 90)), "WEBP"),
        encode(photo.convert("RGBA").resize((64, 64)), "WEBP"),
        encode(photo, "JPEG"),
        encode(photo.convert("CMYK"), "JPEG"),
    ]
    got = serve(image_bytes=tf.constant(encoded))
    views = [
        evaluation_picture(decode_picture(picture), 32) for picture in encoded
    ]
    expected = outputs(model, views)
    scores = got["scores"].numpy()
    np.testing.assert_allclose(got["probabilities"], expected, atol=1e-5)
    order = np.argsort(-got["probabilities"].numpy(), axis=-1)[:, :5]
    np.testing.assert_array_equal(
        got["classes"].numpy().astype(str), order.astype(str)
    )
    assert scores.shape == (6, 5) and (np.diff(scores, axis=-1) <= 0).all()
    empty = serve(image_bytes=tf.zeros([0], tf.string))
    assert empty["classes"].shape == (0, 5)
    for broken in (b"no picture", b"", encoded[0][:200], encoded[4][:99]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(image_bytes=tf.constant([encoded[0], broken]))


def test_the_warm_up_requests_replay(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    directory = exported[0]
    file = directory / "assets.extra" / "tf_serving_warmup_requests"
    loaded = tf.saved_model.load(str(directory)).signatures
    warmed = []
    for record in tf.data.TFRecordDataset(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        signature = request.model_spec.signature_name
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in request.inputs.items()
        }
        answer = loaded[signature](**inputs)
        assert answer["probabilities"].shape == (1, 10)
        warmed.append(signature)
    assert warmed == ["serving_default", "serve_bytes"]


def test_labels_are_served_and_stored(tmp_path):
    model = build(classes=3)
    names = ["cat", "dög", "two words"]
    to_saved_model(model, tmp_path / "a", labels=names, margin=0)
    stored = (tmp_path / "a" / "assets" / "labels.txt").read_text("utf-8")
    assert stored.splitlines() == names
    serve = tf.saved_model.load(str(tmp_path / "a")).signatures["serve_bytes"]
    picture = Image.fromarray(load_sample_image("china.jpg"))
    classes = serve(image_bytes=tf.constant([encode(picture, "PNG")]))[
        "classes"
    ]
    assert sorted(c.decode() for c in classes.numpy()[0]) == sorted(names)


def test_a_model_of_logits_gets_its_softmax_once(tmp_path, model):
    logits = build(classifier_activation=None)
    logits.set_weights(model.get_weights())
    to_saved_model(logits, tmp_path / "a")
    serve = tf.saved_model.load(str(tmp_path / "a")).signatures
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3))
    got = serve["serving_default"](images=tf.constant(pixels, tf.float32))
    np.testing.assert_allclose(
        got["probabilities"], outputs(model, pixels), atol=1e-5
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_probabilities(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build(input_shape=None)
    finally:
        keras.config.set_dtype_policy("float32")
    report = to_saved_model(model, tmp_path / "a", size=32)
    assert report.input_size == (32, 32)
    serve = tf.saved_model.load(str(tmp_path / "a")).signatures
    got = serve["serving_default"](images=tf.zeros((1, 40, 48, 3)))
    assert got["probabilities"].dtype == tf.float32
    assert float(tf.reduce_sum(got["probabilities"])) == pytest.approx(
        1, abs=1e-5
    )


def test_nothing_in_the_graphs_needs_compiling(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    content = (exported[0] / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content)
    graph = graph.meta_graphs[0].graph_def
    nodes = list(graph.node)
    for function in graph.library.function:
        assert not function.attr["_XlaMustCompile"].b
        nodes.extend(function.node_def)
    assert len(nodes) > 100
    for node in nodes:
        assert not node.attr["_XlaMustCompile"].b, node.name


def test_a_model_that_needs_compiling_is_refused(tmp_path):
    layers = [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(6, 3, groups=3),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    with pytest.raises(ValueError, match="XLA"):
        to_saved_model(
            keras.Sequential(layers), tmp_path / "a", input_range="0-255"
        )
    assert not os.listdir(tmp_path)


def test_size_defaults_to_the_variants_or_to_a_warning(tmp_path):
    from keras_nfnet.export.contract import input_size

    named = build(input_shape=None, name="nfnet_f4_plus")
    assert input_size(named) == (512, 512)
    assert input_size(named, 64) == (64, 64)
    assert input_size(build(input_shape=None)) is None
    assert input_size(build(input_shape=(32, 48, 3))) == (32, 48)
    with pytest.warns(UserWarning, match="256 pixels"):
        report = to_saved_model(build(input_shape=None), tmp_path / "a")
    assert report.input_size == (256, 256)


def test_an_export_that_differs_leaves_what_was_there(
    tmp_path, model, monkeypatch
):
    directory = tmp_path / "a"
    to_saved_model(model, directory)
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    other = build(classifier_activation=None)
    monkeypatch.setattr(
        "keras_nfnet.export.saved_model.ends_in_logits",
        # A wrong answer once it is compared.
        lambda model: False,
    )
    monkeypatch.setattr(
        "keras_nfnet.export.comparison._LARGEST", {"float32": -1}
    )
    with pytest.raises(ValueError, match="nothing was written"):
        to_saved_model(other, directory, overwrite=True)
    assert before == {
        p: p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_there_is_replaced_only_when_told(tmp_path, model):
    place = tmp_path / "1"
    place.mkdir()
    (place / "saved_model.pb").write_bytes(b"mine")
    with pytest.raises(ValueError, match="`directory` must be new.*exists"):
        to_saved_model(model, place)
    assert (place / "saved_model.pb").read_bytes() == b"mine"
    to_saved_model(model, place, overwrite=True)
    assert tf.saved_model.load(str(place)).signatures
    assert os.listdir(tmp_path) == ["1"]


def test_the_next_version_is_one_more_than_the_largest(tmp_path):
    assert next_version(tmp_path / "new") == str(tmp_path / "new" / "1")
    for name in ("2", "10", "old"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == str(tmp_path / "11")


def test_a_move_that_fails_restores_what_was_there(tmp_path, monkeypatch):
    from keras_nfnet.utils import files

    target = tmp_path / "a"
    target.mkdir()
    (target / "old").touch()
    rename = os.rename

    def failing(source, destination):
        if source.endswith(f"{os.sep}a") and destination == str(target):
            raise OSError("no space")
        rename(source, destination)

    monkeypatch.setattr(files.os, "rename", failing)
    with pytest.raises(OSError, match="no space"):
        with files.staged(target) as path:
            os.mkdir(path)
    assert os.listdir(tmp_path) == ["a"] and os.listdir(target) == ["old"]


def test_bad_places_get_one_clear_error(tmp_path, model):
    file = tmp_path / "file"
    file.touch()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").touch()
    for place, message in {
        file: "which is a file",
        full: "holds other files",
        "/proc/a": "can be written",
        "": "must be the path",
    }.items():
        with pytest.raises(ValueError, match=f"`directory`.*{message}"):
            to_saved_model(model, place)
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


@pytest.mark.parametrize("most", [1_000, 100_000])
def test_a_disk_that_is_full_keeps_what_was_there(tmp_path, model, most):
    place = tmp_path / "1"
    place.mkdir()
    (place / "saved_model.pb").write_bytes(b"mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files of this process end here, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(ValueError, match="`directory`.*can be written"):
            to_saved_model(model, place, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (place / "saved_model.pb").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["1"]


def test_bad_models_and_arguments_get_one_clear_error(tmp_path, model):
    place = tmp_path / "a"
    for options, message in (
        ({"labels": ["a"]}, "10 classes"),
        ({"size": 48}, "fixed at"),
        ({"size": 0}, "`size`"),
        ({"margin": -1}, "`margin`"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*Received"):
            to_saved_model(model, place, **options)
    for bad in ("F0", build(include_top=False, pooling="avg")):
        with pytest.raises(ValueError, match="`model` must.*Received"):
            to_saved_model(bad, place)
    broken = build()
    kernel = broken.get_layer("stage2_block1").conv1.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="finite.*stage2_block1.*kernel"):
        to_saved_model(broken, place)
    assert not os.listdir(tmp_path)
