"""The training step: AGC, the guard, SAM, the average, and what is logged."""

import gc
import weakref

import keras
import numpy as np
import pytest
from fill import images
from keras import ops
from test_reference import filled

import keras_nfnet
from keras_nfnet import SGDAGC, WarmupCosine, adaptive_clip, with_agc
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.training.ema import ema_model


@pytest.fixture
def tiny():
    """A function that builds two blocks with random skip gains."""
    config = keras_nfnet.NFNetConfig((16, 32), (1, 1), group_width=8)

    def build(**kwargs):
        model = keras_nfnet.NFNet(
            config, weights=None, classes=10, input_shape=(32, 32, 3), **kwargs
        )
        generator = np.random.default_rng(0)
        for variable in model.trainable_weights:
            if variable.name == "skip_gain":
                variable.assign(generator.uniform(0.3, 0.7))
        return model

    return build


LOSS = {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1)}


def batch(step=0, size=8):
    labels = (7 * np.arange(size) + step) % 10
    return images(32, 32, step, size), np.eye(10, dtype="float32")[labels]


def arrays(model):
    return [np.asarray(v) for v in model.trainable_variables]


@pytest.mark.slow
def test_counts_of_clipped_units_are_the_authors(figures, tiny_config):
    figure = figures("training_trajectory.json")["trajectory"]
    model = keras_nfnet.NFNet(
        tiny_config,
        weights=None,
        classes=10,
        classifier_activation=None,
        input_shape=(32, 32, 3),
    )
    filled(model, figure["seed"])
    model.compile(
        SGDAGC(
            WarmupCosine(figure["max_lr"], figure["steps"], 4),
            weight_decay=figure["weight_decay"],
        ),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
        clipped_by_stage=True,
    )
    for step in range(figure["steps"]):
        labels = (7 * np.arange(16) + step) % 10
        logs = model.train_on_batch(
            images(32, 32, step, 16),
            np.eye(10, dtype="float32")[labels],
            return_dict=True,
        )
        clipped, units = figure["units_clipped_of"][step]
        assert float(logs["clipped"]) * units == pytest.approx(clipped, abs=0.1)
    by_stage = [
        float(logs[f"clipped_{stage}"])
        for stage in ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    ]
    assert min(by_stage) < float(logs["clipped"]) < max(by_stage)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion", "Muon", "RMSprop"])
def test_with_agc_is_the_optimizer_on_clipped_gradients(name):
    base = getattr(keras.optimizers, name)
    generator = np.random.default_rng(0)
    start = generator.standard_normal((6, 4)).astype("float32")
    ours = keras.Variable(start, name="kernel")
    theirs = keras.Variable(start, name="kernel")
    options = {"weight_decay": 0.01}
    optimizer = with_agc(base)(0.1, clipping=0.02, **options)
    plain = base(0.1, **options)
    for _ in range(3):
        gradient = generator.standard_normal((6, 4)).astype("float32")
        clipped = adaptive_clip(gradient, theirs, 0.02)
        try:
            plain.apply([clipped], [theirs])
        except AttributeError as error:
            if name != "Muon" or not keras.__version__.startswith("3.12."):
                raise
            # That Muon reads `path` of a variable of TensorFlow's.
            pytest.skip(f"Keras's own {name} fails: {error}")
        optimizer.apply([ops.array(gradient)], [ours])
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)
    assert with_agc(base) is with_agc(base)
    assert type(optimizer).__name__ == f"{name}WithAGC"


def test_with_agc_refuses_what_is_no_optimizer_class():
    for wrong in (
        keras.optimizers.SGD(0.1),
        "adam",
        SGDAGC,
        keras.optimizers.LossScaleOptimizer,
    ):
        with pytest.raises(ValueError, match="optimizer_class"):
            with_agc(wrong)
    with pytest.raises(ValueError, match="global_clipnorm"):
        with_agc(keras.optimizers.SGD)(0.1, global_clipnorm=1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGDAGC(0.1, ema_decay=0.9),
        lambda: with_agc(keras.optimizers.AdamW)(0.1, ema_decay=0.9),
    ],
)
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, value):
    optimizer = optimizer()
    variables = [
        keras.Variable(np.ones((3, 2), "float32"), name="kernel"),
        keras.Variable(np.ones(2, "float32"), name="bias"),
    ]
    good = [np.full((3, 2), 0.5, "float32"), np.full(2, 0.5, "float32")]
    optimizer.apply([ops.array(g) for g in good], variables)
    state = [np.asarray(v) for v in [*variables, *optimizer.variables]]
    bad = [good[0].copy(), good[1]]
    bad[0][1, 1] = value
    optimizer.apply([ops.array(g) for g in bad], variables)
    names = [v.path for v in [*variables, *optimizer.variables]]
    after = [np.asarray(v) for v in [*variables, *optimizer.variables]]
    for name, old, new in zip(names, state, after, strict=True):
        if "iteration" in name:
            assert new == old + 1
        elif "clipped_units" not in name:
            np.testing.assert_array_equal(old, new, err_msg=name)
    assert np.isnan(float(optimizer.clipped_fraction()))
    optimizer.apply([ops.array(g) for g in good], variables)
    assert float(optimizer.clipped_fraction()) == 1.0
    assert (np.asarray(variables[0]) != state[0]).all()


