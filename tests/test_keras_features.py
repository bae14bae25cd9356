"""What Keras offers around a model, used as its own documentation shows.

With our model class, adaptive gradient clipping and the average of weights.
"""

import dataclasses

import keras
import numpy as np
import pytest

import keras_nfnet
from keras_nfnet import layers
from keras_nfnet.models.classifier import NFNetModel

CONFIG = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
BATCH, SIDE, CLASSES = 8, 16, 4

pytestmark = pytest.mark.training


def network(config=CONFIG):
    return keras_nfnet.NFNet(
        config, weights=None, classes=CLASSES, input_shape=(SIDE, SIDE, 3)
    )


def compiled(clipping=0.01):
    """A model of our class, so small that a step is traced in a second."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.ScaledWSConv2D(16, 3, strides=2, name="stem")(inputs)
    x = layers.ScaledActivation("gelu", name="activation")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    x = keras.layers.Dense(CLASSES, activation="softmax", name="head")(x)
    model = NFNetModel(inputs, x, name="small")
    model.compile(
        keras_nfnet.SGDAGC(0.1, clipping=clipping, ema_decay=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    return model


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((2 * BATCH, SIDE, SIDE, 3), "float32")
    return images, generator.integers(0, CLASSES, 2 * BATCH)


def fit(model, data, **kwargs):
    history = model.fit(
        *data, batch_size=BATCH, shuffle=False, verbose=0, **kwargs
    )
    return history.history


def values(model):
    """Every variable of a model and its optimizer, by path."""
    return {
        variable.path: np.array(keras.ops.convert_to_numpy(variable))
        for variable in model.variables + model.optimizer.variables
    }


def assert_same(found, expected, to=0):
    """Compares to a fraction of the largest value of each variable."""
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        bound = to * np.abs(value).max()
        np.testing.assert_allclose(found[path], value, 0, bound, err_msg=path)


def test_sharded_weight_files(tmp_path):
    model, other = network(), network()
    path = tmp_path / "model.weights.json"
    # In GB: several files of 80 kB at most.
    model.save_weights(path, max_shard_size=80 / 2**20)
    assert len(list(tmp_path.glob("model_*.weights.h5"))) > 1
    other.load_weights(path)
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Our own reader takes single files.
    with pytest.raises(ValueError, match="which `model.load_weights` reads"):
        keras_nfnet.weights.load(other, path)


def test_state_tree(data):
    model = compiled()
    fit(model, data)
    tree = model.get_state_tree(value_format="numpy_array")
    other = compiled()
    other.optimizer.build(other.trainable_variables)
    other.set_state_tree(tree)
    assert_same(values(other), values(model))
    ours, theirs = (
        keras_nfnet.ema_model(m).get_weights() for m in (model, other)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(
    not hasattr(keras.callbacks, "OrbaxCheckpoint"),
    reason="Keras 3.12, the oldest that is allowed, has no such callback",
)
def test_orbax_checkpoint(data, tmp_path):
    from orbax.checkpoint import v1 as ocp

    model = compiled()
    callback = keras.callbacks.OrbaxCheckpoint(
        directory=str(tmp_path), save_on_background=False
    )
    fit(model, data, callbacks=[callback])
    with ocp.training.Checkpointer(str(tmp_path)) as checkpointer:
        tree = checkpointer.load_checkpointables()["pytree"]
    other = compiled()
    other.optimizer.build(other.trainable_variables)
    other.set_state_tree(tree)
    assert_same(values(other), values(model))


class _Interrupted(Exception):
    pass


class _Interrupts(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise _Interrupted


def test_backup_and_restore_goes_on_with_the_same_values(data, tmp_path):
    straight = compiled()
    start = straight.get_weights()
    expected = fit(straight, data, epochs=3)
    model = compiled()
    model.set_weights(start)

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path))

    with pytest.raises(_Interrupted):
        fit(model, data, epochs=3, callbacks=[backup(), _Interrupts()])
    # As a new process: nothing but the files.
    other = compiled()
    found = fit(other, data, epochs=3, callbacks=[backup()])
    assert_same(values(other), values(straight), to=1e-6)
    for name in ("loss", "clipped", "skipped_steps", "learning_rate"):
        np.testing.assert_allclose(found[name], expected[name][2:], 1e-6)


def test_distillation_of_a_light_network(data):
    light = dataclasses.replace(
        keras_nfnet.VARIANTS["nfnet_l0"],
        widths=(32,),
        depths=(1,),
        group_width=8,
    )
    teacher, student = network(), network(light)
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=3.0
        ),
    )
    taught = [np.array(w) for w in teacher.get_weights()]
    before = [np.array(w) for w in student.get_weights()]
    distiller.compile(
        optimizer=keras_nfnet.SGDAGC(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    history = fit(distiller, data)
    assert np.isfinite(history["loss"]).all()
    for weight, old in zip(teacher.get_weights(), taught, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert any(
        not np.array_equal(weight, old)
        for weight, old in zip(student.get_weights(), before, strict=True)
    )
    # The student's classifier is not clipped, all else of it is.
    optimizer = distiller.optimizer
    _, units = optimizer.clipped_counts()
    _, head = optimizer.clipped_counts(lambda p: p == "predictions/kernel")
    assert units and not head


def test_keras_tuner_searches_the_clipping(data, tmp_path):
    import keras_tuner

    tuner = keras_tuner.GridSearch(
        lambda hp: compiled(hp.Choice("clipping", [0.01, 0.08])),
        objective="val_loss",
        directory=tmp_path,
        project_name="clipping",
    )
    images, labels = data
    tuner.search(
        images, labels, epochs=1, validation_data=data, verbose=0, batch_size=8
    )
    assert len(tuner.oracle.trials) == 2
    best = tuner.get_best_hyperparameters()[0].get("clipping")
    (model,) = tuner.get_best_models()
    assert model.optimizer.clipping == best
    assert isinstance(model, NFNetModel)


def test_a_grain_loader_feeds_fit(data):
    import grain

    pairs = list(zip(*data, strict=True))
    loader = grain.MapDataset.source(pairs).to_iter_dataset().batch(BATCH)
    expected, model = compiled(), compiled()
    model.set_weights(expected.get_weights())
    history = fit(expected, data)
    found = model.fit(loader, verbose=0).history
    assert found["clipped"] == history["clipped"]
    # The length of the loader is not known. On TensorFlow Keras then makes
    # one step without data, which the optimizer skips but counts.
    found, expected = values(model), values(expected)
    counted = found.pop("sgd_agc/iteration"), expected.pop("sgd_agc/iteration")
    assert counted[0] - counted[1] in (0, 1)
    assert_same(found, expected, to=1e-6)
