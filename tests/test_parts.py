"""Parts for networks of one's own: standardized layers, sums, the check."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from test_agc_units import check_one_step

import keras_nfnet
from keras_nfnet import layers as nf
from keras_nfnet.layers import ScaledWSMixin
from keras_nfnet.optimizers.owners import axes_of_unit

SIGNAL, IMAGE, VOLUME = (4, 12, 8), (2, 8, 8, 8), (2, 4, 4, 4, 8)
# A layer, its inputs' shape, and what one unit is summed over.
LAYERS = {
    "Conv1D": (lambda **k: nf.ScaledWSConv1D(6, 3, **k), SIGNAL),
    "causal": (
        lambda **k: nf.ScaledWSConv1D(
            6, 3, padding="causal", dilation_rate=2, **k
        ),
        SIGNAL,
    ),
    "causal groups": (
        lambda **k: nf.ScaledWSConv1D(6, 3, padding="causal", groups=2, **k),
        SIGNAL,
    ),
    "groups": (lambda **k: nf.ScaledWSConv1D(6, 3, groups=2, **k), SIGNAL),
    "Conv2D": (
        lambda **k: nf.ScaledWSConv2D(
            6, 3, 2, groups=2, activation="silu", **k
        ),
        IMAGE,
    ),
    "Conv3D": (lambda **k: nf.ScaledWSConv3D(6, 3, strides=2, **k), VOLUME),
    "DepthwiseConv1D": (
        lambda **k: nf.ScaledWSDepthwiseConv1D(3, depth_multiplier=2, **k),
        SIGNAL,
    ),
    "DepthwiseConv2D": (
        lambda **k: nf.ScaledWSDepthwiseConv2D(3, dilation_rate=2, **k),
        IMAGE,
    ),
    "SeparableConv1D": (
        lambda **k: nf.ScaledWSSeparableConv1D(6, 3, **k),
        SIGNAL,
    ),
    "SeparableConv2D": (
        lambda **k: nf.ScaledWSSeparableConv2D(6, 3, use_bias=False, **k),
        IMAGE,
    ),
    "Conv1DTranspose": (
        lambda **k: nf.ScaledWSConv1DTranspose(6, 3, strides=2, **k),
        SIGNAL,
    ),
    "Conv2DTranspose": (
        lambda **k: nf.ScaledWSConv2DTranspose(6, 4, strides=(1, 2), **k),
        IMAGE,
    ),
    "Conv3DTranspose": (
        lambda **k: nf.ScaledWSConv3DTranspose(6, 2, strides=2, **k),
        VOLUME,
    ),
    "Dense": (lambda **k: nf.ScaledWSDense(6, activation="relu", **k), SIGNAL),
}


def inputs(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def randomized(layer, shape, seed=0):
    layer.build((None, *shape[1:]))
    generator = np.random.default_rng(seed)
    for variable in layer.weights:
        noise = generator.standard_normal(variable.shape)
        variable.assign(0.5 + 0.3 * noise)
    return layer


def model_of(layer, shape):
    return keras.Sequential([keras.Input(shape[1:]), layer])


@pytest.fixture(params=LAYERS, ids=str)
def case(request):
    return LAYERS[request.param]


def test_each_unit_has_no_mean_and_the_norm_of_its_gain(case):
    make, shape = case
    layer = randomized(make(), shape)
    for name, axes in layer.unit_axes.items():
        kernel = np.asarray(layer.standardized_kernel(name))
        gain = np.asarray(getattr(layer, name.replace("kernel", "gain")))
        phases = 1
        if "transpose" in layer.name:
            phases = np.prod(layer.strides)
        norm = np.sqrt((kernel**2).sum(axes)).reshape(-1)
        np.testing.assert_allclose(norm, np.abs(gain) * phases**0.5, rtol=1e-5)
        np.testing.assert_allclose(kernel.mean(axes), 0, atol=1e-6)


def test_a_layer_is_that_of_keras_with_the_standardized_kernel(case):
    make, shape = case
    layer = randomized(make(), shape)
    kinds = type(layer).__mro__
    kind = kinds[kinds.index(ScaledWSMixin) + 1]
    config = super(ScaledWSMixin, layer).get_config()
    plain = kind.from_config(config)
    plain.build((None, *shape[1:]))
    kernels = [layer.standardized_kernel(name) for name in layer.unit_axes]
    biases = [] if layer.bias is None else [layer.bias]
    plain.set_weights([np.asarray(v) for v in [*kernels, *biases]])
    x = inputs(shape)
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    assert tuple(layer(x).shape) == tuple(layer.compute_output_shape(shape))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_keep_the_gain(case, suffix, tmp_path):
    make, shape = case
    layer = randomized(make(gain_initializer="zeros", eps=1e-3), shape)
    first, file = model_of(layer, shape), tmp_path / f"layer{suffix}"
    if suffix == ".keras":
        first.save(file)
        second = keras.saving.load_model(file)
    else:
        first.save_weights(file)
        second = model_of(type(layer).from_config(layer.get_config()), shape)
        second.load_weights(file)
    assert second.layers[0].get_config() == layer.get_config()
    for mine, others in zip(second.weights, first.weights, strict=True):
        np.testing.assert_array_equal(mine, others)


def test_a_file_without_the_gain_is_refused(tmp_path):
    plain = model_of(keras.layers.Conv1D(6, 3, name="layer"), SIGNAL)
    plain.save_weights(tmp_path / "plain.weights.h5")
    layer = nf.ScaledWSConv1D(6, 3, name="layer")
    with pytest.raises(ValueError, match="gain"):
        model_of(layer, SIGNAL).load_weights(tmp_path / "plain.weights.h5")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_half_precision_standardizes_in_float32(case, policy):
    """A kernel mean of 100 drowns the variance in bfloat16."""
    make, shape = case
    expected, half = make(), make(dtype=policy)
    for layer in (expected, half):
        layer.build((None, *shape[1:]))
    for name, axes in expected.unit_axes.items():
        variable = next(v for v in expected.weights if v.name == name)
        values = inputs(variable.shape) + 100
        if policy == "bfloat16":  # Values that it can hold.
            values = np.round(values * 4) / 4
            values = np.asarray(ops.cast(ops.cast(values, policy), "float32"))
            if (values.std(axes) < 1e-3).any():
                values = np.sign(inputs(variable.shape)) + 100
        for layer in (expected, half):
            next(v for v in layer.weights if v.name == name).assign(values)
    for name in expected.unit_axes:
        np.testing.assert_allclose(
            half.standardized_kernel(name),
            expected.standardized_kernel(name),
            rtol=1e-4,
            atol=1e-5,
        )
    outputs = half(ops.cast(inputs(shape), "bfloat16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"


def test_agc_clips_the_units_that_the_layer_names(case):
    make, shape = case
    layer = randomized(make(), shape)
    kernels = [v for v in layer.weights if v.name in layer.unit_axes]
    assert len(kernels) == len(layer.unit_axes)
    check_one_step(kernels, lambda variable: layer.unit_axes[variable.name])
    for variable in layer.weights:
        if variable.name not in layer.unit_axes:
            assert axes_of_unit(variable, [layer]) == (0,)


def test_fold_gives_a_plain_layer_of_the_same_outputs(case):
    make, shape = case
    layer = randomized(make(), shape)
    x = keras.Input(shape[1:])
    y = nf.SkipInit(0.5, initializer="ones")(
        layer(nf.ScaledActivation("silu", scale=0.7)(x))
    )
    model = keras.Model(x, y)
    folded = keras_nfnet.fold(model)
    expected = np.asarray(model(inputs(shape)))
    got = np.asarray(folded(inputs(shape)))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    kinds = (ScaledWSMixin, nf.ScaledActivation, nf.SkipInit)
    assert not [x for x in folded.layers if isinstance(x, kinds)]


@pytest.mark.tensorflow
def test_groups_need_no_compilation_and_fold_into_what_onnx_can_read(tmp_path):
    """Keras compiles a convolution of groups, which no export can read."""
    for padding in ("same", "causal"):
        layer = nf.ScaledWSConv1D(6, 3, padding=padding, groups=2)
        model = model_of(randomized(layer, SIGNAL), SIGNAL)
        folded = keras_nfnet.fold(model)
        x = inputs(SIGNAL)
        expected = np.asarray(folded(x))
        folded.export(tmp_path / "a.onnx", format="onnx", verbose=False)
        got = onnx_outputs(tmp_path / "a.onnx", x)
        np.testing.assert_allclose(got, expected, atol=1e-5)


class Circular(ScaledWSMixin, keras.layers.Conv1D):
    """An operation of the user's own."""

    unit_axes = {"kernel": (0, 1)}

    def convolution_op(self, inputs, kernel):
        inputs = ops.concatenate([inputs, inputs[:, :2]], axis=1)
        return ops.conv(inputs, kernel, padding="valid")


