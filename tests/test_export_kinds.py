"""Exports of whatever a user built: right, or refused in words."""

import os

import keras
import numpy as np
import pytest
from fill import images
from test_fold import SHARED, network, with_shared_layers

from keras_nfnet import fold, preprocess_input
from keras_nfnet.export import (
    folding,
    onnx_file,
    tflite,
    to_onnx,
    to_tflite,
)
from keras_nfnet.layers import SkipInit

L = keras.layers
SHAPE = (32, 32, 3)
tensorflow = pytest.mark.tensorflow


def backbone(**options):
    options = {"pooling": "avg", "input_shape": SHAPE, **options}
    return network(include_top=False, **options)


def pixels(batch=3, height=32, width=32):
    shape = (batch, height, width, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def exported(model, folder, raw, **options):
    """Outputs of every format for raw pixels, by format."""
    options["overwrite"] = True
    to_onnx(model, folder / "a.onnx", **options)
    got = {"onnx": onnx_file.runner(folder / "a.onnx")(raw)}
    if keras.backend.backend() == "tensorflow":
        to_tflite(model, folder / "a.tflite", **options)
        got["tflite"] = tflite.runner(folder / "a.tflite")(raw)
    return got


def check(model, folder, called_on, raw=None, bound=1e-5, **options):
    """Every format gives for pixels what the user's own call gives."""
    raw = pixels() if raw is None else raw
    expected = np.asarray(
        keras.ops.cast(model(called_on(raw), training=False), "float32")
    )
    for name, got in exported(model, folder, raw, **options).items():
        scale = np.abs(expected).max()
        assert np.abs(got - expected).max() <= bound * scale, name


@pytest.mark.parametrize(
    "kind",
    [
        # tf2onnx writes the layers of others.
        pytest.param(kind, marks=tensorflow)
        if kind in ("depthwise", "others")
        else kind
        for kind in SHARED
    ],
)
def test_a_layer_that_is_called_twice_is_written_once(kind, tmp_path):
    model = with_shared_layers(kind)
    check(model, tmp_path, lambda raw: raw, input_range="0-255")
    values = 4 * sum(np.prod(x.shape) for x in fold(model).weights)
    for file in tmp_path.iterdir():
        assert file.stat().st_size < values + 60_000


def normalization():
    layer = L.Normalization()
    layer.adapt(pixels(8))
    return layer


@tensorflow
@pytest.mark.parametrize(
    "first",
    [
        lambda: L.Rescaling(1 / 127.5, offset=-1),
        lambda: L.Rescaling(1 / 255),
        normalization,
    ],
    ids=["offset", "scale", "adapted"],
)
def test_a_model_that_normalizes_by_itself_gets_pixels(first, tmp_path):
    body = backbone(pooling=None)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.RandomFlip(),
            first(),
            body,
            L.GlobalAveragePooling2D(),
            L.Dense(5, activation="softmax"),
        ]
    )
    check(model, tmp_path, lambda raw: raw)


@tensorflow
def test_preprocessing_inside_a_functional_model_is_found(tmp_path):
    inputs = keras.Input(SHAPE)
    outputs = L.Dense(5)(backbone()(preprocess_input(inputs)))
    check(keras.Model(inputs, outputs), tmp_path, lambda raw: raw)


@tensorflow
def test_a_model_of_integers_gets_them(tmp_path):
    inputs = keras.Input(SHAPE, dtype="uint8")
    x = L.Rescaling(1 / 255)(inputs)
    model = keras.Model(inputs, L.Dense(5)(backbone()(x)))
    raw = np.round(pixels())
    check(model, tmp_path, lambda raw: raw.astype("uint8"), raw)


def test_what_a_model_takes_is_said_where_it_cannot_be_found(tmp_path):
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(8, 3)(inputs)
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError, match="`input_range` must be.*Received"):
        to_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="input_range='0-1'"):
        to_onnx(model, tmp_path / "a.onnx", input_range="0-1")
    assert not os.listdir(tmp_path)
    if keras.backend.backend() == "tensorflow":
        check(model, tmp_path, lambda raw: raw, input_range="0-255")


