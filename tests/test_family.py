"""The whole family against DeepMind's and timm's own figures, to 1e-5."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import FIGURES
from fill import images, timm_parameter
from safetensors.numpy import save_file
from test_reference import network_errors, relative

import keras_nfnet
from keras_nfnet import NFNet
from keras_nfnet.variants import TIMM, VARIANTS
from keras_nfnet.weights.names import TIMM as TIMM_LAYOUTS
from keras_nfnet.weights.names import layout_for
from keras_nfnet.weights.structure import parameters, shapes_of

DEEPMIND = json.loads((FIGURES / "family_outputs.json").read_text())
TIMM_FIGURES = json.loads((FIGURES / "timm_family.json").read_text())
# timm's own arithmetic on DeepMind's architecture, which has no name here.
OTHERS = {
    "nfnet_f0": dataclasses.replace(
        VARIANTS["F0"], **TIMM, activation="exact_gelu"
    ),
    "dm_nfnet_f0": dataclasses.replace(
        VARIANTS["F0"], activation="exact_gelu", eps=1e-5, eps_mode="add"
    ),
}


def deepmind_name(figure):
    family = figure["family"].removeprefix("NF_")
    return f"{family}-{figure['variant'].removeprefix('ResNet')}"


@pytest.mark.slow
@pytest.mark.parametrize("figure", DEEPMIND, ids=deepmind_name)
def test_network_and_signal_of_deepmind(figure):
    figure = {**figure, "variant": deepmind_name(figure)}
    errors = network_errors(figure, use_se=figure["kwargs"].get("use_se"))
    assert max(errors.values()) <= 1e-5, errors


def timm_file(model, seed, path):
    """A file as timm writes it, of RGB images, with the figures' values."""
    shapes = shapes_of(parameters(model)[0])
    height, width, _, filters = shapes["stem_conv0/kernel"]
    shapes["stem_conv0/kernel"] = (height, width, 3, filters)
    layout = layout_for(shapes, TIMM_LAYOUTS)
    save_file(
        {
            name: timm_parameter(
                name, layout.shape(key, shapes[key]), seed
            ).astype("float32")
            for key, name in layout.names(shapes).items()
        },
        path,
    )
    return path


def timm_id(figure):
    return f"{figure['model']}-{figure['in_chans']}"


def timm_network(figure, folder):
    """A network with the values of a figure, and its images."""
    channels, name = figure["in_chans"], figure["model"]
    model = NFNet(
        OTHERS.get(name, name),
        weights=None,
        input_shape=(None, None, channels),
        classifier_activation=None,
    )
    assert model.count_params() == figure["params"]
    path = timm_file(model, figure["seed"], folder / "model.safetensors")
    keras_nfnet.weights.load(model, path)
    height, width, seed = figure["height"], figure["width"], figure["seed"]
    x = np.concatenate(
        [images(height, width, seed + 100 * i) for i in range(2)], axis=-1
    )[..., :channels]
    return model, x


@pytest.mark.slow
@pytest.mark.parametrize("figure", TIMM_FIGURES, ids=timm_id)
def test_network_and_feature_maps_of_timm(figure, tmp_path):
    model, x = timm_network(figure, tmp_path)
    logits = np.asarray(model(x))
    assert list(logits.argmax(1)) == figure["argmax"]
    assert (
        relative(logits[:, :8], figure["logits_first8"], np.abs(logits).max())
        <= 1e-5
    )
    assert (
        relative(np.linalg.norm(logits, axis=1), figure["logits_norm"]) <= 1e-5
    )
    maps = keras_nfnet.features(model)(x)
    assert list(maps) == ["P1", "P2", "P3", "P4", "P5"]
    for level, expected in zip(
        maps.values(), figure["feature_maps"], strict=True
    ):
        level = np.asarray(level)
        assert list(level.shape) == expected["shape"]
        assert relative(np.linalg.norm(level), expected["norm"]) <= 1e-5


@pytest.mark.parametrize(
    "name", sorted(json.loads((FIGURES / "timm_family_trees.json").read_text()))
)
def test_names_and_shapes_are_timms(name):
    tree = json.loads((FIGURES / "timm_family_trees.json").read_text())[name]
    from keras_nfnet.models.nfnet import without_values

    model = without_values(lambda: NFNet(name, weights=None))
    shapes = shapes_of(parameters(model)[0])
    layout = layout_for(shapes, TIMM_LAYOUTS)
    names = layout.names(shapes)
    assert {
        names[key]: list(layout.shape(key, shape))
        for key, shape in shapes.items()
    } == dict(tree)
    assert layout.keys(names.values()) == {v: k for k, v in names.items()}