def test_fold_keeps_an_operation_of_the_users_own():
    layer = randomized(Circular(6, 3), SIGNAL)
    model = model_of(layer, SIGNAL)
    x = inputs(SIGNAL)
    np.testing.assert_allclose(
        keras_nfnet.fold(model)(x), model(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["Conv1D", "Conv2D", "Conv3D", "Dense"])
def test_lora_changes_the_kernel_before_standardization(name, policy, tmp_path):
    make, shape = LAYERS[name]
    layer = randomized(make(dtype=policy, lora_rank=2), shape)
    assert not layer.trainable_weights[0].name.startswith("kernel")
    merged = randomized(make(), shape)
    change = np.asarray(layer.lora_kernel_a) @ np.asarray(layer.lora_kernel_b)
    values = {variable.name: variable for variable in layer.weights}
    for variable in merged.weights:
        variable.assign(values[variable.name])
    merged.kernel.assign_add(change * layer.lora_alpha / layer.lora_rank)
    expected = np.asarray(merged.standardized_kernel())
    np.testing.assert_allclose(
        layer.standardized_kernel(), expected, rtol=1e-4, atol=1e-6
    )
    # Files have the sum, as Keras's own.
    first = model_of(layer, shape)
    first.save_weights(tmp_path / "lora.weights.h5")
    second = model_of(make(), shape)
    second.load_weights(tmp_path / "lora.weights.h5")
    np.testing.assert_allclose(
        second.layers[0].standardized_kernel(), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nf.ScaledWSConv1D, SIGNAL), (nf.ScaledWSConv2D, IMAGE)],
)
def test_regularizers_and_constraints_are_keras_own(kind, shape):
    layer = kind(6, 3, kernel_regularizer="l2", kernel_constraint="unit_norm")
    layer = randomized(kind.from_config(layer.get_config()), shape)
    (loss,) = layer.losses
    kernel = np.asarray(layer.kernel)
    assert float(loss) == pytest.approx(0.01 * (kernel**2).sum(), rel=1e-5)
    optimizer = keras_nfnet.SGDAGC(0.0)
    variables = layer.trainable_variables
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    constrained = np.asarray(keras.constraints.UnitNorm()(kernel))
    np.testing.assert_allclose(layer.kernel, constrained, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nf.ScaledWSConv2D(4, 1), (1, 8, 8, 1)),
        (lambda: nf.ScaledWSDepthwiseConv1D(1), SIGNAL),
        (lambda: nf.ScaledWSSeparableConv2D(6, 1), IMAGE),
        (lambda: nf.ScaledWSConv1DTranspose(4, 2, strides=2), (1, 8, 1)),
        (lambda: nf.ScaledWSConv1DTranspose(4, 3, strides=2), (1, 8, 1)),
        (lambda: nf.ScaledWSDense(4), (3, 1)),
    ],
)
def test_a_unit_of_one_value_is_refused_when_the_layer_is_built(make, shape):
    with pytest.raises(ValueError, match="two values or more in each unit"):
        make().build(shape)


