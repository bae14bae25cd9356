"""DeepMind's and timm's names: trees there and back, numbers exact."""

import json
import pathlib

import numpy as np
import pytest
from fill import haiku_parameter, images, timm_parameter

from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.variants import NFNetConfig
from keras_nfnet.weights import load, load_haiku_tree, save, to_haiku_tree
from keras_nfnet.weights.names import HAIKU, layout_for
from keras_nfnet.weights.structure import (
    expected_shapes,
    infer,
    parameters,
    shapes_of,
    variant_of,
)

FIGURES = pathlib.Path(__file__).parent / "figures"
TINY = {"widths": (32, 64, 96, 96), "depths": (1, 2, 1, 1)}
CONFIGS = {
    "tiny": NFNetConfig(**TINY, group_width=16),
    "one 3x3": NFNetConfig(**TINY, group_width=16, use_two_convs=False),
    "one group": NFNetConfig(**TINY),
    "rounded": NFNetConfig((48, 96), (2, 1), group_width=(16, 32)),
    "ratios": NFNetConfig(
        (40, 72, 88),
        (1, 1, 3),
        group_width=8,
        bottleneck_ratio=0.25,
        se_ratio=0.3,
        final_conv_mult=1.5,
    ),
    "eleven blocks": NFNetConfig((16, 16), (1, 11), group_width=8),
}


def build(config=CONFIGS["tiny"], **kwargs):
    kwargs = {"weights": None, "classes": 10, **kwargs}
    return NFNet(config, **kwargs)


def filled(model, seed=0):
    """A tree of the model's shapes with values made from the names."""
    return {
        module: {
            name: haiku_parameter(module, name, value.shape, seed)
            for name, value in entries.items()
        }
        for module, entries in to_haiku_tree(model).items()
    }


def assert_same(tree, other):
    assert list(tree) == list(other)
    for module in tree:
        assert list(tree[module]) == list(other[module])
        for name, value in tree[module].items():
            assert value.dtype == other[module][name].dtype == np.float32
            np.testing.assert_array_equal(value, other[module][name])


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_tree_goes_there_and_back(config):
    model = build(config)
    tree = filled(model)
    load_haiku_tree(model, tree)
    assert_same(to_haiku_tree(model), tree)
    assert ("NFNet/~/nf_block/~/conv1b" in tree) == config.use_two_convs
    assert tree["NFNet/~/nf_block"]["skip_gain"].shape == ()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_shapes_by_arithmetic_are_the_models(config):
    shapes = shapes_of(parameters(build(config))[0])
    assert expected_shapes(config, 10) == shapes
    inferred, classes, channels = infer(shapes)
    assert expected_shapes(inferred, classes, channels) == shapes


@pytest.mark.parametrize("variant", ["F0", "F1"])
def test_names_order_and_shapes_are_the_published_trees(variant):
    published = json.loads((FIGURES / "haiku_trees.json").read_text())[variant]
    tree = to_haiku_tree(NFNet(variant, weights=None))
    assert list(tree) == list(published)
    for module, entries in tree.items():
        shapes = {name: list(value.shape) for name, value in entries.items()}
        assert shapes == published[module]
        assert list(shapes) == list(published[module])


def test_every_variable_has_a_haiku_name(model):
    variables, _ = parameters(model)
    names = layout_for(variables, HAIKU).names(variables)
    assert len(set(names.values())) == len(model.trainable_weights)
    assert variables["stem_conv0/kernel"].path == "stem_conv0/kernel"
    assert names["stem_conv0/kernel"] == "NFNet/~/stem_conv0:w"


def test_variant_is_told_from_the_shapes():
    from keras_nfnet.variants import VARIANTS

    # Those that others resemble most.
    for name in (
        *("F0", "F0+", "nfnet_l0", "eca_nfnet_l0", "RegNet-B0"),
        *("nf_regnet_b0", "ResNet-50", "nf_resnet26", "nf_resnet50"),
        *("nf_seresnet50", "nf_ecaresnet50"),
    ):
        assert variant_of(expected_shapes(VARIANTS[name], 10)) == name
    assert variant_of(expected_shapes(CONFIGS["tiny"], 10)) is None


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floating_types_are_cast(model, dtype):
    import ml_dtypes  # noqa: F401

    tree = filled(model)
    tree["NFNet/~/final_conv"]["w"] = tree["NFNet/~/final_conv"]["w"].astype(
        dtype
    )
    load_haiku_tree(model, tree)
    loaded = to_haiku_tree(model)["NFNet/~/final_conv"]["w"]
    expected = tree["NFNet/~/final_conv"]["w"].astype("float32")
    np.testing.assert_array_equal(loaded, expected)


BLOCK = "NFNet/~/nf_block_3/~/conv1"


def _drop(tree):
    del tree[BLOCK]["w"]


