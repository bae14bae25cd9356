"""Signal propagation plots, and the batch-normalized twin."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_nfnet import NFNet, NFNetConfig, signal_propagation
from keras_nfnet.diagnostics import batch_normalized_twin, use_statistics_of


def test_signal_follows_the_analysis_at_initialization():
    model = NFNet(
        NFNetConfig((64, 128), (3, 3), group_width=32),
        weights=None,
        include_top=False,
    )
    for variable in model.trainable_weights:
        if variable.name == "skip_gain":
            variable.assign(1.0)
    signal = signal_propagation(model)
    assert len(signal.avg_var) == len(signal.avg_sq_mean) == 7
    assert len(signal.res_avg_var) == 6
    assert all(isinstance(value, float) for value in signal.avg_var)
    np.testing.assert_allclose(
        signal.expected_var, [1, 1.04, 1.08, 1.12, 1.04, 1.08, 1.12]
    )
    # The first stage; later ones begin with an average pool, which takes
    # away variance of white noise that the analysis does not see.
    np.testing.assert_allclose(
        signal.avg_var[:4], signal.expected_var[:4], rtol=0.1
    )
    figure = signal.plot()
    assert len(figure.axes) == 3
    drawn = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, signal.avg_var)


def test_bad_model_and_images_are_named(tiny):
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="model"):
        signal_propagation(other)
    for shape in ((2, 32, 32), (2, 32, 32, 1), (0, 32, 32, 3)):
        with pytest.raises(ValueError, match="x"):
            signal_propagation(tiny(), np.zeros(shape, "float32"))


SHAPE = (16, 16, 3)
CONFIG = NFNetConfig((16, 32), (1, 2), group_width=8)


def pictures(examples=12, seed=0):
    shape = (examples, *SHAPE)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def twin():
    return batch_normalized_twin(CONFIG, SHAPE, classes=10)


def test_twin_has_one_parameter_less_in_each_block(twin):
    def parameters(model):
        return sum(int(np.prod(v.shape)) for v in model.trainable_variables)

    network = NFNet(CONFIG, weights=None, classes=10)
    assert parameters(network) - parameters(twin) == sum(CONFIG.depths)


def test_twins_prediction_depends_on_its_neighbours_in_training_only(twin):
    images, others = pictures(), pictures(seed=1)
    others[0] = images[0]

    def differs(training):
        first, second = (
            np.asarray(twin(batch, training=training))[0]
            for batch in (images, others)
        )
        return np.max(np.abs(first - second))

    assert differs(training=True) > 1e-3
    assert differs(training=False) < 1e-6


def test_statistics_are_those_of_the_images_as_one_batch(twin):
    images = pictures(seed=2)
    twin(pictures(seed=3), training=True)
    in_training = np.asarray(twin(images, training=True))
    twin(pictures(seed=4), training=True)
    use_statistics_of(twin, images)
    np.testing.assert_allclose(
        twin(images, training=False), in_training, rtol=1e-3, atol=1e-5
    )


def test_twin_trains_by_the_nfnets_step_and_saves(twin, tmp_path):
    from keras_nfnet import SGDAGC

    images, labels = pictures(), np.arange(12) % 10
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    twin.compile(SGDAGC(0.1), loss, clipped_by_stage=True)
    history = twin.fit(images, labels, batch_size=12, epochs=1, verbose=0)
    assert {"loss", "learning_rate", "clipped_stem", "clipped_stage1"} <= (
        history.history.keys()
    )
    use_statistics_of(twin, images)
    twin.save(tmp_path / "twin.keras")
    loaded = keras.saving.load_model(tmp_path / "twin.keras")
    np.testing.assert_array_equal(
        loaded(images, training=False), twin(images, training=False)
    )


def test_twin_has_the_activation_of_the_configuration():
    def outputs(activation):
        keras.utils.set_random_seed(1)
        config = dataclasses.replace(CONFIG, activation=activation)
        model = batch_normalized_twin(config, SHAPE, classes=3)
        return np.asarray(model(pictures(), training=True))

    gelu, silu = outputs("gelu"), outputs("silu")
    assert np.max(np.abs(gelu - silu)) > 1e-4
    np.testing.assert_array_equal(gelu, outputs("gelu"))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("config", "F0"),
        ("config", NFNetConfig((16,), (1,), drop_rate=0.1)),
        ("config", NFNetConfig((16,), (1,), stochastic_depth_rate=0.1)),
        ("input_shape", None),
        ("input_shape", (32, 32)),
        ("classes", 0),
    ],
)
def test_what_the_twin_cannot_have_is_named(argument, value):
    arguments = {"config": CONFIG, "input_shape": SHAPE, "classes": 10}
    with pytest.raises(ValueError, match=f"`{argument}`.*Received"):
        batch_normalized_twin(**{**arguments, argument: value})


def test_statistics_of_another_model_are_refused(tiny):
    moving = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.BatchNormalization()]
    )
    for model in (tiny(), moving):
        with pytest.raises(ValueError, match="`model`.*Received"):
            use_statistics_of(model, pictures())