def test_an_enormous_gradient_is_clipped_to_the_bound():
    parameter = np.ones((4, 2), "float32")
    gradient = np.full((4, 2), 1e30, "float32")
    gradient[:, 1] = 1e-4
    clipped = np.asarray(adaptive_clip(gradient, parameter))
    np.testing.assert_allclose(clipped[:, 0], 0.01, rtol=1e-5)
    np.testing.assert_array_equal(clipped[:, 1], gradient[:, 1])


def test_sam_is_the_gradient_uphill(tiny):
    """Against two plain gradients, taken with assigned weights."""
    model = tiny()
    twin = tiny()
    twin.set_weights(model.get_weights())
    probe = keras.optimizers.SGD(1.0)  # w - gradient: shows the gradient
    twin.compile(probe, **LOSS)

    def gradient(weights):
        for variable, value in zip(
            twin.trainable_variables, weights, strict=True
        ):
            variable.assign(value)
        twin.train_on_batch(*batch())
        return [
            w - after for w, after in zip(weights, arrays(twin), strict=True)
        ]

    start = arrays(model)
    first = gradient(start)
    norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in first))
    uphill = [w + 0.05 * g / norm for w, g in zip(start, first, strict=True)]
    second = gradient([w.astype("float32") for w in uphill])
    model.compile(SGDAGC(0.1, weight_decay=0), sam_rho=0.05, **LOSS)
    logs = model.train_on_batch(*batch(), return_dict=True)
    plain = tiny()
    plain.set_weights(start_weights(plain, start))
    plain.compile(SGDAGC(0.1, weight_decay=0), **LOSS)
    expected_logs = plain.train_on_batch(*batch(), return_dict=True)
    assert float(logs["loss"]) == pytest.approx(
        float(expected_logs["loss"]), rel=1e-5
    )
    different = 0
    for variable, w, g, plain_w in zip(
        model.trainable_variables, start, second, arrays(plain), strict=True
    ):
        if not variable.path == "predictions/kernel":
            g = np.asarray(adaptive_clip(g, w))
        # One step: m = g, w -= 0.1 (g + 0.9 g). The gradients by difference
        # carry float32's rounding of the weights.
        expected = w - 0.1 * 1.9 * g
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=3e-6)
        different += not np.allclose(plain_w, expected, rtol=1e-4, atol=3e-6)
    assert different > 10


def start_weights(model, trainable):
    values = iter(trainable)
    return [
        next(values)
        if any(v is t for t in model.trainable_variables)
        else np.asarray(v)
        for v in model.weights
    ]


@pytest.mark.slow
def test_sam_uses_the_same_dropout_in_both_passes_and_moves_on(tiny):
    model = tiny(drop_rate=0.5, stochastic_depth_rate=0.3)
    states = [v for v in model.variables if "seed" in v.path]
    assert states
    before = [np.asarray(v) for v in states]
    model.compile(SGDAGC(0.1), sam_rho=0.05, **LOSS)
    model.train_on_batch(*batch())
    after = [np.asarray(v) for v in states]
    plain = tiny(drop_rate=0.5, stochastic_depth_rate=0.3)
    for v, value in zip(
        [v for v in plain.variables if "seed" in v.path], before, strict=True
    ):
        v.assign(value)
    plain.compile(SGDAGC(0.1), **LOSS)
    plain.train_on_batch(*batch())
    for a, v in zip(
        after, [v for v in plain.variables if "seed" in v.path], strict=True
    ):
        np.testing.assert_array_equal(a, np.asarray(v))
    assert any((a != b).any() for a, b in zip(after, before, strict=True))