@pytest.mark.parametrize(
    "activation", ["gelu", "celu", "silu", "mish", "hard_sigmoid", "softplus"]
)
def test_keras_activations_of_a_head(activation, tmp_path):
    body = backbone(pooling=None)
    x = L.Dense(6, activation=activation)(body.output)
    x = L.Dense(5, activation="softmax")(x)
    check(
        keras.Model(body.input, L.GlobalAveragePooling2D()(x)),
        tmp_path,
        preprocess_input,
    )


def test_dense_and_softmax_on_feature_maps(tmp_path):
    body = backbone(pooling=None)
    x = L.Dense(4, use_bias=False)(body.output)
    check(keras.Model(body.input, L.Softmax()(x)), tmp_path, preprocess_input)
    kept = L.GlobalAveragePooling2D(keepdims=True)(body.output)
    check(keras.Model(body.input, L.Dense(4)(kept)), tmp_path, preprocess_input)


@tensorflow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("layer", [L.Rescaling, L.BatchNormalization])
def test_other_layers_under_mixed_precision(policy, layer, tmp_path):
    keras.config.set_dtype_policy(policy)
    body = backbone(pooling=None)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Rescaling(1 / 255) if layer is L.Rescaling else L.RandomFlip(),
            body,
            L.BatchNormalization(),
            L.GlobalAveragePooling2D(),
            L.Dense(5, activation="softmax", dtype="float32"),
        ]
    )
    keras.config.set_dtype_policy("float32")
    called_on = preprocess_input
    if layer is L.Rescaling:
        called_on = np.asarray
    # A half type's own rounding of 8 bits.
    check(model, tmp_path, called_on, bound=0.1)
    # Beside that, the export is exact.
    report = to_onnx(model, tmp_path / "b.onnx")
    assert report.largest_difference < 1e-5


def test_layers_called_by_keyword(tmp_path):
    body = backbone(pooling=None)
    inputs = keras.Input(SHAPE)
    x = L.GlobalAveragePooling2D()(inputs=body(inputs=inputs))
    model = keras.Model(inputs, L.Dense(3)(inputs=x))
    np.testing.assert_allclose(
        np.asarray(fold(model)(images(32, 32, 0))),
        np.asarray(model(images(32, 32, 0))),
        atol=1e-5,
    )
    check(model, tmp_path, preprocess_input)


class Doubled(keras.layers.Layer):
    """A layer that its configuration does not make again."""

    def __init__(self, secret):
        super().__init__()
        self.secret = secret

    def call(self, inputs):
        return inputs * self.secret


def test_layers_that_cannot_be_made_again_are_shared_and_named():
    body = backbone()
    doubled = Doubled(2.0)
    model = keras.Model(body.input, doubled(body.output))
    with pytest.warns(UserWarning, match=f"{doubled.name!r} cannot be made"):
        folded = fold(model)
    np.testing.assert_allclose(
        np.asarray(folded(images(32, 32, 0))),
        np.asarray(model(images(32, 32, 0))),
        atol=1e-5,
    )


@tensorflow
def test_an_adapted_layer_under_mixed_precision_keeps_its_statistics(tmp_path):
    adapted = normalization()
    keras.config.set_dtype_policy("mixed_bfloat16")
    inputs = keras.Input(SHAPE)
    x = backbone()(adapted(inputs))
    model = keras.Model(inputs, L.Dense(5, dtype="float32")(x))
    # Compared with the model's copy in float32, statistics and all.
    assert to_onnx(model, tmp_path / "a.onnx").largest_difference < 1e-4


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_a_maximum_over_feature_maps(activation, tmp_path):
    inputs = keras.Input(SHAPE)
    x = L.Dense(5, activation=activation)(backbone(pooling=None)(inputs))
    model = keras.Model(inputs, L.GlobalMaxPooling2D()(x))
    check(model, tmp_path, preprocess_input)


