"""The builders: `keras.applications` behaviour, files, both precisions."""

import inspect

import keras
import numpy as np
import pytest

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig, NFNetF0
from keras_nfnet.diagnostics import count_macs
from keras_nfnet.models.keras_file import load_keras_file
from keras_nfnet.models.nfnet import without_values

# Parameters and GMACs at the test size, arXiv:2102.06171, table 1; F7 and
# the two of F4+ from the released code and the paper's text.
PUBLISHED = {
    "F0": (71_489_284, 12.38, 6.98),
    "F1": (132_634_256, 35.54, 17.44),
    "F2": (193_779_228, 62.59, 33.14),
    "F3": (254_924_200, 114.76, 67.94),
    "F4": (316_069_172, 215.24, 121.12),
    "F5": (377_214_144, 289.76, 169.50),
    "F6": (438_359_116, 377.28, 228.29),
    "F7": (499_504_088, 478.78, 298.48),
    "F4+": (527_033_076, 367.41, None),
}


# Counts are of the description, which knows no backend.
@pytest.mark.tensorflow
def test_every_variant_has_the_published_parameters_and_macs(variant_rows):
    rows = {row["variant"]: row for row in variant_rows}
    assert list(rows) == list(keras_nfnet.VARIANTS)
    for variant, (parameters, test_gmacs, train_gmacs) in PUBLISHED.items():
        row = rows[variant]
        assert row["parameters"] == parameters
        assert row["test_gmacs"] == pytest.approx(test_gmacs, abs=0.005)
        if train_gmacs:
            assert row["train_gmacs"] == pytest.approx(train_gmacs, abs=0.005)


def test_models_without_values_never_get_any():
    model = without_values(lambda: NFNetF0(weights=None))
    # Keras gives waiting variables their values at the end of any scope.
    with keras.StatelessScope():
        pass
    assert model.count_params() == 71_489_284
    assert all(variable._value is None for variable in model.variables)


def test_released_code_of_f4_plus_is_a_configuration():
    import dataclasses

    config = dataclasses.replace(keras_nfnet.VARIANTS["F4+"], group_width=128)
    model = without_values(lambda: NFNet(config, weights=None))
    assert model.count_params() == 524_954_484
    assert count_macs(model, 512, 512) / 1e9 == pytest.approx(333.39, abs=0.005)


def test_keras_files_may_hold_classes_of_a_scope(tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    inputs = keras.Input((3,))
    path = tmp_path / "model.keras"
    keras.Model(inputs, Doubled()(inputs)).save(path)
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        model = load_keras_file(path, "model")
    assert isinstance(model.layers[-1], Doubled)
    with pytest.raises(ValueError, match="known layers"):
        load_keras_file(path, "model")


@pytest.mark.parametrize(
    "name", sorted(keras_nfnet.models.constructors.__all__)
)
def test_signatures_are_those_of_keras_applications(name):
    signature = inspect.signature(getattr(keras_nfnet, name))
    reference = inspect.signature(keras.applications.ConvNeXtTiny).parameters
    for parameter in signature.parameters.values():
        if parameter.name in (
            "drop_rate",
            "stochastic_depth_rate",
            "activation",
            "width",
            "output_stride",
            "use_se",
        ):
            assert parameter.kind is parameter.KEYWORD_ONLY
        elif parameter.name != "name":
            assert parameter.default == reference[parameter.name].default
    assert list(signature.parameters)[:8] == [
        "include_top",
        "weights",
        "input_tensor",
        "input_shape",
        "pooling",
        "classes",
        "classifier_activation",
        "name",
    ]


def test_layer_names_are_readable_and_the_same_every_time(tiny):
    names = [layer.name for layer in tiny().layers]
    assert names == [layer.name for layer in tiny().layers]
    assert names[:2] == ["images", "stem_conv0"]
    assert "stage2_block1" in names and names[-1] == "predictions"
    paths = [variable.path for variable in tiny().trainable_weights]
    assert "stage2_block0/stage2_block0_conv1/kernel" in paths
    assert len(set(paths)) == len(paths)


def test_any_resolution(tiny):
    model = tiny(input_shape=None)
    for side in ((32, 32), (33, 47), (1, 1), (64, 16)):
        assert model(np.zeros((1, *side, 3), "float32")).shape == (1, 10)


def test_without_top_and_pooling(tiny):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), "float32")
    maps = tiny(include_top=False)
    assert maps.output_shape == (None, 1, 1, 192)
    average = tiny(include_top=False, pooling="avg")
    highest = tiny(include_top=False, pooling="max")
    for model in (average, highest):
        for mine, others in zip(model.weights, maps.weights, strict=True):
            mine.assign(others)
    features = np.asarray(maps(x))
    np.testing.assert_allclose(average(x), features.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(highest(x), features.max((1, 2)), rtol=1e-5)


def test_input_tensor_joins_a_larger_graph(tiny):
    pixels = keras.Input((32, 32, 3), name="pixels")
    model = tiny(
        input_tensor=keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    )
    assert model.inputs[0] is pixels
    assert model(np.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_head_and_classifier_activation(tiny):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), "float32")
    probabilities, logits = tiny(), tiny(classifier_activation=None)
    for mine, others in zip(logits.weights, probabilities.weights, strict=True):
        mine.assign(others)
    np.testing.assert_allclose(
        keras.ops.softmax(logits(x)), probabilities(x), rtol=1e-5
    )