@pytest.mark.slow
def test_the_average_follows_with_the_papers_warm_up(tiny):
    model = tiny()
    model.compile(SGDAGC(0.5, ema_decay=0.7), **LOSS)
    average = arrays(model)
    for t in range(8):
        model.train_on_batch(*batch(t))
        decay = min(0.7, (1 + t) / (10 + t))
        average = [
            decay * a + (1 - decay) * w
            for a, w in zip(average, arrays(model), strict=True)
        ]
    raw = arrays(model)
    copy = ema_model(model)
    for a, v in zip(average, copy.trainable_variables, strict=True):
        np.testing.assert_allclose(v, a, rtol=1e-5, atol=1e-7)
    for a, b in zip(raw, arrays(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert copy.evaluate(*batch(), verbose=0) > 0
    with pytest.raises(ValueError, match="ema_decay"):
        plain = tiny()
        plain.compile(SGDAGC(0.5), **LOSS)
        ema_model(plain)
    with pytest.raises(ValueError, match="ema_decay"):
        SGDAGC(0.1, ema_decay=1.0)


@pytest.mark.slow
def test_accumulated_gradients_are_clipped_once(tiny):
    model, whole = tiny(), tiny()
    whole.set_weights(model.get_weights())
    model.compile(SGDAGC(0.1, gradient_accumulation_steps=2), **LOSS)
    whole.compile(SGDAGC(0.1), **LOSS)
    x, y = batch(size=16)
    for half in (slice(0, 8), slice(8, 16)):
        logs = model.train_on_batch(x[half], y[half], return_dict=True)
    expected = whole.train_on_batch(x, y, return_dict=True)
    assert float(logs["clipped"]) == float(expected["clipped"]) > 0
    for a, b in zip(arrays(model), arrays(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(tiny, policy):
    keras.config.set_dtype_policy(policy)
    model = tiny()
    model.compile(SGDAGC(0.2, ema_decay=0.9), **LOSS)
    losses = [
        float(model.train_on_batch(*batch(), return_dict=True)["loss"])
        for _ in range(8)
    ]
    assert losses[-1] < losses[0]
    assert all(v.dtype == "float32" for v in model.trainable_variables)


@pytest.mark.slow
def test_a_compiled_model_is_saved_and_trains_on_alike(tiny, tmp_path):
    model = tiny()
    optimizer = with_agc(keras.optimizers.AdamW)(
        WarmupCosine(0.01, 10, 1), clipping=0.05, ema_decay=0.9
    )
    model.compile(optimizer, sam_rho=0.01, clipped_by_stage=True, **LOSS)
    model.train_on_batch(*batch())
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert type(twin.optimizer) is type(optimizer)
    assert twin.optimizer.get_config() == optimizer.get_config()
    assert twin._sam_rho == 0.01
    logs = model.train_on_batch(*batch(1), return_dict=True)
    again = twin.train_on_batch(*batch(1), return_dict=True)
    stages = {name for name in logs if name.startswith("clipped_")}
    assert set(again) == set(logs)
    # Of the tiny network's two stages, not of the four that a variant has.
    assert stages == {
        f"clipped_{part}" for part in ("stem", "stage1", "stage2", "head")
    }
    for a, b in zip(arrays(model), arrays(twin), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sam_rho", [None, 0.05])
@pytest.mark.parametrize(
    ("of_dataset", "activation"), [(False, "silu"), (True, "gelu")]
)
def test_a_step_is_traced_once_and_its_graph_is_freed(
    sam_rho, of_dataset, activation, monkeypatch
):
    """In a loop over settings each model kept 100 MB, and began twice."""
    import tensorflow as tf

    graphs = []

    def traced(self, data, step=NFNetModel.train_step):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return step(self, data)

    monkeypatch.setattr(NFNetModel, "train_step", traced)
    config = keras_nfnet.NFNetConfig(
        (16, 32), (1, 1), group_width=8, activation=activation
    )
    model = keras_nfnet.NFNet(
        config, weights=None, classes=10, input_shape=(32, 32, 3)
    )
    optimizer = SGDAGC(0.1, ema_decay=0.9)
    model.compile(optimizer, metrics=["accuracy"], sam_rho=sam_rho, **LOSS)
    if of_dataset:
        data = tf.data.Dataset.from_tensors(batch()).repeat(3)
        model.fit(data, epochs=2, verbose=0, validation_data=data)
    else:
        model.train_on_batch(*batch())
        model.train_on_batch(*batch(1))
    assert len(graphs) == 1 and graphs[0]() is not None
    del model, optimizer
    keras.utils.clear_session()
    gc.collect()
    assert graphs[0]() is None


def test_bad_sam_rho_is_named(tiny):
    for value in (0, -1, "much"):
        with pytest.raises(ValueError, match="sam_rho"):
            tiny().compile(SGDAGC(0.1), sam_rho=value, **LOSS)


@pytest.mark.tensorflow
def test_a_large_networks_step_is_not_optimized_and_the_same(monkeypatch, tiny):
    """TensorFlow's graph optimizer is off in it, and on outside of it."""
    import tensorflow as tf

    from keras_nfnet.models import tensorflow_step

    options, found = tf.config.optimizer.get_experimental_options, []
    before = options()

    def loss(labels, outputs):
        found.append(options().get("disable_meta_optimizer", False))
        return keras.losses.categorical_crossentropy(labels, outputs)

    results = []
    for least in (tensorflow_step._MANY_VARIABLES, 0):
        monkeypatch.setattr(tensorflow_step, "_MANY_VARIABLES", least)
        keras.utils.set_random_seed(0)
        model = tiny()
        model.compile(SGDAGC(0.1), loss)
        for step in range(2):
            model.train_on_batch(*batch(step))
        model.fit(*batch(2), verbose=0)
        results.append(arrays(model))
    assert set(found[: len(found) // 2]) == {False}
    assert True in found[len(found) // 2 :]
    assert options() == before
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