@tensorflow
def test_gelu_beside_layers_that_only_tf2onnx_knows(tmp_path):
    inputs = keras.Input(SHAPE)
    x = L.Dense(8, activation="gelu")(backbone()(inputs))
    model = keras.Model(inputs, L.Dense(5)(L.LayerNormalization()(x)))
    check(model, tmp_path, preprocess_input)


@tensorflow
def test_a_quantized_head_is_refused_in_words_where_it_cannot_be(tmp_path):
    inputs, head = keras.Input(SHAPE), L.Dense(5, name="head")
    model = keras.Model(inputs, head(backbone()(inputs)))
    head.quantize("int8")
    with pytest.raises(ValueError, match="`model` must.*'head'"):
        to_tflite(model, tmp_path / "a.tflite")
    assert not os.listdir(tmp_path)


def test_quantized_and_low_rank_heads_keep_what_they_compute():
    body = backbone()
    x = images(32, 32, 0)
    for change in (
        lambda layer: layer.quantize("int8"),
        lambda layer: layer.enable_lora(2),
    ):
        head = L.Dense(5)
        model = keras.Model(body.input, head(body.output))
        change(head)
        np.testing.assert_allclose(
            np.asarray(fold(model)(x)), np.asarray(model(x)), atol=1e-5
        )


def test_a_network_quantized_by_keras_is_refused_by_name():
    model = network()
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantized.*stage1_block0"):
        fold(model)


def test_a_wrong_fold_is_found_before_anything_is_converted(
    tmp_path, monkeypatch
):
    real = folding._Folder.skip_init

    def wrong(folder, layer, value):
        result = real(folder, layer, value)
        result.factor *= 1.5
        return result

    monkeypatch.setitem(folding._LOWERINGS, SkipInit, wrong)
    model = network(input_shape=SHAPE, classifier_activation=None)
    for precision in ("float32", "int8"):
        with pytest.raises(ValueError, match="The folded network must give"):
            to_onnx(model, tmp_path / "a.onnx", precision, pixels())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("opset", [17, 18, 19, 21])
@pytest.mark.parametrize("activation", ["gelu", "exact_gelu", "silu"])
def test_other_opsets(opset, activation, tmp_path):
    import onnx

    model = network({"activation": activation}, input_shape=SHAPE)
    to_onnx(model, tmp_path / "a.onnx", opset=opset)
    (entry,) = onnx.load(tmp_path / "a.onnx").opset_import
    assert entry.version == opset
    np.testing.assert_allclose(
        onnx_file.runner(tmp_path / "a.onnx")(pixels()),
        np.asarray(model(preprocess_input(pixels()))),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="`opset` must be.*Received: opset=16"):
        to_onnx(model, tmp_path / "b.onnx", opset=16)


def test_pads_are_explicit_where_the_size_is_fixed(tmp_path):
    import onnx

    for side, name in ((33, "odd"), (32, "even")):
        model = network(input_shape=(side, side, 3))
        to_onnx(model, tmp_path / name)
        nodes = onnx.load(tmp_path / name).graph.node
        used = {a.name: a.s for node in nodes for a in node.attribute}
        assert used.get("auto_pad") in (None, b"VALID")


@pytest.mark.parametrize("path", ["precious.onnx/", "new/"])
def test_a_slash_at_the_end_is_not_taken_for_a_file(path, tmp_path):
    (tmp_path / "precious.onnx").write_bytes(b"mine")
    with pytest.raises(ValueError, match="`path` must be a file"):
        to_onnx(network(input_shape=SHAPE), f"{tmp_path}/{path}")
    assert (tmp_path / "precious.onnx").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["precious.onnx"]


def test_the_home_folder_and_missing_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    to_onnx(network(input_shape=SHAPE), "~/a/new/place.onnx")
    assert (tmp_path / "a" / "new" / "place.onnx").exists()


def test_labels_saved_by_windows(tmp_path):
    from keras_nfnet.data.labels import read_labels

    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\nd\u00f6g\r\n\r\n".encode())
    assert read_labels(path) == ("cat", "d\u00f6g")


