"""LoRA and 8-bit weights: small networks that compute the same."""

import warnings

import keras
import numpy as np
import pytest

import keras_nfnet
from keras_nfnet.export.folded_layers import PlainConvolution

X = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
Y = np.arange(4) % 3


def network(**kwargs):
    keras.utils.set_random_seed(1)
    # Groups narrow and wide: one kernel, and one for each.
    config = keras_nfnet.NFNetConfig((64, 32), (1, 1), group_width=32)
    options = {"weights": None, "classes": 3, "classifier_activation": None}
    model = keras_nfnet.NFNet(config, **{**options, **kwargs})
    for variable in model.weights:
        if variable.name == "skip_gain":
            variable.assign(0.7)
    return model


def trained_with_lora(**kwargs):
    """A network whose factors are not zeros any more."""
    model = network()
    keras_nfnet.enable_lora(model, 2, **kwargs)
    generator = np.random.default_rng(3)
    for variable in model.weights:
        if variable.name == "lora_kernel_b":
            variable.assign(0.1 * generator.standard_normal(variable.shape))
    return model


def predictions(model):
    return keras.ops.convert_to_numpy(model(X))


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def quantized(model):
    with warnings.catch_warnings():
        # Keras warns of each layer that has nothing to quantize.
        warnings.simplefilter("ignore")
        model.quantize("int8")
    return model


