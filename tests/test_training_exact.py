"""Whole runs of `train` whose every number is known, on either backend."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fill import images
from test_reference import filled, relative

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig, Recipe
from keras_nfnet.weights import save, to_haiku_tree


class Losses(keras.callbacks.Callback):
    """The loss of each step, from the means that `fit` reports."""

    def __init__(self):
        super().__init__()
        self.losses, self.rates = [], []
        self._sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        self.losses.append(total - self._sum)
        self.rates.append(float(logs["learning_rate"]))
        self._sum = total


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y))


@pytest.mark.parametrize(
    "parts", [None, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_recipe_makes_the_authors_steps(parts, figures, tmp_path):
    """Whole batches, and the same batches in two parts each."""
    figure = figures("training_trajectory.json")["trajectory"]
    config = NFNetConfig((32, 64, 96, 96), (1, 2, 1, 1), group_width=16)
    size, batch = figure["res"], figure["batch"]
    start = filled(
        NFNet(
            config,
            weights=None,
            classes=figure["classes"],
            input_shape=(size, size, 3),
        ),
        figure["seed"],
    )
    steps = range(figure["steps"])
    x = [images(size, size, figure["seed"] * 1000 + i, batch) for i in steps]
    y = [(7 * np.arange(batch) + i) % figure["classes"] for i in steps]
    held_out = images(size, size, figure["seed"], batch)
    losses = Losses()
    weights = str(tmp_path / "start.npz")
    save(start, weights)
    recipe = Recipe(
        name="authors",
        model=config,
        data="the authors' images",
        classes=figure["classes"],
        size=size,
        batch_size=batch,
        epochs=1,
        warmup_epochs=figure["warmup_steps"] / figure["steps"],
        weights=weights,
        new_head=False,
        learning_rate=figure["base_lr"],
        weight_decay=figure["weight_decay"],
        clipping=figure["clipping"],
        eps=figure["eps"],
        gradient_accumulation_steps=parts,
        strategy="one",
    )
    result = keras_nfnet.train(
        recipe,
        verbose=0,
        callbacks=[losses],
        data=dataset(np.concatenate(x), np.concatenate(y)),
        test_data=dataset(held_out, y[0]),
    )
    parts = parts or 1
    # The loss of a batch is the mean of its parts'.
    got = np.reshape(losses.losses, (-1, parts)).mean(1)
    np.testing.assert_allclose(got, figure["losses"], rtol=1e-5)
    np.testing.assert_allclose(
        losses.rates[parts - 1 :: parts], figure["lrs"], rtol=1e-5
    )
    tree = to_haiku_tree(result.model)
    for key, expected in figure["final_param_norms"].items():
        module, name = key.split(":")
        norm = np.linalg.norm(tree[module][name])
        assert norm == pytest.approx(expected, rel=1e-5), key
    logits = np.asarray(result.training_model(held_out))[:2]
    assert relative(logits, figure["final_logits_on_image_seed"]) <= 1e-5
    np.testing.assert_allclose(
        keras.ops.softmax(logits), result.model(held_out)[:2], rtol=1e-4
    )


def test_a_badly_wrong_classifier_learns_alike_on_every_backend(tmp_path):
    """Keras's loss of probabilities stops at 16, and its gradient at 0."""
    config = NFNetConfig((16,), (1,), group_width=8)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((32, 32, 32, 3)).astype("float32")
    y = np.arange(32) % 4
    start = NFNet(config, weights=None, classes=4, input_shape=(32, 32, 3))
    start.get_layer("predictions").bias.assign([0.0, 0.0, 0.0, 50.0])
    start.get_layer("predictions").kernel.assign(
        generator.standard_normal((32, 4)) / 20
    )
    for variable in start.trainable_variables:
        if variable.name in ("kernel", "gain"):
            value = generator.standard_normal(variable.shape)
            variable.assign(value / np.sqrt(np.prod(variable.shape[:-1])))
    weights = str(tmp_path / "wrong.safetensors")
    save(start, weights)
    recipe = Recipe(
        name="wrong",
        model=config,
        data="noise",
        classes=4,
        size=32,
        batch_size=8,
        epochs=3,
        warmup_epochs=0,
        weights=weights,
        learning_rate=1.0,
        label_smoothing=0.0,
        strategy="one",
    )
    result = keras_nfnet.train(
        recipe, verbose=0, data=dataset(x, y), test_data=dataset(x, y)
    )
    # What both backends logged, to the last digits of float32.
    assert result.history["loss"] == pytest.approx(
        [37.03537, 33.94371, 31.10851], rel=1e-6
    )
    assert result.history["val_loss"] == pytest.approx(
        [35.306366, 31.80716, 30.55911], rel=1e-6
    )
