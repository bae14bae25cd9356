"""SAM's step is Keras's own step but for where the gradient is taken.

With a radius of nearly 0 it must be Keras's step in everything.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_nfnet import SGDAGC, with_agc
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.models.train_step import share_of, uphill

ALMOST_NONE = 1e-7
SIZE = 12


def features(seed=0, size=SIZE, width=5):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, width)).astype("float32")


X, Y = features(), np.arange(SIZE) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]


def dense(x, name, **kwargs):
    return layers.Dense(3, activation="softmax", name=name, **kwargs)(x)


def lists():
    x = keras.Input((5,))
    model = NFNetModel(x, [dense(x, "a"), layers.Dense(2, name="b")(x)])
    return (
        model,
        X,
        [Y, features(1, width=2)],
        {
            "loss": ["sparse_categorical_crossentropy", "mse"],
            "loss_weights": [1.0, 0.3],
            "metrics": [["accuracy"], ["mae"]],
        },
    )


def dictionaries():
    x = keras.Input((5,), name="x")
    z = keras.Input((4,), name="z")
    hidden = layers.Concatenate()([x, z])
    model = NFNetModel(
        {"x": x, "z": z}, {"a": dense(hidden, "a"), "b": dense(hidden, "b")}
    )
    data = {"x": X, "z": features(2, width=4)}
    crossentropy = "sparse_categorical_crossentropy"
    return (
        model,
        data,
        {"a": Y, "b": Y[::-1].copy()},
        {
            "loss": {"a": crossentropy, "b": crossentropy},
            "loss_weights": {"a": 0.5, "b": 2.0},
            "weighted_metrics": {"b": ["accuracy"]},
        },
    )


def nested():
    x = keras.Input((5,))
    outputs = {
        "a": {"c": dense(x, "c"), "d": [dense(x, "d")]},
        "b": dense(x, "e"),
    }
    crossentropy = "categorical_crossentropy"
    return (
        NFNetModel(x, outputs),
        X,
        {
            "a": {"c": ONE_HOT, "d": [ONE_HOT]},
            "b": ONE_HOT,
        },
        {"loss": {"a": {"c": crossentropy, "d": [crossentropy]}, "b": "mse"}},
    )


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


def regularized():
    x = keras.Input((5,))
    hidden = layers.Dense(
        4, kernel_regularizer="l2", activity_regularizer="l1"
    )(x)
    hidden = AddsLoss()(hidden)
    return (
        NFNetModel(x, dense(hidden, "a", bias_regularizer="l2")),
        X,
        Y,
        {"loss": "sparse_categorical_crossentropy"},
    )


def with_state():
    x = keras.Input((5,))
    hidden = layers.BatchNormalization()(layers.Dense(4)(x))
    hidden = layers.GaussianNoise(0.1, seed=1)(
        layers.Dropout(0.5, seed=2)(hidden)
    )
    return (
        NFNetModel(x, dense(hidden, "a")),
        X,
        Y,
        {
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["accuracy"],
        },
    )


def masked():
    words = np.random.default_rng(0).integers(0, 4, (SIZE, 6))
    x = keras.Input((6,), dtype="int32")
    hidden = layers.Embedding(4, 3, mask_zero=True)(x)
    return (
        NFNetModel(x, dense(hidden, "a")),
        words,
        words % 3,
        {
            "loss": "sparse_categorical_crossentropy",
            "weighted_metrics": ["accuracy"],
        },
    )


def partly_frozen():
    x = keras.Input((5,))
    frozen = layers.Dense(4, trainable=False)
    return (
        NFNetModel(x, dense(frozen(x), "a")),
        X,
        ONE_HOT,
        {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1)},
    )


def not_in_the_loss():
    x = keras.Input((5,))
    model = NFNetModel(x, [dense(x, "a"), layers.Dense(2, name="b")(x)])
    return (
        model,
        X,
        [Y, features(1, width=2)],
        {"loss": ["sparse_categorical_crossentropy", None]},
    )


MODELS = [
    lists,
    dictionaries,
    nested,
    regularized,
    with_state,
    masked,
    partly_frozen,
    not_in_the_loss,
]


def trained(make, sam, optimizer=None, weights=None, start=None, **compiled):
    keras.utils.set_random_seed(0)
    model, x, y, options = make()
    if start is not None:
        model.set_weights(start)
    start = model.get_weights()
    optimizer = optimizer() if optimizer else keras.optimizers.SGD(0.1)
    # Not compiled with XLA, which takes longer than the steps.
    model.compile(
        optimizer, jit_compile=False, **{**options, **compiled, **sam}
    )
    # The last batch is smaller.
    history = model.fit(
        x, y, sample_weight=weights, batch_size=5, epochs=2, shuffle=False,
        verbose=0,
    ).history  # fmt: skip
    return start, history, [ops.convert_to_numpy(v) for v in model.variables]


def check_alike(make, **options):
    start, history, plain = trained(make, {}, **options)
    _, sam_history, sam = trained(
        make, {"sam_rho": ALMOST_NONE}, start=start, **options
    )
    assert list(history) == list(sam_history)
    for name in history:
        np.testing.assert_allclose(
            sam_history[name], history[name], rtol=1e-4, atol=1e-5, err_msg=name
        )
    for got, expected in zip(sam, plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MODELS)
def test_sam_with_no_radius_is_keras_own_step(make):
    check_alike(make)


@pytest.mark.parametrize("make", [regularized, with_state])
def test_sam_weighs_examples_as_keras_does(make):
    check_alike(make, weights=np.linspace(0, 2, SIZE).astype("float32"))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGDAGC(0.1, ema_decay=0.9),
        lambda: with_agc(keras.optimizers.AdamW)(0.01),
        lambda: keras.optimizers.LossScaleOptimizer(SGDAGC(0.1), 8.0),
        lambda: keras.optimizers.SGD(0.1, loss_scale_factor=16.0),
    ],
)
def test_sam_goes_with_any_optimizer(optimizer):
    check_alike(lists, optimizer=optimizer)


@pytest.mark.parametrize("size", [0.0, 1e-37, 1e-13, 1.0, 1e37, 3e38])
def test_the_way_uphill_is_as_long_for_gradients_of_any_size(size):
    gradients = [np.float32(size) * np.float32([1, -1]), np.zeros(3, "float32")]
    values = [ops.zeros(2), ops.zeros(3)]
    there = uphill(values, [ops.array(g) for g in gradients], rho=0.05)
    expected = 0.05 * np.sign(gradients[0]) / np.sqrt(2)
    np.testing.assert_allclose(there[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(there[1], 0)


def test_sam_moves_to_the_point_uphill():
    """Against gradients written out, of a least-squares loss."""
    x, y, rho = X, features(1, width=1), 0.5
    for fraction, rows in ((1.0, range(12)), (0.25, (0, 4, 8))):
        inputs = keras.Input((5,))
        output = layers.Dense(1, use_bias=False)(inputs)
        model = NFNetModel(inputs, output)
        w = ops.convert_to_numpy(model.trainable_variables[0])
        model.compile(
            keras.optimizers.SGD(0.1), "mse", sam_rho=rho,
            sam_fraction=fraction, jit_compile=False,
        )  # fmt: skip
        loss = model.train_on_batch(x, y)

        def gradient(w, rows):
            part, target = x[list(rows)], y[list(rows)]
            return 2 * part.T @ (part @ w - target) / len(part)

        first = gradient(w, rows)
        high = w + rho * first / np.linalg.norm(first)
        expected = w - 0.1 * gradient(high, range(12))
        np.testing.assert_allclose(
            ops.convert_to_numpy(model.trainable_variables[0]),
            expected, rtol=1e-5, atol=1e-6,
        )  # fmt: skip
        seen = w if fraction == 1 else high
        assert float(loss) == pytest.approx(
            float(np.mean((x @ seen - y) ** 2)), rel=1e-5
        )


@pytest.mark.parametrize("make", [lists, dictionaries, masked, with_state])
def test_a_fraction_is_taken_of_any_data(make):
    sam = {"sam_rho": 0.05, "sam_fraction": 0.2}
    # Keras takes no weight of an example beside a mask of its steps.
    weights = None if make is masked else np.ones(SIZE, "float32")
    _, history, _ = trained(make, sam, weights=weights)
    assert np.isfinite(history["loss"]).all()


def test_a_fraction_is_spread_evenly_over_each_part_of_the_batch():
    batch = ops.arange(10)
    for fraction, expected in (
        (1.0, range(10)),
        (0.5, (0, 2, 4, 6, 8)),
        (0.2, (0, 5)),
        (0.01, (0,)),
    ):
        got = ops.convert_to_numpy(share_of(batch, fraction))
        np.testing.assert_array_equal(got, expected)
    by_two = ops.convert_to_numpy(share_of(batch, 0.4, parts=2))
    np.testing.assert_array_equal(by_two, (0, 2, 5, 7))
    data = ({"x": ops.ones((4, 2))}, [ops.ones((4,))], None)
    x, y, weight = share_of(data, 0.5)
    assert x["x"].shape == (2, 2) and y[0].shape == (2,) and weight is None


def test_sam_and_accumulation_refuse_each_other():
    def sgd():
        return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)

    inner = keras.optimizers.OptimizerMap(sgd())
    for optimizer in (
        sgd(),
        SGDAGC(0.1, gradient_accumulation_steps=2),
        keras.optimizers.LossScaleOptimizer(sgd()),
        keras.optimizers.MultiOptimizer(inner),
    ):
        with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
            partly_frozen()[0].compile(optimizer, "mse", sam_rho=0.05)
    # A function tells its optimizers only when it is built.
    once = sgd()
    model, x, y, options = partly_frozen()
    model.compile(
        keras.optimizers.MultiOptimizer(lambda v: once), sam_rho=0.05, **options
    )
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan"), None, True, "1"])
def test_a_bad_fraction_is_named(value):
    model, *_ = partly_frozen()
    with pytest.raises(ValueError, match="sam_fraction"):
        model.compile("sgd", "mse", sam_rho=0.05, sam_fraction=value)


def test_a_model_is_saved_with_its_fraction(tmp_path):
    model, *_ = partly_frozen()
    model.compile(SGDAGC(0.1), "mse", sam_rho=0.05, sam_fraction=0.25)
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    config = twin.get_compile_config()
    assert (config["sam_rho"], config["sam_fraction"]) == (0.05, 0.25)


@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_the_legacy_format_that_would_lose_sam_is_refused(ending, tmp_path):
    model, *_ = partly_frozen()
    model.compile(SGDAGC(0.1), "mse", sam_rho=0.05)
    with pytest.raises(ValueError, match=r"\.keras.*filepath="):
        model.save(tmp_path / f"model{ending}")
    assert not list(tmp_path.iterdir())
    model.save_weights(tmp_path / "model.weights.h5")
