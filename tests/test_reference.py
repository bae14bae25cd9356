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


def relative(value, expected, scale=None):
    """Largest difference over the largest expected value, or `scale`."""
    expected = np.asarray(expected)
    scale = np.abs(expected).max() if scale is None else scale
    return float(np.abs(np.asarray(value) - expected).max() / scale)


def deepmind_network(figure, use_se=None):
    """A network with the values of a figure, and its images."""
    build, options = NFNet, {"config": figure["variant"]}
    if use_se:
        build, options = keras_nfnet.NFResNet50, {"use_se": True}
    model = filled(
        build(**options, weights=None, classifier_activation=None),
        figure["seed"],
    )
    assert model.count_params() == figure["params"]
    return model, images(figure["height"], figure["width"], figure["seed"])


def network_errors(figure, use_se=None):
    """Relative differences of a network from the authors', by what."""
    model, x = deepmind_network(figure, use_se)
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    pooled = np.asarray(features(x, training=False))
    logits = np.asarray(model(x, training=False))
    assert list(logits.argmax(1)) == figure["argmax"]
    errors = {
        "logits": relative(
            logits[:, :8], figure["logits_first8"], np.abs(logits).max()
        ),
        "norm of the logits": relative(
            np.linalg.norm(logits, axis=1), figure["logits_norm"]
        ),
        "norm of the pooled features": relative(
            np.linalg.norm(pooled, axis=1), figure["pool_norm"]
        ),
    }
    signal = signal_propagation(model, x)
    for name in ("avg_sq_mean", "avg_var", "res_avg_var"):
        got, expected = np.asarray(getattr(signal, name)), figure[name]
        assert len(got) == len(expected)
        # Each block by itself.
        errors[name] = float(np.abs(got / expected - 1).max())
    return errors


def trajectory_errors(figure, config):
    """Relative differences of the 20 training steps, by what."""
    model = NFNet(
        config,
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
    losses, rates = [], []
    for step in range(figure["steps"]):
        labels = (7 * np.arange(batch) + step) % figure["classes"]
        logs = model.train_on_batch(
            images(32, 32, figure["seed"] * 1000 + step, batch),
            np.eye(figure["classes"], dtype="float32")[labels],
            return_dict=True,
        )
        model.reset_metrics()
        losses.append(float(logs["loss"]))
        rates.append(float(logs["learning_rate"]))
    tree = to_haiku_tree(model)
    norms = {
        key: float(np.linalg.norm(tree[module][name]))
        for key in figure["final_param_norms"]
        for module, name in [key.split(":")]
    }
    logits = np.asarray(model(images(32, 32, figure["seed"], batch)))[:2]
    return {
        # Each by itself.
        "losses": max(
            abs(got / expected - 1)
            for got, expected in zip(losses, figure["losses"], strict=True)
        ),
        "learning rates": max(
            abs(got - expected) / (expected or 1)
            for got, expected in zip(rates, figure["lrs"], strict=True)
        ),
        "norms of the parameters at the end": max(
            abs(norms[key] / expected - 1)
            for key, expected in figure["final_param_norms"].items()
        ),
        "logits at the end": relative(
            logits, figure["final_logits_on_image_seed"]
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 2])
def test_network_and_signal_of_the_authors(index, figures):
    errors = network_errors(figures("nfnet_outputs.json")[index])
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.training
def test_training_trajectory_of_the_authors(figures, tiny_config):
    figure = figures("training_trajectory.json")["trajectory"]
    errors = trajectory_errors(figure, tiny_config)
    assert max(errors.values()) <= 1e-5, errors
