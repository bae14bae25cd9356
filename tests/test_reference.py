"""The authors' own figures, to 1e-5, on whichever backend runs."""

import keras
import numpy as np
import pytest
from fill import haiku_parameter, images

import keras_nfnet
from keras_nfnet import NFNet, signal_propagation
from keras_nfnet.weights import load_haiku_tree, to_haiku_tree


def filled(model, seed):
    """Gives a network the reference parameters, by name and shape alone."""
    tree = {
        module: {
            name: haiku_parameter(module, name, value.shape, seed)
            for name, value in parameters.items()
        }
        for module, parameters in to_haiku_tree(model).items()
    }
    load_haiku_tree(model, tree)
    return model


def close(value, expected):
    expected = np.asarray(expected)
    error = np.abs(np.asarray(value) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 2])
def test_network_and_signal_of_the_authors(index, figures):
    figure = figures("nfnet_outputs.json")[index]
    model = filled(
        NFNet(figure["variant"], weights=None, classifier_activation=None),
        figure["seed"],
    )
    assert model.count_params() == figure["params"]
    x = images(figure["height"], figure["width"], figure["seed"])
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    pooled = features(x, training=False)
    logits = np.asarray(model(x, training=False))
    error = np.abs(logits[:, :8] - figure["logits_first8"]).max()
    assert error <= 1e-5 * np.abs(logits).max()
    close(np.linalg.norm(logits, axis=1), figure["logits_norm"])
    close(np.linalg.norm(pooled, axis=1), figure["pool_norm"])
    assert list(logits.argmax(1)) == figure["argmax"]
    signal = signal_propagation(model, x)
    for name in ("avg_sq_mean", "avg_var", "res_avg_var"):
        expected = figure[name]
        assert len(getattr(signal, name)) == len(expected)
        np.testing.assert_allclose(getattr(signal, name), expected, rtol=1e-5)


def test_training_trajectory_of_the_authors(figures, tiny_config):
    figure = figures("training_trajectory.json")["trajectory"]
    model = NFNet(
        tiny_config,
        weights=None,
        classes=figure["classes"],
        classifier_activation=None,
        input_shape=(figure["res"], figure["res"], 3),
    )
    filled(model, figure["seed"])
    schedule = keras_nfnet.WarmupCosine(
        figure["max_lr"], figure["steps"], figure["warmup_steps"]
    )
    model.compile(
        keras_nfnet.SGDAGC(
            schedule,
            weight_decay=figure["weight_decay"],
            clipping=figure["clipping"],
            eps=figure["eps"],
        ),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
    )
    batch = figure["batch"]
    for step in range(figure["steps"]):
        labels = (7 * np.arange(batch) + step) % figure["classes"]
        logs = model.train_on_batch(
            images(32, 32, figure["seed"] * 1000 + step, batch),
            np.eye(figure["classes"], dtype="float32")[labels],
            return_dict=True,
        )
        model.reset_metrics()
        assert float(logs["loss"]) == pytest.approx(
            figure["losses"][step], rel=1e-5
        )
        assert float(logs["learning_rate"]) == pytest.approx(
            figure["lrs"][step], rel=1e-5, abs=1e-9
        )
    tree = to_haiku_tree(model)
    for key, norm in figure["final_param_norms"].items():
        module, name = key.split(":")
        assert np.linalg.norm(tree[module][name]) == pytest.approx(
            norm, rel=1e-5
        )
    logits = np.asarray(model(images(32, 32, figure["seed"], batch)))[:2]
    expected = np.asarray(figure["final_logits_on_image_seed"])
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