def test_bad_arguments_of_a_standardized_layer_are_named():
    with pytest.raises(ValueError, match="`eps`"):
        nf.ScaledWSConv1D(4, 3, eps=0)
    nameless = type("Nameless", (ScaledWSMixin, keras.layers.Conv1D), {})
    with pytest.raises(ValueError, match="`unit_axes`"):
        nameless(4, 3)
    with pytest.raises(ValueError, match="quantized"):
        nf.ScaledWSDense(4, dtype="int8_from_float32")
    layer = randomized(nf.ScaledWSDense(4), SIGNAL)
    with pytest.raises(NotImplementedError, match="fold"):
        layer.quantize("int8")


def test_a_standardized_last_layer_is_no_classifier():
    """Its kernel's scale does not reach the output: AGC clips it."""
    x = keras.Input((6,))
    model = keras.Model(x, nf.ScaledWSDense(3)(x))
    variables = model.trainable_variables
    variables[0].assign(inputs(variables[0].shape))
    before = np.asarray(variables[0]).copy()
    optimizer = keras_nfnet.SGDAGC(1.0, momentum=0, weight_decay=0)
    model.compile(optimizer)
    optimizer.apply([ops.full(v.shape, 100.0) for v in variables], variables)
    moved = np.linalg.norm(np.asarray(variables[0]) - before, axis=0)
    np.testing.assert_allclose(
        moved, 0.01 * np.linalg.norm(before, axis=0), rtol=1e-4
    )


