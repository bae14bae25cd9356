"""Tests of `keras_nfnet.fold`."""

import keras
import numpy as np
import pytest
from fill import images
from test_reference import filled

import keras_nfnet
from keras_nfnet.export.folded_layers import PlainConvolution
from keras_nfnet.layers import (
    ScaledActivation,
    ScaledWSConv2D,
    ScaledWSDepthwiseConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
)
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.variants import TIMM, Stem

LIGHT_STEM = Stem((1.0,), (2,))
POOLED_STEM = Stem((16,), (2,), kernel_size=7, max_pool=True)
WIDTHS, DEPTHS = (32, 64), (1, 2)
SCALED = (ScaledActivation, ScaledWSConv2D, SkipInit, NFBlock)


def network(config=None, **options):
    config = {"group_width": 16, **(config or {})}
    options = {"weights": None, "classes": 10, **options}
    config = keras_nfnet.NFNetConfig(WIDTHS, DEPTHS, **config)
    return randomized(keras_nfnet.NFNet(config, **options))


def randomized(model, seed=0):
    """Gives every variable values that hide nothing."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        noise = generator.normal(size=variable.shape)
        name = variable.name
        if name in ("gain", "skip_gain"):
            noise = {"gain": 1, "skip_gain": 0.5}[name] + 0.1 * noise
        elif name == "bias":
            noise = 0.1 * noise
        else:
            fan_in = max(1, np.prod(variable.shape[:-1]))
            noise = (noise + 0.25) / np.sqrt(fan_in)
        variable.assign(noise)
    return model


def check_same(model, x, bound=1e-5):
    folded = keras_nfnet.fold(model)
    expected = np.asarray(model(x, training=False))
    error = np.abs(np.asarray(folded(x)) - expected).max()
    assert error <= bound * np.abs(expected).max()
    return folded


def layers_of(model):
    return list(model._flatten_layers(include_self=False))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_two_convs": False},
        {"group_width": (12, 32), "se_ratio": 0.25},
        {"final_conv_mult": 1.0, "alpha": 1.0, "bottleneck_ratio": 1.0},
        {"drop_rate": 0.3, "stochastic_depth_rate": 0.25},
        {"attention": "eca", "attention_position": "middle", **TIMM},
        {"attention": "eca", "stem": LIGHT_STEM, **TIMM},
        {"attention_position": "middle", "group_width": 2},
        {"attention": None, "stem": POOLED_STEM, "shortcut": "strided"},
        {"attention": "eca", "stem": POOLED_STEM, "activation": "relu"},
        {"stem": POOLED_STEM, "final_conv_mult": None, **TIMM},
    ],
    ids=str,
)
def test_every_configuration_keeps_its_outputs(config):
    model = network(config, classifier_activation=None)
    folded = check_same(model, images(40, 33, 0))
    layers = layers_of(folded)
    assert not [layer for layer in layers if isinstance(layer, SCALED)]
    gates = [x for x in layers if isinstance(x, SqueezeExcite)]
    assert all(gate.scale == 1 for gate in gates)
    assert not [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1
    ]


@pytest.mark.parametrize("activation", [*keras_nfnet.layers.ACTIVATIONS])
def test_every_activation_keeps_its_outputs(activation):
    model = network({"activation": activation}, include_top=False)
    folded = check_same(model, images(16, 16, 0))
    rescaled = [
        layer
        for layer in layers_of(folded)
        if isinstance(layer, keras.layers.Rescaling)
    ]
    # Feature maps keep the last gain, unless it can go back through.
    passes = activation in ("relu", "leaky_relu", "identity")
    assert len(rescaled) == (0 if passes else 1)


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_pooled_features_keep_their_values(pooling, activation):
    model = network(
        {"activation": activation}, include_top=False, pooling=pooling
    )
    check_same(model, images(16, 16, 0))


@pytest.mark.parametrize("gain", [0.0, 1e-6, -0.7, 30.0])
def test_every_skip_gain_keeps_the_outputs(gain):
    model = network(classifier_activation=None)
    block = model.get_layer("stage2_block1")
    block.skip_init.skip_gain.assign(gain)
    folded = check_same(model, images(16, 16, 0))
    plain = folded.get_layer("stage2_block1")
    convolutions = [
        layer for layer in plain.layers if isinstance(layer, PlainConvolution)
    ]
    assert len(convolutions) == (0 if gain == 0 else 4)
    # A gain too small to divide by stays a factor.
    kinds = [type(layer) for layer in plain.layers]
    assert (keras.layers.Rescaling in kinds) == (gain == 1e-6)


def test_a_head_of_the_users_own_and_a_model_in_a_model_are_folded():
    body = network(include_top=False, pooling="avg")
    inputs = keras.Input((16, 16, 3))
    scaled = ScaledActivation("relu")(body(inputs))
    hidden = keras.layers.LayerNormalization()(
        keras.layers.Dropout(0.5)(scaled)
    )
    outputs = keras.layers.Dense(5, "sigmoid")(
        keras.layers.Concatenate()([hidden, keras.ops.tanh(scaled)])
    )
    x = images(16, 16, 0)
    for model in (
        keras.Model(inputs, {"scores": outputs})(x)["scores"],
        keras.Sequential([body, keras.layers.Dense(4)])(x),
    ):
        assert np.isfinite(np.asarray(model)).all()
    folded = check_same(keras.Model(inputs, outputs), x)
    assert not [x for x in layers_of(folded) if isinstance(x, SCALED)]
    check_same(keras.Sequential([body, keras.layers.Dense(4)]), x)


def test_the_layers_of_the_package_fold_alone():
    inputs = keras.Input((8, 8, 16))
    x = ScaledWSConv2D(16, 3, use_bias=False, padding="valid")(inputs)
    x = ScaledActivation("leaky_relu", scale=0.5)(x)
    x = SqueezeExcite()(x)
    x = SkipInit(0.3, initializer="ones")(StochasticDepth(0.5)(x))
    x = ScaledActivation("tanh")(x)
    outputs = ScaledWSConv2D(8, (1, 3), strides=(2, 1), groups=4)(x)
    model = keras.Model(inputs, [outputs, x])
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 16))
    expected = model(features, training=False)
    got = keras_nfnet.fold(model)(features)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(other), atol=1e-5
        )


def test_a_factor_stays_where_a_feature_map_has_two_uses():
    inputs = keras.Input((8, 8, 3))
    shared = ScaledWSConv2D(4, 3)(inputs)
    first = ScaledActivation("relu")(shared)
    model = keras.Model(inputs, [first, keras.layers.ReLU()(shared)])
    x = images(8, 8, 0)
    for got, expected in zip(keras_nfnet.fold(model)(x), model(x), strict=True):
        np.testing.assert_allclose(
            np.asarray(got), np.asarray(expected), atol=1e-5
        )


def with_shared_layers(kind):
    """A model that calls layers more than once, on images of 32 pixels."""
    x = inputs = keras.Input((32, 32, 3))
    if kind == "two views":
        body = network(input_shape=(32, 32, 3))
        views = [body(x), body(ScaledActivation("relu")(x))]
        return randomized(keras.Model(inputs, keras.layers.Add()(views)))
    # One head on feature maps of three sizes.
    maps = [ScaledActivation("gelu")(ScaledWSConv2D(32, 3)(x))]
    for _ in range(2):
        x = ScaledWSConv2D(32, 3, strides=2)(maps[-1])
        maps.append(ScaledActivation("gelu")(x))
    head = {
        "convolutions": [
            ScaledWSConv2D(32, 3, strides=2),
            ScaledActivation("relu"),
            ScaledWSConv2D(64, 3, padding="symmetric"),
        ],
        "depthwise": [ScaledWSDepthwiseConv2D(7, depth_multiplier=2)],
        "gates": [ScaledWSConv2D(32, 1), SqueezeExcite(), SkipInit(0.5)],
        "blocks": [NFBlock(64, beta=0.9, group_width=16)],
        "dense": [keras.layers.Dense(64), ScaledActivation("silu")],
        "others": [keras.layers.Conv2D(32, 3), keras.layers.ReLU()],
    }[kind]
    head += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
    outputs = []
    for x in maps:
        for layer in head:
            x = layer(x)
        outputs.append(x)
    return randomized(keras.Model(inputs, keras.layers.Add()(outputs)))


SHARED = (
    *("two views", "convolutions", "depthwise", "gates"),
    *("blocks", "dense", "others"),
)


@pytest.mark.parametrize("kind", SHARED)
def test_a_layer_that_is_called_twice_has_its_kernel_once(kind):
    model = with_shared_layers(kind)
    folded = check_same(model, images(32, 32, 0) / 127.5 - 1)
    if kind == "blocks":
        return  # One for each shape.
    assert sum(np.prod(x.shape) for x in folded.weights) <= sum(
        np.prod(x.shape) for x in model.weights
    )


def test_a_folded_model_is_the_callers_own_and_can_be_saved(tmp_path):
    model = network(input_shape=(16, 16, 3))
    folded = keras_nfnet.fold(model)
    assert folded.name == model.name
    assert folded.inputs[0].shape == (None, 16, 16, 3)
    x = images(16, 16, 0)
    expected = np.asarray(folded(x))
    model.get_layer("predictions").kernel.assign_add(
        np.ones(model.get_layer("predictions").kernel.shape)
    )
    np.testing.assert_array_equal(np.asarray(folded(x)), expected)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(np.asarray(loaded(x)), expected)
    # Folding again changes nothing.
    np.testing.assert_array_equal(
        np.asarray(keras_nfnet.fold(loaded)(x)), expected
    )


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_the_dtype_is_that_of_the_model_or_the_one_asked_for(dtype):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = network(include_top=False)
    keras.config.set_dtype_policy("float32")
    folded = keras_nfnet.fold(model, dtype)
    for layer in layers_of(folded):
        if isinstance(layer, PlainConvolution):
            assert layer.compute_dtype == (dtype or "bfloat16")
    expected = np.asarray(keras.ops.cast(model(images(16, 16, 0)), "float32"))
    got = np.asarray(keras.ops.cast(folded(images(16, 16, 0)), "float32"))
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_what_has_no_graph_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    for bad in (Own(), keras.Sequential([keras.layers.Dense(1)]), "F0"):
        with pytest.raises(ValueError, match="`model` must be.*Received"):
            keras_nfnet.fold(bad)


@pytest.mark.tensorflow
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_graph_has_no_standardization_and_no_scalar_multiply(activation):
    import tensorflow as tf

    model = network({"activation": activation}, classifier_activation=None)
    graph = (
        tf.function(keras_nfnet.fold(model))
        .get_concrete_function(tf.TensorSpec((None, 16, 16, 3)))
        .graph
    )
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"Rsqrt", "SquaredDifference", "PartitionedCall"}
    assert not kinds & {"StatefulPartitionedCall", "RealDiv"}
    scalars = [
        operation.name
        for operation in graph.get_operations()
        if operation.type == "Mul"
        and any(x.shape.rank == 0 for x in operation.inputs)
    ]
    if activation == "relu":
        assert scalars == []
    # GELU's own constants.
    assert not [name for name in scalars if "gelu" not in name.lower()]


@pytest.mark.slow
def test_f0_folded_gives_the_authors_logits(figures):
    figure = figures("nfnet_outputs.json")[0]
    model = filled(
        keras_nfnet.NFNet(
            figure["variant"], weights=None, classifier_activation=None
        ),
        figure["seed"],
    )
    x = images(figure["height"], figure["width"], figure["seed"])
    logits = np.asarray(keras_nfnet.fold(model)(x))
    error = np.abs(logits[:, :8] - figure["logits_first8"]).max()
    assert error <= 1e-5 * np.abs(logits).max()