def test_extras_change_the_configuration(tiny_config):
    model = NFNet(
        tiny_config,
        weights=None,
        classes=10,
        drop_rate=0.3,
        stochastic_depth_rate=0.5,
        activation="relu",
        width=2,
    )
    assert model.get_layer("dropout").rate == 0.3
    assert model.get_layer("final_act").activation == "relu"
    assert model.get_layer("stage1_block0").filters == 64
    # Block k of n has rate * k / n.
    rates = [
        layer.stochastic_depth_rate
        for layer in model.layers
        if layer.name.startswith("stage")
    ]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


def test_ablations_are_configurations():
    # SE-ResNeXt-D without normalization: the default widths, one 3×3.
    config = NFNetConfig(
        (256, 512, 1024, 2048), (1, 2, 6, 3), use_two_convs=False
    )
    baseline = without_values(lambda: NFNet(config, weights=None))
    assert baseline.get_layer("stage1_block0").conv1b is None
    assert baseline.output_shape == (None, 1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "nowhere.npz"}, "weights"),
        ({"weights": 3}, "weights"),
        ({"weights": "."}, "directory"),
        ({"weights": "imagenet", "classes": 10}, "classes"),
        (
            {"weights": "imagenet", "classifier_activation": "relu"},
            "classifier_activation",
        ),
        (
            {"weights": None, "classifier_activation": "no"},
            "classifier_activation",
        ),
        ({"weights": None, "pooling": "sum"}, "pooling"),
        ({"weights": None, "classes": 0}, "classes"),
        ({"weights": None, "classes": 2.5}, "classes"),
        ({"weights": None, "input_shape": (32, 32)}, "input_shape"),
        ({"weights": None, "input_shape": (3, 32, -1)}, "input_shape"),
        (
            {"weights": None, "input_tensor": np.zeros((1, 8, 8, 3))},
            "input_tensor",
        ),
        ({"weights": None, "drop_rate": 1.0}, "drop_rate"),
        (
            {"weights": None, "stochastic_depth_rate": -0.1},
            "stochastic_depth_rate",
        ),
        ({"weights": None, "activation": "nope"}, "activation"),
        ({"weights": None, "width": 0}, "width"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NFNetF0(**arguments)


@pytest.mark.parametrize("config", ["F8", "f0-", 3, None, {"widths": (1,)}])
def test_unknown_variant_lists_the_known(config):
    with pytest.raises(ValueError, match=r"F0, F1.*Received"):
        NFNet(config, weights=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "widths"),
        (((8, 8), (1,)), "depths"),
        (((8,), (0,)), "depths"),
        (((8.5,), (1,)), "widths"),
        ((8, 1), "widths"),
    ],
)
def test_bad_configurations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NFNetConfig(*arguments)
    with pytest.raises(ValueError, match="group_width"):
        NFNetConfig((8, 8), (1, 1), group_width=(4,))


@pytest.mark.training
def test_keras_file_keeps_everything(tiny, tmp_path):
    model = tiny(drop_rate=0.2, stochastic_depth_rate=0.1)
    model.compile(keras_nfnet.SGDAGC(0.1), "categorical_crossentropy")
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3), "float32")
    model.train_on_batch(x, np.eye(10, dtype="float32")[:4])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for mine, others in zip(
        loaded.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine, others)


def _sequential(model):
    return keras.Sequential([keras.Input((32, 32, 3)), model])


def _nested(model):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Dense(5)(model(inputs)))


@pytest.mark.parametrize(
    "around",
    [lambda model: model, _sequential, _nested, keras_nfnet.features],
    ids=["alone", "sequential", "nested", "features"],
)
@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_keras_legacy_files_load_with_the_package(
    tiny, around, ending, tmp_path
):
    model = around(tiny())
    path = tmp_path / f"model{ending}"
    keras.saving.save_model(model, path)
    loaded = keras.saving.load_model(path, compile=False)
    assert type(loaded) is type(model)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), "float32")
    for mine, others in zip(
        keras.tree.flatten(loaded.predict(x)),
        keras.tree.flatten(model.predict(x)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, others)


@pytest.mark.training
@pytest.mark.parametrize("around", [lambda model: model, _nested])
def test_keras_legacy_files_that_would_lose_sam_are_refused(
    tiny, around, tmp_path
):
    model = tiny()
    model.compile("sgd", "mse", sam_rho=0.05)
    with pytest.raises(ValueError, match=r"\.keras.*sam_rho=0\.05"):
        keras.saving.save_model(around(model), tmp_path / "model.h5")
    around(model).get_config()


def test_clone_has_the_same_class_and_weights_shapes(tiny):
    model = tiny()
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model)
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_probabilities(tiny, policy):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), "float32")
    reference = tiny()
    keras.config.set_dtype_policy(policy)
    mixed = tiny()
    for mine, others in zip(mixed.weights, reference.weights, strict=True):
        mine.assign(others)
    probabilities = mixed(x)
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    np.testing.assert_allclose(probabilities, reference(x), atol=0.03)


def test_prediction_does_not_depend_on_its_neighbours(tiny):
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3), "float32")
    model = tiny()
    together = np.asarray(model(x, training=False))
    alone = np.concatenate([model(x[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
