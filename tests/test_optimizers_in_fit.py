"""Every Keras optimizer trains a model of the package, and says its rate."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_nfnet import SGDAGC, WarmupCosine, with_agc
from keras_nfnet.models.classifier import NFNetModel

LOSS = "categorical_crossentropy"
X = np.random.default_rng(0).standard_normal((8, 5)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(8) % 3]
OPTIMIZERS = [
    value
    for value in vars(keras.optimizers).values()
    if inspect.isclass(value)
    and issubclass(value, keras.optimizers.Optimizer)
    and value is not keras.optimizers.Optimizer
    and value.__name__ not in ("LossScaleOptimizer", "MultiOptimizer")
]


def network(model_class=NFNetModel):
    x = keras.Input((5,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(x)
    output = layers.Dense(3, activation="softmax", name="predictions")(hidden)
    return model_class(x, output)


def compiled(optimizer, model_class=NFNetModel, **options):
    model = network(model_class)
    # Compiling with XLA takes longer than the steps.
    model.compile(optimizer, LOSS, jit_compile=False, **options)
    return model


def values(model):
    return [ops.convert_to_numpy(v) for v in model.trainable_variables]


@pytest.mark.slow
@pytest.mark.parametrize("base", OPTIMIZERS, ids=lambda c: c.__name__)
def test_every_keras_optimizer_trains_plain_and_with_agc(base):
    # A fault of Keras: that Muon reads `path` of a variable of TensorFlow's.
    if base.__name__ == "Muon" and keras.__version__.startswith("3.12."):
        pytest.skip("Keras 3.12's own Muon fails on the TensorFlow backend")
    for optimizer in (
        base(0.01),
        with_agc(base)(0.01, ema_decay=0.9, gradient_accumulation_steps=2),
    ):
        model = compiled(optimizer, metrics=["accuracy"])
        before = values(model)
        history = model.fit(X, Y, batch_size=4, verbose=0).history
        assert any(
            (a != b).any() for a, b in zip(before, values(model), strict=True)
        )
        assert np.isfinite(history["loss"]).all()
        assert history["learning_rate"] == pytest.approx([0.01])
        assert ("clipped" in history) == hasattr(optimizer, "clipping")


def several(one, other):
    chosen = keras.optimizers.OptimizerMap(one)
    chosen["predictions/.*"] = other
    return keras.optimizers.MultiOptimizer(chosen)


def test_several_optimizers_at_once_train_and_say_their_rates():
    one = SGDAGC(0.1, weight_decay=0, momentum=0)
    model = compiled(several(one, keras.optimizers.SGD(0.3, name="head")))
    plain = compiled(
        several(
            SGDAGC(0.1, weight_decay=0, momentum=0),
            keras.optimizers.SGD(0.3),
        ),
        keras.Model,
    )
    plain.set_weights(model.get_weights())
    history = model.fit(X, Y, shuffle=False, verbose=0).history
    plain.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(values(model), values(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history["learning_rate_head"] == pytest.approx([0.3])
    assert history["learning_rate_sgd_agc"] == pytest.approx([0.1])
    # hidden: 4 columns and a bias; the head is another's.
    clipped = 5 * history["clipped"][0]
    assert clipped == pytest.approx(round(clipped)) and 0 < clipped <= 5


def test_the_head_stays_the_head_among_several_optimizers():
    one, other = SGDAGC(0.1), with_agc(keras.optimizers.Adam)(0.1)
    model = compiled(several(one, other), clipped_by_stage=True)
    history = model.fit(X, Y, verbose=0).history
    assert one._is_clipped == [True, True]
    assert other._is_clipped == [False, True]
    assert "learning_rate_sgd_agc" in history and "clipped_head" in history


def test_optimizers_of_the_same_name_keep_their_own_rates():
    pair = [SGDAGC(rate) for rate in (0.1, 0.2)]
    history = compiled(several(*pair)).fit(X, Y, verbose=0).history
    rates = [v[0] for k, v in history.items() if k.startswith("learning_rate")]
    np.testing.assert_allclose(sorted(rates), [0.1, 0.2], rtol=1e-6)


def test_what_composes_optimizers_is_not_wrapped_itself():
    for wrong in (
        keras.optimizers.MultiOptimizer,
        keras.optimizers.LossScaleOptimizer,
        with_agc(keras.optimizers.Adam),
        keras.optimizers.Adam(),
    ):
        with pytest.raises(ValueError, match="optimizer_class="):
            with_agc(wrong)


# Gradients of ones, so that a weight moves by the rate alone.
def moved(optimizer, batches):
    variable = keras.Variable(np.zeros((1, 1), "float32"), name="kernel")
    steps, rates, before = [], [], 0.0
    for _ in range(batches):
        optimizer.apply([ops.ones((1, 1))], [variable])
        now = float(ops.convert_to_numpy(variable).item())
        steps.append(before - now)
        before = now
        rates.append(float(optimizer.learning_rate_used))
    return steps, rates


COSINE = [0.5 * (1 + np.cos(np.pi * step / 6)) for step in range(6)]


@pytest.mark.parametrize("parts", [None, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda **k: SGDAGC(
            WarmupCosine(1.0, 6, 0), momentum=0, weight_decay=0, **k
        ),
        lambda **k: with_agc(keras.optimizers.SGD)(
            WarmupCosine(1.0, 6, 0), **k
        ),
        lambda **k: with_agc(keras.optimizers.SGD)(
            keras.optimizers.schedules.CosineDecay(1.0, 6), **k
        ),
    ],
    ids=["SGDAGC", "with_agc", "CosineDecay"],
)
def test_a_schedule_counts_optimizer_steps(make, parts):
    every = parts or 1
    optimizer = make(clipping=None, gradient_accumulation_steps=parts)
    steps, rates = moved(optimizer, 6 * every)
    np.testing.assert_allclose(steps[every - 1 :: every], COSINE, atol=1e-5)
    np.testing.assert_allclose(rates[every - 1 :: every], COSINE, atol=1e-6)
    assert sum(abs(step) > 0 for step in steps) == 6


@pytest.mark.parametrize(
    "base", [SGDAGC, keras.optimizers.SGD, with_agc(keras.optimizers.SGD)]
)
@pytest.mark.parametrize("parts", [None, 2])
def test_the_logged_rate_is_the_one_that_was_used(base, parts):
    schedule = keras.optimizers.schedules.PolynomialDecay(1e-2, 8, 1e-3)
    optimizer = base(schedule, gradient_accumulation_steps=parts)
    model = compiled(optimizer)
    logged, steps = [], []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = values(self.model)

        def on_train_batch_end(self, batch, logs=None):
            logged.append(float(logs["learning_rate"]))
            after = values(self.model)
            steps.append(
                any(
                    (a != b).any()
                    for a, b in zip(self.before, after, strict=True)
                )
            )

    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0, callbacks=[Look()])
    every = parts or 1
    # SGD of Keras itself hands its schedule the number of batches.
    counts = [
        (index // every * every + every - 1)
        if base is keras.optimizers.SGD
        else index // every
        for index in range(4)
    ]
    for index, (rate, stepped) in enumerate(zip(logged, steps, strict=True)):
        assert stepped == (index % every == every - 1)
        if stepped:
            expected = float(schedule(counts[index]))
            assert rate == pytest.approx(expected, rel=1e-5)


def test_a_callback_that_sets_the_rate_is_logged_and_used():
    model = compiled(SGDAGC(0.1))
    set_rate = keras.callbacks.LearningRateScheduler(
        lambda epoch: 0.1 / 2**epoch
    )
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[set_rate]).history
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.025])


@pytest.mark.parametrize("sam_rho", [None, 0.05])
def test_train_on_batch_returns_what_keras_does(sam_rho):
    options = {"metrics": ["accuracy"], "weighted_metrics": ["mse"]}
    model = compiled(SGDAGC(0.1), sam_rho=sam_rho, **options)
    plain = compiled(SGDAGC(0.1), keras.Model, **options)
    plain.set_weights(model.get_weights())
    expected = plain.train_on_batch(X, Y)
    got = model.train_on_batch(X, Y)
    assert len(got) == 3
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    names = model.train_on_batch(X, Y, return_dict=True)
    assert set(names) == {
        *("loss", "accuracy", "mse", "learning_rate", "clipped"),
        "skipped_steps",
    }
    history = model.fit(X, Y, verbose=0).history
    assert set(history) == set(names)
    # One loss alone is a number, and not a list of one.
    assert np.ndim(compiled(SGDAGC(0.1)).train_on_batch(X, Y)) == 0


def test_a_metric_of_the_users_keeps_its_name():
    metric = keras.metrics.MeanSquaredError(name="learning_rate")
    model = compiled(SGDAGC(0.1), metrics=[metric])
    got = model.train_on_batch(X, Y)
    logs = model.test_on_batch(X, Y, return_dict=True)
    assert len(got) == 2 and "clipped" not in logs
    assert float(got[1]) != pytest.approx(0.1)