def test_strides_of_a_transposed_convolution_keep_the_variance():
    x = np.maximum(inputs((8, 64, 32)), 0) * nf.activation_gain("relu")
    for kernel_size, strides in ((4, 2), (3, 2), (5, 3), (2, 2)):
        layer = nf.ScaledWSConv1DTranspose(256, kernel_size, strides=strides)
        y = np.asarray(layer(x))
        assert y.var((0, 1)).mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nf.ScaledWSConv1DTranspose(4, 1, strides=2), SIGNAL),
        (nf.ScaledWSConv2DTranspose(4, (4, 2), strides=3), IMAGE),
        (nf.ScaledWSConv3DTranspose(4, (2, 2, 1), (1, 1, 2)), VOLUME),
    ],
)
def test_outputs_that_no_value_of_the_kernel_meets_are_refused(layer, shape):
    with pytest.raises(ValueError, match="`strides`.*`kernel_size`.*strides="):
        layer.build(shape)


def test_residual_hands_out_beta_and_starts_again_after_a_shortcut():
    residual = nf.Residual("relu", alpha=0.5)
    x = keras.Input((6,))
    betas = []
    for shortcut in (None, None, nf.ScaledWSDense(6), None):
        betas.append(residual.beta)
        x = residual(x, [nf.ScaledWSDense(6)], shortcut)
    np.testing.assert_allclose(
        betas, np.float64([1, 1.25, 1.5, 1.25]) ** -0.5, rtol=1e-6
    )
    assert residual.expected_variance == 1.5
    with pytest.raises(ValueError, match="`alpha`"):
        nf.Residual("relu", alpha=0)


PAGE = (Path(__file__).parents[1] / "docs/own_networks.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NETWORKS = dict(
    zip(("a signal", "depthwise", "transposed"), BLOCKS[:3], strict=True)
)


def run(block, **names):
    names = {"keras": keras, "keras_nfnet": keras_nfnet, "np": np, **names}
    exec(block, names)
    return names


