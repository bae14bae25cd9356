"""The average of the weights is kept with the variable, not by its path."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_nfnet
from keras_nfnet import SGDAGC, ema_model, with_agc
from keras_nfnet.models.classifier import NFNetModel

CONFIG = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
LOSS = "sparse_categorical_crossentropy"
X = np.random.default_rng(0).standard_normal((8, 5)).astype("float32")
Y = np.arange(8) % 3


def stream(name):
    image = keras.Input((5,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(4, name="d")(image))
    return keras.Model(image, x, name=name)


def network(hidden=None, inputs=1):
    images = [keras.Input((5,)) for _ in range(inputs)]
    streams = [stream(f"s{i}")(image) for i, image in enumerate(images)]
    x = layers.Concatenate()(streams) if inputs > 1 else streams[0]
    if hidden is not None:
        x = hidden(x)
    x = layers.Dense(3, activation="softmax", name="predictions")(x)
    return NFNetModel(images if inputs > 1 else images[0], x)


def fit(model, x=X, epochs=3, decay=0.9, loss=LOSS, **kwargs):
    """Trains, and returns the average written out, by variable."""
    model.compile(
        SGDAGC(0.5, ema_decay=decay), loss, jit_compile=False, **kwargs
    )
    averages = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    for t in range(epochs):
        model.fit(x, Y, batch_size=8, shuffle=False, verbose=0)
        d = min(decay, (1 + t) / (10 + t))
        averages = [
            d * average + (1 - d) * ops.convert_to_numpy(variable)
            for average, variable in zip(
                averages, model.trainable_variables, strict=True
            )
        ]
    return averages


def check(copy, trained, averages):
    """`copy` holds `averages` where `trained` is, raw values elsewhere."""
    model, variables = trained
    wanted = {
        id(variable): average
        for variable, average in zip(variables, averages, strict=True)
    }
    for got, variable in zip(copy.weights, model.weights, strict=True):
        expected = wanted.get(id(variable), ops.convert_to_numpy(variable))
        np.testing.assert_allclose(
            ops.convert_to_numpy(got), expected, rtol=1e-5, atol=1e-6
        )


def test_two_networks_of_the_same_paths_keep_their_own_averages():
    model = network(inputs=2)
    variables = model.trainable_variables
    paths = [v.path.split("/", 1)[-1] for v in variables]
    assert len(set(paths)) < len(paths)
    averages = fit(model, [X, X[::-1].copy()])
    check(ema_model(model), (model, variables), averages)


def test_two_nfnets_in_one_model_keep_their_own_averages():
    images = [keras.Input((32, 32, 3)) for _ in range(2)]
    nets = [
        keras_nfnet.NFNet(
            CONFIG, weights=None, include_top=False, pooling="avg", name=name
        )
        for name in ("colour", "depth")
    ]
    x = layers.Concatenate()([n(i) for n, i in zip(nets, images, strict=True)])
    model = keras.Model(images, layers.Dense(3, name="predictions")(x))
    model.compile(SGDAGC(0.1, ema_decay=0.9), "mse")
    variables = model.trainable_variables
    model.optimizer.build(variables)
    assert len(model.optimizer.averages) == len(variables)
    generator = np.random.default_rng(0)
    model.optimizer.apply(
        [
            ops.array(generator.standard_normal(v.shape).astype("float32"))
            for v in variables
        ]
    )
    averages = [
        ops.convert_to_numpy(average) for _, average in model.optimizer.averages
    ]
    check(ema_model(model), (model, variables), averages)


def test_the_average_stays_when_trainable_changes():
    model = network()
    variables = model.trainable_variables
    averages = fit(model)
    model.trainable = False
    check(ema_model(model), (model, variables), averages)
    model.trainable = True
    model.layers[1].trainable = False
    check(ema_model(model), (model, variables), averages)


def test_a_layer_that_is_unfrozen_is_its_own_average():
    model = network()
    for layer in model.layers[:-1]:
        layer.trainable = False
    variables = model.trainable_variables
    averages = fit(model)
    for layer in model.layers:
        layer.trainable = True
    check(ema_model(model), (model, variables), averages)


class Double(layers.Layer):
    def call(self, x):
        return 2.0 * x


class OwnLoss(keras.losses.Loss):
    def call(self, y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p)


class OwnMetric(keras.metrics.Mean):
    def update_state(self, y, p, sample_weight=None):
        return super().update_state(ops.mean(p, -1), sample_weight)


def own(y, p):
    return keras.losses.sparse_categorical_crossentropy(y, p)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": own},
        {"loss": lambda y, p: own(y, p)},
        {"loss": OwnLoss(), "metrics": [OwnMetric(name="own")]},
        {"metrics": [lambda y, p: ops.mean(p, -1)]},
        {"hidden": Double()},
        {"hidden": layers.Lambda(lambda x: 2 * x)},
        {"hidden": layers.Dense(4, activation=lambda x: ops.relu(x) ** 2)},
    ],
)
def test_what_is_the_users_own_is_copied(options):
    options = dict(options)
    model = network(options.pop("hidden", None))
    variables = model.trainable_variables
    averages = fit(model, epochs=1, **options)
    copy = ema_model(model)
    check(copy, (model, variables), averages)
    of_model = model.evaluate(X, Y, verbose=0, return_dict=True)
    of_copy = copy.evaluate(X, Y, verbose=0, return_dict=True)
    assert of_copy.keys() == of_model.keys()
    # The metrics of the copy are not the model's.
    again = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert again == of_model != of_copy


def test_a_copy_is_brought_up_to_date():
    model = network()
    variables = model.trainable_variables
    fit(model, epochs=1)
    copy = ema_model(model)
    averages = fit(model, epochs=2)
    assert ema_model(model, into=copy) is copy
    check(copy, (model, variables), averages)


def test_optimizers_that_wrap_others_keep_the_average():
    for wrap in (
        keras.optimizers.LossScaleOptimizer,
        lambda o: keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(o)
        ),
    ):
        model = network()
        optimizer = with_agc(keras.optimizers.Adam)(0.1, ema_decay=0.9)
        model.compile(wrap(optimizer), LOSS, jit_compile=False)
        model.fit(X, Y, verbose=0)
        pairs = optimizer.averages
        check(
            ema_model(model),
            (model, [v for v, _ in pairs]),
            [ops.convert_to_numpy(average) for _, average in pairs],
        )


@pytest.mark.parametrize(
    "wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer]
)
def test_keras_swapping_of_averages_says_what_to_do(wrap):
    model = network()
    model.compile(wrap(SGDAGC(0.1, ema_decay=0.9)), LOSS, jit_compile=False)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with pytest.raises(ValueError, match="keras_nfnet.ema_model.*use_ema"):
        model.fit(X, Y, verbose=0, callbacks=[swap])
    with pytest.raises(ValueError, match="use_ema=True, ema_decay=0.9"):
        SGDAGC(0.1, ema_decay=0.9, use_ema=True)
    model.compile(SGDAGC(0.1, use_ema=True), LOSS, jit_compile=False)
    model.fit(X, Y, verbose=0, callbacks=[swap])


def test_an_optimizer_without_average_is_refused():
    model = network()
    for optimizer in (SGDAGC(0.1), "sgd", SGDAGC(0.1, ema_decay=0.9)):
        model.compile(optimizer, LOSS)
        with pytest.raises(ValueError, match="ema_decay"):
            ema_model(model)
