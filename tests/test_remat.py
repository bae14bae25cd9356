"""Under `keras.RematScope` a network trains as it does without."""

import contextlib

import keras
import numpy as np
import pytest

import keras_nfnet
from keras_nfnet.models.classifier import NFNetModel

pytestmark = pytest.mark.training

X = np.random.default_rng(0).standard_normal((6, 16, 16, 3)).astype("float32")
Y = np.arange(6) % 3
BLOCK = "stage1_block1"
SCOPES = {
    "full": {},
    "larger_than": {"output_size_threshold": 64},
    "list_of_layers": {
        "layer_names": [BLOCK, f"{BLOCK}_act", "stage1_block0_conv1"]
    },
    "activations": {},
}


def build(mode=None, seed=1):
    keras.utils.set_random_seed(seed)
    config = keras_nfnet.NFNetConfig(
        (16,), (2,), group_width=8, drop_rate=0.2, stochastic_depth_rate=0.9
    )
    scope = contextlib.nullcontext()
    if mode:
        scope = keras.RematScope(mode, **SCOPES[mode])
    with scope:
        model = keras_nfnet.NFNet(config, weights=None, classes=3)
    for variable in model.weights:
        if variable.name == "skip_gain":
            variable.assign(0.7)
    return model


def values(model):
    return [
        np.array(keras.ops.convert_to_numpy(v), "float64")
        for v in model.weights
    ]


def change_of_one_step(model, **options):
    before = values(model)
    options = {"jit_compile": keras.backend.backend() == "jax", **options}
    model.compile(
        keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", **options
    )
    loss = model.train_on_batch(X, Y)
    return loss, [b - a for a, b in zip(before, values(model), strict=True)]


def assert_same_step(mode, **options):
    """Returns the change, whose gradients are those without."""
    loss, expected = change_of_one_step(build(), **options)
    own_loss, changes = change_of_one_step(build(mode), **options)
    np.testing.assert_allclose(own_loss, loss, rtol=1e-6)
    for change, other in zip(changes, expected, strict=True):
        error = np.linalg.norm(change - other)
        # 1e-6: what float32 leaves of a change beside the weight itself.
        assert error <= 1e-5 * np.linalg.norm(other) + 1e-6
    assert all(np.any(c) for c, v in zip(changes, expected, strict=True))


@pytest.fixture
def recomputed(monkeypatch):
    """What was handed to `keras.remat` by this package."""
    calls = []

    def spy(function, remat=keras.remat):
        calls.append(function)
        return remat(function)

    monkeypatch.setattr(keras, "remat", spy)
    return calls


@pytest.mark.parametrize("mode", SCOPES)
def test_gradients_are_those_without(mode, recomputed):
    assert_same_step(mode)
    assert recomputed


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_gradients_are_those_without_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    # Operation by operation: a compiler fuses, and so rounds, the two graphs
    # in different places.
    assert_same_step("full", run_eagerly=True, jit_compile=False)


def test_sam_ascends_as_without():
    assert_same_step("full", sam_rho=0.05)


@pytest.mark.long
@pytest.mark.tensorflow  # On JAX all tests here are compiled by XLA.
def test_gradients_compiled_with_xla_are_those_without():
    assert_same_step("full", jit_compile=True)


def test_stochastic_depth_drops_the_same_samples_again():
    """With other masks in the second pass, dropped samples get gradients."""
    model = build("full")
    block = model.get_layer(BLOCK)
    rate = block.stochastic_depth.rate
    assert 0.4 < rate < 0.6
    assert_same_step("full")


def test_a_saved_model_is_recomputed_where_it_is_loaded(tmp_path, recomputed):
    build("full").save(tmp_path / "model.keras")
    keras.utils.set_random_seed(2)
    plain = keras.saving.load_model(tmp_path / "model.keras")
    change_of_one_step(plain)
    assert not recomputed
    with keras.RematScope("full"):
        keras.utils.set_random_seed(2)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    change_of_one_step(loaded)
    assert recomputed
    for a, b in zip(values(plain), values(loaded), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_feature_maps_made_in_the_scope_predict():
    with keras.RematScope("full"):
        backbone = keras_nfnet.features(build("full"))
    maps = backbone.predict(X, verbose=0)
    assert maps["P1"].shape[0] == 6


def test_ones_own_network_with_stochastic_depth_trains():
    inputs = keras.Input((8, 8, 4))
    with keras.RematScope("full"):
        residual = keras_nfnet.layers.Residual("silu")
        x = residual(
            inputs,
            [keras_nfnet.layers.ScaledWSConv2D(4, 3)],
            stochastic_depth_rate=0.5,
        )
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    model.compile("sgd", "mse")
    assert np.isfinite(
        model.train_on_batch(np.ones((2, 8, 8, 4)), np.ones((2, 256)))
    )


def test_sam_trains_a_layer_of_keras():
    inputs = keras.Input((5,))
    with keras.RematScope("full"):
        outputs = keras.layers.Dense(3)(inputs)
        model = NFNetModel(inputs, outputs)
    model.compile("sgd", "mse", sam_rho=0.05)
    before = values(model)
    model.train_on_batch(np.ones((2, 5)), np.ones((2, 3)))
    assert all(
        np.any(a != b) for a, b in zip(before, values(model), strict=True)
    )