def onnx_outputs(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_example_keeps_its_variance_trains_folds_and_is_exported(
    name, tmp_path, monkeypatch
):
    model = run(NETWORKS[name])["model"]
    report = keras_nfnet.check_normalizer_free(model)
    assert not report.departures, str(report)
    assert len([n for n in report.names if n.endswith("_add")]) >= 2
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name in getattr(layer, "unit_axes", {}):
                axes = axes_of_unit(variable, [layer])
                assert axes == layer.unit_axes[variable.name]
    x = inputs((8, *model.input_shape[1:]))
    y = inputs((8, *model.output_shape[1:]), seed=1)
    model.compile(keras_nfnet.SGDAGC(0.05), "mse")
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for layer in model.layers:  # In a few steps they hardly leave 0.
        if isinstance(layer, nf.SkipInit):
            layer.skip_gain.assign(0.7)
    expected = np.asarray(model(x))
    bound = 1e-5 * np.abs(expected).max()
    folded = np.asarray(keras_nfnet.fold(model)(x))
    assert np.abs(folded - expected).max() <= bound
    if keras.backend.backend() != "tensorflow":
        return  # Keras exports to ONNX from others by other packages.
    monkeypatch.chdir(tmp_path)
    (export,) = (block for block in BLOCKS if ".export(" in block)
    run(export, model=model)
    got = onnx_outputs("model.onnx", x)
    assert np.abs(got - expected).max() <= bound
    if x.ndim == 4:
        report = keras_nfnet.export.to_onnx(model, "checked.onnx")
        assert report.largest_difference < 1e-4


def test_the_check_names_what_departs_and_that_alone():
    def network(act, beta):
        x = first = keras.Input((32, 32, 3))
        x = nf.ScaledWSConv2D(32, 3, name="stem")(x)
        y = nf.ScaledWSConv2D(32, 3, name="one")(act(x))
        x = keras.layers.Add(name="sum")([x, nf.SkipInit()(y)])
        y = nf.ScaledActivation("relu", scale=beta)(x)
        y = nf.ScaledWSConv2D(32, 3, name="two")(y)
        y = nf.ScaledWSConv2D(32, 3, name="three")(nf.ScaledActivation()(y))
        return keras.Model(first, y)

    def departures(*args):
        report = keras_nfnet.check_normalizer_free(network(*args))
        assert all(name in str(report) for name, *_ in report.departures)
        return [name for name, *_ in report.departures]

    right = nf.ScaledActivation("relu")
    assert departures(right, 0.5**0.5) == []
    # The variance of the sum is 2, not 1: beta is wrong.
    assert departures(right, 1.0)[0] == "two"
    # Without its gain.
    assert departures(keras.layers.ReLU(), 0.5**0.5)[0] == "one"


def test_the_check_changes_nothing_and_knows_the_packages_own_networks():
    config = keras_nfnet.NFNetConfig((32, 64), (2, 1), group_width=16)
    model = keras_nfnet.NFNet(config, weights=None)
    before = [np.asarray(v).copy() for v in model.weights]
    report = keras_nfnet.check_normalizer_free(model, tolerance=0.15)
    assert not report.departures, str(report)
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, variable)
    block = model.get_layer("stage1_block1")
    index = report.names.index(block.add.name)
    assert report.expected[index] > 1.04


def test_the_check_follows_models_in_a_model_and_inputs_by_name():
    inner = run(NETWORKS["a signal"])["model"]
    x = keras.Input(inner.input_shape[1:])
    outer = keras.Model(x, inner(inputs=nf.ScaledWSConv1D(2, 9)(inputs=x)))
    alone = keras_nfnet.check_normalizer_free(inner)
    report = keras_nfnet.check_normalizer_free(outer)
    assert report.names[1:] == alone.names
    assert report.expected[1:] == pytest.approx(alone.expected, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0}, "`tolerance`"),
        ({"x": np.zeros((2, 5))}, "`x`"),
        ({"model": keras.Sequential()}, "`model`"),
        ({"model": keras.Sequential([keras.Input((4,))])}, "`model`"),
    ],
)
def test_bad_arguments_of_the_check_are_named(arguments, message):
    x = keras.Input((8, 2))
    model = keras.Model(x, nf.ScaledWSConv1D(4, 3)(x))
    with pytest.raises(ValueError, match=message):
        keras_nfnet.check_normalizer_free(**{"model": model, **arguments})