@tensorflow
def test_calibration_takes_data_sets_and_the_packages_own_crops(tmp_path):
    import tensorflow as tf

    from keras_nfnet.data import evaluation_picture
    from keras_nfnet.export.calibration import calibration_pixels
    from keras_nfnet.export.comparison import photographs
    from keras_nfnet.export.contract import contract_of

    model = network(input_shape=SHAPE)
    contract = contract_of(model)
    crops = np.stack([evaluation_picture(p, 32) for p in photographs()])
    assert crops.min() < 0  # Bicubic interpolation overshoots.
    labelled = tf.data.Dataset.from_tensor_slices((crops, [0, 1])).batch(2)
    for calibration in (crops, labelled, (crop for crop in crops)):
        taken = calibration_pixels(calibration, (32, 32), 0, contract)
        np.testing.assert_array_equal(taken, crops)
    with pytest.raises(ValueError, match="height and width of the model"):
        to_tflite(model, tmp_path / "b", "int8", pixels(2, 64, 64))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "readme.txt").write_text("not a picture")
    with pytest.raises(ValueError, match="readme.txt"):
        to_tflite(model, tmp_path / "b", "int8", tmp_path / "pictures")
    keras.utils.save_img(tmp_path / "pictures" / "a.png", crops[0])
    with pytest.warns(UserWarning, match="readme.txt"):
        taken = calibration_pixels(tmp_path / "pictures", (32, 32), 0, contract)
    assert taken.shape == (1, 32, 32, 3)


@tensorflow
@pytest.mark.parametrize(
    "head, outputs, expected",
    [
        (lambda x: L.Softmax()(L.Dense(4)(x)), None, "softmax"),
        (
            lambda x: L.Activation("linear", dtype="float32")(
                L.Dense(4, activation="softmax")(x)
            ),
            None,
            "softmax",
        ),
        (lambda x: keras.ops.softmax(L.Dense(4)(x)), None, "softmax"),
        (lambda x: L.Dense(4)(x), "sigmoid_logits", "sigmoid"),
        (lambda x: L.Dense(4, activation="sigmoid")(x), None, "same"),
        (
            lambda x: L.Average()(
                [L.Dense(4, activation="softmax")(x) for _ in range(2)]
            ),
            "probabilities",
            "same",
        ),
    ],
)
def test_what_a_model_returns_is_found_or_said(
    head, outputs, expected, tmp_path
):
    from keras_nfnet.export import saved_model, to_saved_model

    body = backbone()
    model = keras.Model(body.input, head(body.output))
    if outputs == "probabilities":
        with pytest.raises(ValueError, match="outputs="):
            to_saved_model(model, tmp_path / "a")
    to_saved_model(model, tmp_path / "a", outputs=outputs)
    got = saved_model.runner(tmp_path / "a")(pixels())["probabilities"]
    values = model(preprocess_input(pixels()))
    if expected == "sigmoid":
        values = keras.ops.sigmoid(values)
    np.testing.assert_allclose(got, np.asarray(values), atol=1e-5)


@tensorflow
def test_features_for_search_are_exported_as_such(tmp_path):
    from keras_nfnet.export import saved_model, to_saved_model

    model = backbone()
    to_saved_model(model, tmp_path / "a", outputs="features")
    got = saved_model.runner(tmp_path / "a")(pixels())["output"]
    np.testing.assert_allclose(
        got, np.asarray(model(preprocess_input(pixels()))), atol=1e-5
    )


def test_a_command_ends_well_on_a_console_of_few_signs(tmp_path):
    import subprocess
    import sys

    from keras_nfnet.weights import save

    save(network(), tmp_path / "a.weights.h5")
    command = [sys.executable, "-m", "keras_nfnet.cli", "convert"]
    done = subprocess.run(
        [*command, tmp_path / "a.weights.h5", tmp_path / "b.safetensors"],
        env={**os.environ, "PYTHONIOENCODING": "cp437"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-300:]