@pytest.mark.training
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_lora_trains_the_factors_and_not_the_kernels(policy):
    keras.config.set_dtype_policy(policy)
    model = network()
    before = predictions(model)
    keras_nfnet.enable_lora(model, 2)
    np.testing.assert_array_equal(predictions(model), before)
    trained = {variable.name for variable in model.trainable_variables}
    assert trained == {
        *("lora_kernel_a", "lora_kernel_b", "gain", "bias", "skip_gain"),
        "kernel",
    }
    # The head's alone.
    (kernel,) = [v for v in model.trainable_variables if v.name == "kernel"]
    assert kernel.path == "predictions/kernel"
    frozen = [np.array(v) for v in model.non_trainable_variables]
    model.compile(
        keras.optimizers.AdamW(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    losses = [model.train_on_batch(X, Y) for _ in range(3)]
    assert losses[-1] < losses[0]
    for a, b in zip(frozen, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lora_of_f0_is_few_parameters():
    model = keras_nfnet.NFNet("F0", weights=None, classes=1000, width=0.25)
    total = model.count_params()
    keras_nfnet.enable_lora(model, 1, head=False)
    assert count(model.trainable_variables) < 0.03 * total


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_files_have_lora_merged(tmp_path, ending):
    model = trained_with_lora(head=False)
    expected = predictions(model)
    path = tmp_path / f"model{ending}"
    if ending == ".keras":
        model.save(path)
        loaded = keras.saving.load_model(path)
    else:
        model.save_weights(path)
        loaded = network()
        loaded.load_weights(path)
        # Into a network with LoRA: it starts anew, from the sum.
        again = trained_with_lora(head=False)
        again.load_weights(path)
        np.testing.assert_allclose(predictions(again), expected, atol=1e-6)
    np.testing.assert_allclose(predictions(loaded), expected, atol=1e-6)
    keras_nfnet.enable_lora(loaded, 2, head=False)
    np.testing.assert_allclose(predictions(loaded), expected, atol=1e-6)
    factors = [v for v in loaded.weights if v.name == "lora_kernel_a"]
    assert len(factors) > 8 and all(np.any(np.array(v)) for v in factors)


def test_folding_merges_lora():
    model = trained_with_lora()
    np.testing.assert_allclose(
        predictions(keras_nfnet.fold(model)), predictions(model), atol=1e-5
    )


@pytest.mark.training
def test_units_of_the_factors_are_their_columns():
    layer = keras_nfnet.layers.ScaledWSConv2D(4, 3)
    layer.build((None, 8, 8, 2))
    layer.enable_lora(2)
    optimizer = keras_nfnet.SGDAGC(0.1)
    optimizer.build(layer.trainable_variables)
    axes = {
        variable.name: optimizer._unit_axes[index]
        for index, variable in enumerate(layer.trainable_variables)
    }
    assert axes["lora_kernel_a"] == (0, 1, 2) and axes["lora_kernel_b"] == (0,)


def test_bad_lora_is_named_and_changes_nothing():
    model = network()
    for enable_lora in (
        lambda rank: keras_nfnet.enable_lora(model, rank),
        model.get_layer("final_conv").enable_lora,
    ):
        with pytest.raises(ValueError, match="`rank`.*rank=0"):
            enable_lora(0)
    with pytest.raises(ValueError, match="`model`"):
        keras_nfnet.enable_lora("F0", 2)
    model.get_layer("final_conv").kernel_constraint = keras.constraints.NonNeg()
    with pytest.raises(ValueError, match="'final_conv'"):
        keras_nfnet.enable_lora(model, 2)
    assert not any("lora" in variable.name for variable in model.weights)
    with pytest.raises(ValueError, match="lora_kernel_a"):
        keras_nfnet.weights.to_haiku_tree(trained_with_lora())


@pytest.mark.parametrize("config", ["network", "narrow groups"])
def test_int8_reaches_the_folded_convolutions(tmp_path, config):
    model = network()
    if config == "narrow groups":
        model = keras_nfnet.NFNet(
            keras_nfnet.NFNetConfig((64,), (1,), group_width=8),
            weights=None,
            classes=3,
            classifier_activation=None,
        )
    folded = keras_nfnet.fold(model)
    expected = predictions(folded)
    quantized(folded)
    convolutions = [
        layer
        for layer in folded._flatten_layers()
        if isinstance(layer, PlainConvolution)
    ]
    kernels = [k for layer in convolutions for k in layer.kernels]
    assert kernels and {k.dtype for k in kernels} == {"int8"}
    assert {
        len(layer.kernels[0].shape) + len(layer.scales[0].shape)
        for layer in convolutions
    } == {5}
    found = predictions(folded)
    similarity = np.sum(found * expected, -1) / (
        np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    )
    assert 0.99 < similarity.min() and np.any(found != expected)
    # The integers are what a file has, and what it computes is the same.
    folded.save(tmp_path / "int8.keras")
    loaded = keras.saving.load_model(tmp_path / "int8.keras")
    np.testing.assert_allclose(predictions(loaded), found, atol=1e-6)
    for a, b in zip(folded.weights, loaded.weights, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.long
def test_f0_in_8_bits_is_a_quarter_and_agrees(tmp_path):
    model = keras_nfnet.NFNetF0(weights=None, classifier_activation=None)
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name == "skip_gain":
            variable.assign(generator.uniform(0.3, 1))
    folded = keras_nfnet.fold(model)
    expected = predictions(folded)
    folded.save(tmp_path / "float32.keras")
    quantized(folded).save(tmp_path / "int8.keras")
    before, after = (
        (tmp_path / f"{name}.keras").stat().st_size
        for name in ("float32", "int8")
    )
    assert after <= 0.25 * 1.05 * before
    found = predictions(folded)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert np.all(np.sum(found * expected, -1) / norms >= 0.999)
    # Larger images: an error of a filter's sum is all that pooling leaves.
    x = generator.standard_normal((1, 192, 192, 3)).astype("float32")
    expected = np.asarray(keras_nfnet.fold(model)(x)).ravel()
    found = np.asarray(folded(x)).ravel()
    norms = np.linalg.norm(found) * np.linalg.norm(expected)
    assert found @ expected / norms >= 0.999


def test_exports_have_the_values_of_quantized_kernels():
    layer = PlainConvolution(4, (3, 3))
    layer.build((None, 8, 8, 2))
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 4))
    layer.set_values(kernel.astype("float32"), np.ones(4, "float32"))
    layer.quantize("int8")
    values, bias = layer.values()
    # Half a step of 127 for each filter, a whole one where the sum asks.
    step = np.abs(kernel).max((0, 1, 2)) / 127
    assert np.all(np.abs(values - kernel) <= step)
    assert np.mean(np.abs(values - kernel) <= 0.51 * step) > 0.9
    sums = (values - kernel).sum((0, 1, 2))
    assert np.all(np.abs(sums) <= 0.51 * step)
    np.testing.assert_array_equal(bias, 1)
    with pytest.raises(ValueError, match="already quantized"):
        layer.quantize("int8")


def test_what_cannot_be_quantized_is_said(tmp_path):
    folded = keras_nfnet.fold(network())
    before = predictions(folded)
    convolution = next(
        layer
        for layer in folded._flatten_layers()
        if isinstance(layer, PlainConvolution)
    )
    for mode in ("int4", "float8"):
        with pytest.raises(NotImplementedError, match=f"int8 alone.*{mode}"):
            convolution.quantize(mode)
    np.testing.assert_array_equal(predictions(folded), before)
    model = network()
    with pytest.warns(UserWarning, match=r"standardized.*keras_nfnet\.fold"):
        model.quantize("int8")
    with pytest.raises(ValueError, match="Fold or export it first"):
        keras_nfnet.fold(quantized(keras_nfnet.fold(network())))