def _drop_module(tree):
    del tree[BLOCK]


def _add(tree):
    tree[BLOCK]["offset"] = np.zeros(3, "float32")


def _add_empty(tree):
    tree["NFNet/~/nf_block_3/~/conv1c"] = {}


def _misshape(tree):
    tree[BLOCK]["gain"] = tree[BLOCK]["gain"][None]


def _nan(tree):
    tree[BLOCK]["bias"][-1] = np.nan


def _infinite(tree):
    tree[BLOCK]["bias"][0] = -np.inf


def _too_large(tree):
    tree[BLOCK]["bias"] = np.full(tree[BLOCK]["bias"].shape, 1e300)


def _whole_numbers(tree):
    tree[BLOCK]["bias"] = np.ones(tree[BLOCK]["bias"].shape, "int32")


def _objects(tree):
    tree[BLOCK]["bias"] = np.array([None] * 48)


def _text(tree):
    tree[BLOCK]["bias"] = "zeros"


def _ragged(tree):
    tree[BLOCK]["bias"] = [[1.0], [1.0, 2.0]]


def _not_a_mapping(tree):
    tree[BLOCK] = np.zeros(3)


@pytest.mark.parametrize(
    "damage",
    [
        _drop,
        _drop_module,
        _add,
        _add_empty,
        _misshape,
        _nan,
        _infinite,
        _too_large,
        _whole_numbers,
        _objects,
        _text,
        _ragged,
        _not_a_mapping,
    ],
)
def test_bad_tree_is_refused_by_name_and_changes_nothing(model, damage):
    before = to_haiku_tree(model)
    tree = filled(model, seed=1)
    damage(tree)
    with pytest.raises(ValueError, match="NFNet/~/nf_block_3/~/conv1"):
        load_haiku_tree(model, tree)
    assert_same(to_haiku_tree(model), before)


def test_headless_model_has_and_needs_no_classifier(model):
    headless = build(include_top=False)
    tree = filled(model)
    load_haiku_tree(headless, tree)
    del tree["NFNet/~/linear"]
    assert_same(to_haiku_tree(headless), tree)
    load_haiku_tree(headless, tree)
    with pytest.raises(ValueError, match="NFNet/~/linear"):
        load_haiku_tree(model, tree)


def test_models_that_are_no_nfnet_are_refused(model):
    import keras

    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    features = build(include_top=False, pooling="avg")
    topped = keras.Sequential([features, keras.layers.Dense(2)])
    for other in (plain, topped, "model"):
        with pytest.raises(ValueError, match="`model` must be"):
            to_haiku_tree(other)
        with pytest.raises(ValueError, match="`model` must be"):
            load_haiku_tree(other, {})


def test_failed_assignment_is_undone(model, monkeypatch):
    from keras_nfnet.weights.check import assign

    class Variable:
        def __init__(self, value, fails=False):
            self.value, self.fails = np.asarray(value), fails

        def __array__(self, dtype=None, copy=None):
            return self.value

        def assign(self, value):
            if self.fails:
                self.fails = False
                raise RuntimeError("no memory")
            self.value = value

    variables = {"a": Variable(1.0), "b": Variable(2.0, fails=True)}
    with pytest.raises(RuntimeError):
        assign(variables, {"a": np.asarray(3.0), "b": np.asarray(4.0)})
    assert [float(v.value) for v in variables.values()] == [1.0, 2.0]


def test_timm_file_computes_deepminds_function(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    shapes = json.loads((FIGURES / "timm_trees.json").read_text())
    shapes = shapes["dm_nfnet_f0"]
    reference = json.loads((FIGURES / "timm_outputs.json").read_text())
    reference = next(r for r in reference if r["model"] == "dm_nfnet_f0")
    seed = reference["seed"]
    path = tmp_path / "renamed.bin"
    tensors = {
        key: timm_parameter(key, tuple(shape), seed)
        for key, shape in shapes.items()
    }
    save_file(tensors, path)
    model = NFNet("F0", weights=path, classifier_activation=None)
    size = (reference["height"], reference["width"])
    logits = model.predict_on_batch(images(*size, seed))
    expected = reference["deepmind_architecture"]
    error = np.abs(logits[:, :8] - expected["logits_first8"]).max()
    assert error / np.abs(logits).max() < 1e-5
    norms = np.linalg.norm(logits, axis=1)
    np.testing.assert_allclose(norms, expected["logits_norm"], rtol=1e-5)
    assert logits.argmax(-1).tolist() == expected["argmax"]

    back = tmp_path / "back.safetensors"
    save(model, back, layout="timm")
    with safe_open(back, framework="np") as file:
        assert sorted(file.keys()) == sorted(tensors)
        for key in tensors:
            np.testing.assert_array_equal(file.get_tensor(key), tensors[key])
    load(model, back)
