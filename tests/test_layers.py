"""Every layer through one harness, and each by its own numbers."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_nfnet.layers import (
    ACTIVATIONS,
    ScaledActivation,
    ScaledWSConv2D,
    ScaledWSConv2DTranspose,
    ScaledWSDense,
    ScaledWSDepthwiseConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
    activation_gain,
    grouped_convolution,
    initializers,
    standardize,
)
from keras_nfnet.layers.initializers import ScaledNormal
from keras_nfnet.layers.pooling import GlobalAveragePooling
from keras_nfnet.models.nf_block import NFBlock

LAYERS = {
    "convolution": lambda: ScaledWSConv2D(12, 3, strides=2),
    "grouped": lambda: ScaledWSConv2D(12, 3, groups=4, name="grouped"),
    "valid": lambda: ScaledWSConv2D(6, (3, 2), padding="valid", use_bias=False),
    "symmetric": lambda: ScaledWSConv2D(
        6, 3, 2, "symmetric", eps_mode="add", scale=1.5, activation="relu"
    ),
    "activation": lambda: ScaledActivation("silu", scale=0.5),
    "other activation": lambda: ScaledActivation("mish"),
    "squeeze-excite": lambda: SqueezeExcite(0.5),
    "stochastic depth": lambda: StochasticDepth(0.5, seed=1),
    "skip": lambda: SkipInit(0.2, initializer="ones"),
    "pooling": lambda: GlobalAveragePooling(),
    "block": lambda: NFBlock(8, group_width=2),
    "projection block": lambda: NFBlock(
        12, strides=2, group_width=2, stochastic_depth_rate=0.1
    ),
    "one 3×3": lambda: NFBlock(8, group_width=4, use_two_convs=False),
}


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    return LAYERS[request.param]()


def pictures(shape=(2, 7, 9, 8), seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def randomize(layer, seed=0):
    generator = np.random.default_rng(seed)
    for variable in layer.trainable_weights:
        variable.assign(0.5 + 0.3 * generator.standard_normal(variable.shape))


def test_shape_is_what_compute_output_shape_says(layer):
    x = pictures()
    outputs = layer(x)
    assert tuple(outputs.shape) == tuple(layer.compute_output_shape(x.shape))
    symbolic = layer(keras.Input((None, None, 8)))
    assert symbolic.shape[-1] == outputs.shape[-1]


def test_config_round_trip_gives_the_same_outputs(layer):
    x = pictures()
    layer(x)
    randomize(layer)
    twin = type(layer).from_config(layer.get_config())
    twin(x)
    assert twin.get_config() == layer.get_config()
    for mine, others in zip(
        twin.trainable_weights, layer.trainable_weights, strict=True
    ):
        mine.assign(others)
    np.testing.assert_array_equal(twin(x), layer(x))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_keep_every_variable(layer, suffix, tmp_path):
    def model(layer):
        return keras.Sequential([keras.Input((None, None, 8)), layer])

    first = model(layer)
    randomize(layer)
    file = tmp_path / f"layer{suffix}"
    if suffix == ".keras":
        first.save(file)
        second = keras.saving.load_model(file)
    else:
        first.save_weights(file)
        second = model(type(layer).from_config(layer.get_config()))
        second.load_weights(file)
    assert len(first.weights) == len(second.weights)
    for mine, others in zip(second.weights, first.weights, strict=True):
        np.testing.assert_array_equal(mine, others)
    np.testing.assert_array_equal(second(pictures()), first(pictures()))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_near_float32(layer, policy):
    x = pictures()
    expected = np.asarray(layer(x))
    randomize(layer)
    expected = np.asarray(layer(x))
    config = {**layer.get_config(), "dtype": policy}
    mixed = type(layer).from_config(config)
    outputs = mixed(x)
    for mine, others in zip(
        mixed.trainable_weights, layer.trainable_weights, strict=True
    ):
        assert mine.dtype == "float32"
        mine.assign(others)
    outputs = mixed(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy[6:]
    outputs = np.asarray(ops.cast(outputs, "float32"))
    tolerance = 0.06 if policy == "mixed_bfloat16" else 0.01
    assert (
        np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()
    )


def test_what_the_version_before_wrote_is_read_and_gives_the_same(figures):
    figure = figures("scaled_ws_conv2d.json")
    layer = ScaledWSConv2D.from_config(figure["config"])
    assert isinstance(layer, keras.layers.Conv2D)
    assert (
        figure["config"].items()
        <= {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in layer.get_config().items()
        }.items()
    )
    layer.build((None, 3, 2, 4))
    file = {
        "0": np.sin(np.arange(24, dtype="float32")).reshape(3, 2, 2, 2),
        "1": np.float32([0.5, -2]),
        "2": np.float32([0.25, 1]),
    }
    layer.load_own_variables(file)
    assert [v.name for v in layer.weights] == ["kernel", "gain", "bias"]
    x = np.cos(np.arange(24, dtype="float32")).reshape(1, 3, 2, 4)
    outputs = np.ravel(layer(x))
    np.testing.assert_allclose(outputs, figure["outputs"], rtol=1e-5)
    losses = [float(loss) for loss in layer.losses]
    np.testing.assert_allclose(losses, figure["losses"], rtol=1e-5)
    written = {}
    layer.save_own_variables(written)
    assert written.keys() == file.keys()
    for key, value in file.items():
        np.testing.assert_array_equal(written[key], value)
    with pytest.raises(ValueError, match=r"'conv'.*gain.*\['0', '1'\]"):
        layer.load_own_variables({key: file[key] for key in ("0", "1")})


def test_standardized_kernel_has_no_mean_and_unit_fan_in_variance():
    kernel = pictures((3, 3, 8, 5)) + 2
    gain = np.arange(1, 6, dtype=np.float32)
    result = np.asarray(standardize(ops.array(kernel), ops.array(gain)))
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(result.var((0, 1, 2)) * 72, gain**2, rtol=1e-5)


def test_standardization_has_a_floor_not_an_added_epsilon():
    kernel = 1e-3 * pictures((1, 1, 8, 4))
    variance = kernel.astype(np.float64).var((0, 1, 2), keepdims=True) * 8
    assert (variance < 1e-4).all()
    expected = (kernel - kernel.mean((0, 1, 2))) / 1e-2
    np.testing.assert_allclose(
        standardize(ops.array(kernel)), expected, rtol=1e-4, atol=1e-7
    )


def test_half_precision_standardizes_in_float32():
    # A kernel mean of 100 drowns the variance in bfloat16.
    x = pictures()
    layer = ScaledWSConv2D(4, 3, dtype="mixed_bfloat16")
    layer.build(x.shape)
    kernel = pictures((3, 3, 8, 4)) + 100
    layer.kernel.assign(kernel)
    expected = ScaledWSConv2D(4, 3)
    expected.build(x.shape)
    expected.kernel.assign(kernel)
    difference = np.asarray(ops.cast(layer(x), "float32")) - np.asarray(
        expected(x)
    )
    assert np.abs(difference).max() < 0.05


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("strides", [1, 2])
def test_grouped_convolution_is_its_groups_side_by_side(groups, strides):
    x = pictures()
    layer = ScaledWSConv2D(16, 3, strides=strides, groups=groups)
    outputs = np.asarray(layer(x))
    kernel = np.asarray(layer.standardized_kernel())
    for group in range(groups):
        inputs = slice(group * 8 // groups, (group + 1) * 8 // groups)
        filters = slice(group * 16 // groups, (group + 1) * 16 // groups)
        expected = ops.conv(
            x[..., inputs],
            kernel[..., filters],
            strides=strides,
            padding="same",
        )
        np.testing.assert_allclose(
            outputs[..., filters], expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_of_signals_images_and_volumes_are_convolved(axes, groups):
    x = pictures((1, *(5,) * axes, 8))
    kernel = pictures((*(3,) * axes, 8 // groups, 8))
    outputs = np.asarray(
        grouped_convolution.convolve(x, kernel, 1, "same", groups)
    )
    expected = [
        ops.conv(part, filters, strides=1, padding="same")
        for part, filters in zip(
            np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True
        )
    ]
    np.testing.assert_allclose(
        outputs, np.concatenate(expected, -1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "width, groups, convolutions", [(8, 48, 6), (8, 11, 11), (3, 7, 1)]
)
def test_narrow_groups_share_a_convolution(
    width, groups, convolutions, axes, monkeypatch
):
    """A network of one for each group takes minutes to compile."""
    calls, conv = [], ops.conv

    def counted(*args, **kwargs):
        calls.append(args)
        return conv(*args, **kwargs)

    monkeypatch.setattr(grouped_convolution, "_native", lambda *_: False)
    monkeypatch.setattr(grouped_convolution.ops, "conv", counted)
    x = pictures((2, *(4,) * axes, width * groups))
    kernel = pictures((*(3,) * axes, width, 2 * groups))
    outputs = grouped_convolution.convolve(x, kernel, 1, "same", groups)
    # PyTorch's own convolution takes all groups at once, narrow or not.
    is_torch = keras.backend.backend() == "torch"
    assert len(calls) == (0 if is_torch else convolutions)
    expected = [
        conv(part, filters, strides=1, padding="same")
        for part, filters in zip(
            np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True
        )
    ]
    np.testing.assert_allclose(
        outputs, np.concatenate(expected, -1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.training
@pytest.mark.parametrize(
    ("width", "groups"), [(16, 2), (24, 2), (8, 6), (5, 3)]
)
def test_narrow_groups_learn_as_each_alone(width, groups, monkeypatch):
    """XLA crashed in a gradient of pairs of groups of 16 channels."""
    monkeypatch.setattr(grouped_convolution, "_native", lambda *_: False)
    x = pictures((2, 4, 4, width * groups))
    steps = {}
    for blocks in (True, False):
        if not blocks:
            alone = lambda kernel, groups: (kernel, groups)  # noqa: E731
            monkeypatch.setattr(grouped_convolution, "_in_blocks", alone)
        keras.utils.set_random_seed(0)
        layer = ScaledWSConv2D(width * groups, 3, groups=groups)
        model = keras.Sequential([keras.Input(x.shape[1:]), layer])
        model.compile(keras.optimizers.SGD(1.0), "mse")
        before = [np.array(v) for v in model.trainable_variables]
        model.train_on_batch(x, np.sin(x))
        steps[blocks] = [
            np.array(v) - old
            for v, old in zip(model.trainable_variables, before, strict=True)
        ]
    for one, other in zip(steps[True], steps[False], strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


GRADIENTS = """
import sys
import numpy as np
import tensorflow as tf
from keras_nfnet.layers.grouped_convolution import convolve

files = np.load(sys.argv[1])
x, kernel = tf.constant(files["x"]), tf.constant(files["kernel"])

@tf.function
def gradients():
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        outputs = convolve(x, kernel, 1, "same", 4)
        loss = tf.reduce_sum(outputs**2)
    return tape.gradient(loss, (x, kernel))

of_x, of_kernel = gradients()
np.savez(sys.argv[2], x=of_x, kernel=of_kernel)
"""


@pytest.mark.tensorflow
def test_narrow_groups_train_on_processors_without_onednn(tmp_path):
    """TensorFlow's other kernels have no gradients of them."""
    inputs = {"x": pictures((2, 6, 6, 8)), "kernel": pictures((3, 3, 2, 8))}
    np.savez(tmp_path / "inputs.npz", **inputs)
    made = []
    for onednn in ("0", "1"):
        outputs = tmp_path / f"gradients{onednn}.npz"
        subprocess.run(
            [sys.executable, "-c", GRADIENTS, tmp_path / "inputs.npz", outputs],
            env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn},
            check=True,
        )
        made.append(np.load(outputs))
    for name in inputs:
        np.testing.assert_allclose(
            made[0][name], made[1][name], rtol=1e-5, atol=1e-4
        )


@pytest.mark.tensorflow
def test_grouped_convolution_needs_no_compilation():
    import tensorflow as tf

    layer = ScaledWSConv2D(16, 3, groups=4)
    layer.build((None, 8, 8, 8))
    graph = (
        tf.function(layer, jit_compile=False)
        .get_concrete_function(tf.TensorSpec((None, 8, 8, 8)))
        .graph
    )
    types = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in types
    compiled = [
        function.name
        for function in graph.as_graph_def().library.function
        if function.attr["_XlaMustCompile"].b
    ]
    assert not compiled and "StatefulPartitionedCall" not in types


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"identity"}))
def test_gains_of_the_authors_are_one_over_the_deviation(name):
    function, gain = ACTIVATIONS[name]
    x = np.random.default_rng(0).standard_normal(2_000_000, np.float32)
    deviation = float(ops.std(function(ops.array(x))))
    assert gain * deviation == pytest.approx(1, rel=4e-3)
    # The computed gain agrees with the constant, which is a sampled one.
    assert activation_gain(lambda t: function(t)) == pytest.approx(
        gain, rel=4e-3
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_silu_is_kerass_in_graphs_too(dtype):
    import tensorflow as tf

    def value_and_gradient(function):
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            assert y.shape == x.shape
            return y, tape.gradient(y, x)

        return run

    function = ACTIVATIONS["silu"][0]
    x = tf.cast(tf.linspace([-9.0, -1.0], [0.0, 9.0], 64), dtype)
    expected = value_and_gradient(keras.activations.silu)(x)
    spec = tf.TensorSpec((None, 2), dtype)
    for compiled in (False, True):
        graph = tf.function(
            value_and_gradient(function), [spec], jit_compile=compiled
        )
        for a, b in zip(graph(x), expected, strict=True):
            np.testing.assert_allclose(
                tf.cast(a, tf.float32),
                tf.cast(b, tf.float32),
                rtol=1e-6 if dtype == "float32" else 2e-2,
                atol=1e-6 if dtype == "float32" else 1e-2,
            )


def test_gelu_is_the_tanh_form_and_leaky_relu_has_slope_one_hundredth():
    x = np.float32([-2.0, -0.5, 0.3, 1.7])
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(
        ScaledActivation("gelu")(x), 1.7015043497085571 * tanh, rtol=1e-5
    )
    np.testing.assert_allclose(
        ScaledActivation("leaky_relu")(x)[:1],
        [1.70590341091156 * -0.02],
        rtol=1e-6,
    )


def test_other_activations_have_a_computed_gain():
    # std of |x| is sqrt(1 - 2/pi).
    assert activation_gain(ops.abs) == pytest.approx(
        (1 - 2 / np.pi) ** -0.5, rel=1e-5
    )
    assert activation_gain("linear") == 1.0


@pytest.mark.parametrize("bad", ["nonsense", 7, lambda x: ops.zeros_like(x)])
def test_unknown_or_constant_activation_is_refused(bad):
    with pytest.raises(ValueError, match="activation"):
        ScaledActivation(bad)


def test_stochastic_depth_drops_whole_samples_and_does_not_rescale():
    layer = StochasticDepth(0.25, seed=3)
    x = np.ones((4000, 2, 2, 3), np.float32)
    kept = np.asarray(layer(x, training=True)).reshape(4000, -1)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert (kept.min(1) == kept.max(1)).all()
    assert kept[:, 0].mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_array_equal(layer(x), x)
    assert not np.array_equal(
        kept, np.reshape(layer(x, training=True), (4000, -1))
    )


def test_squeeze_excite_is_written_out():
    x = pictures()
    layer = SqueezeExcite(0.5)
    layer(x)
    randomize(layer)
    w1, b1, w2, b2 = map(np.asarray, layer.get_weights())
    hidden = np.maximum(x.mean((1, 2)) @ w1 + b1, 0)
    gate = 2 / (1 + np.exp(-(hidden @ w2 + b2)))
    np.testing.assert_allclose(
        layer(x), x * gate[:, None, None, :], rtol=1e-5, atol=1e-6
    )


def test_block_starts_as_its_shortcut():
    x = pictures()
    np.testing.assert_allclose(NFBlock(8, group_width=2)(x), x, atol=1e-6)


def test_mean_of_large_half_precision_maps_is_exact():
    x = np.full((1, 300, 300, 2), 3.0, np.float16)
    pooled = GlobalAveragePooling(dtype="mixed_float16")(x)
    np.testing.assert_array_equal(pooled, [[3, 3]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaledWSConv2D(0, 3), "filters"),
        (lambda: ScaledWSConv2D(10, 3, groups=4), "groups"),
        (lambda: ScaledWSConv2D(8, (1, 2, 3)), "kernel_size"),
        (lambda: ScaledWSConv2D(8, 3, padding="full"), "padding"),
        (lambda: ScaledWSConv2D(8, 3, data_format="channels_first"), "format"),
        (lambda: ScaledWSConv2D(9, 3, groups=3)(pictures()), "groups"),
        (lambda: ScaledWSConv2D(8, 3, eps=0), "eps"),
        (lambda: ScaledWSConv2D(8, 3, activation="nosuch"), "activation"),
        (lambda: ScaledWSConv2D(8, 3, strides=2, dilation_rate=2), "`strides`"),
        (lambda: ScaledWSConv2D(8, 3)(keras.Input((8, 8, None))), "channels"),
        (lambda: ScaledWSConv2D(8, 3, dtype="int8_from_float32"), "quantized"),
        (lambda: NFBlock(8, group_width=0), "group_width"),
        (lambda: NFBlock(8, alpha=-0.2), "alpha"),
        (lambda: NFBlock(8, bottleneck_ratio=0), "bottleneck_ratio"),
        (lambda: StochasticDepth(1.0), "rate"),
        (lambda: SqueezeExcite(0.01)(pictures()), "ratio"),
        (lambda: ScaledNormal(stddev=-1), "stddev"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_image_smaller_than_the_kernel_is_refused():
    for padding in ("valid", "symmetric"):
        layer = ScaledWSConv2D(8, 4, padding=padding)
        with pytest.raises(ValueError, match=f'"{padding}".*side=1, kernel_'):
            layer(keras.Input((None, 1, 8)))


def test_channels_first_is_refused_everywhere():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            ScaledWSConv2D(8, 3)
        from keras_nfnet import NFNetF0

        with pytest.raises(ValueError, match="channels_first"):
            NFNetF0(weights=None)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_scaled_normal_has_its_deviation_and_follows_the_seed():
    values = np.asarray(ScaledNormal(seed=1)((3, 3, 64, 2048)))
    assert values.std() == pytest.approx(576**-0.5, rel=0.01)
    np.testing.assert_array_equal(
        values, ScaledNormal(seed=1)((3, 3, 64, 2048))
    )
    assert not np.array_equal(values, ScaledNormal(seed=2)((3, 3, 64, 2048)))
    cut = np.asarray(ScaledNormal(stddev=1.0, truncated=True)((1000, 1500)))
    assert np.abs(cut).max() <= 2
    # The deviation of a standard normal cut at 2 is 0.8796.
    assert cut.std() == pytest.approx(0.8796, rel=0.01)


@pytest.mark.tensorflow
def test_exports_take_the_form_that_every_device_runs(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    layer = ScaledWSConv2D(128, 3, groups=4)
    layer.build((None, 8, 8, 128))

    def convolutions():
        graph = (
            tf.function(lambda x: layer(x), jit_compile=False)
            .get_concrete_function(tf.TensorSpec((None, 8, 8, 128)))
            .graph
        )
        return [op.type for op in graph.get_operations()].count("Conv2D")

    assert convolutions() == 1
    with grouped_convolution.portable_convolutions():
        assert convolutions() == 4


@pytest.mark.parametrize("shape", [(), (3, 3, 64, 64), (1, 1, 1024, 1024)])
def test_each_variable_keeps_its_own_draw(shape):
    first = keras.Variable(ScaledNormal(seed=1), shape=shape)
    second = keras.Variable(ScaledNormal(seed=2), shape=shape)
    drawn = np.array(second)
    first.assign(first + 1)
    np.testing.assert_array_equal(second, drawn)
    np.testing.assert_array_equal(
        first, np.array(ScaledNormal(seed=1)(shape)) + 1
    )
    assert np.all(drawn != np.array(ScaledNormal(seed=1)(shape)))


@pytest.mark.tensorflow
def test_a_layer_built_by_itself_takes_no_more_memory_than_it_holds(
    monkeypatch,
):
    from keras_nfnet.layers import fresh_memory

    empty, shapes = fresh_memory._empty, []

    def recorded(tf, shape):
        shapes.append(tuple(shape))
        return empty(tf, shape)

    monkeypatch.setattr(fresh_memory, "_empty", recorded)
    ScaledWSConv2D(16, 3).build((None, 8, 8, 16))
    assert shapes == [(3, 3, 16, 16)]


def _two_layers():
    """A build as `NFNet()` makes it, with kernels of 0.6 and 2.4 million."""
    inputs = keras.Input((8, 8, 256))
    x = ScaledWSConv2D(256, 3)(inputs)
    return keras.Model(inputs, ScaledWSConv2D(1024, 3)(x))


@pytest.mark.parametrize("memory", ["shared", "copied"])
def test_values_drawn_during_a_build_are_those_drawn_alone(memory, monkeypatch):
    """Also where variables turn out to hold copies, made too early."""
    builds = []

    def build():
        keras.utils.set_random_seed(7)
        builds.append(_two_layers())
        return builds[-1]

    with monkeypatch.context() as alone:
        alone.setattr(initializers, "_can_draw_in_background", lambda: False)
        expected = initializers.built_while_drawing(build).get_weights()
    if memory == "copied":
        monkeypatch.setattr(initializers, "_address", id)
    model = initializers.built_while_drawing(build)
    if keras.backend.backend() == "tensorflow":
        assert len(builds) == {"shared": 2, "copied": 3}[memory]
    assert model is builds[-1]
    for value, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)
    kernels = [v for v in model.trainable_variables if len(v.shape) == 4]
    kernels[0].assign(kernels[0] + 1)
    np.testing.assert_array_equal(
        kernels[1], [w for w in expected if w.ndim == 4][1]
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_an_activations_gradient_in_a_graph_is_the_derived_one(
    activation, dtype
):
    """The first one is written by hand, and the second follows from it."""
    import tensorflow as tf

    layer = ScaledActivation(activation, scale=0.9, dtype=dtype)
    x = tf.constant(np.linspace(-9, 9, 501), dtype)

    def values():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x)
            slope = inner.gradient(y, x)
        return y, slope, outer.gradient(slope, x)

    # The second derivative has differences of nearly equal numbers.
    bounds = {
        "float32": (1e-5, 1e-5, 1e-4),
        "float64": (1e-6, 1e-6, 1e-6),
        "bfloat16": (1e-2, 3e-2, 1e-1),
    }[dtype]
    pairs = zip(tf.function(values)(), values(), bounds, strict=True)
    for one, other, bound in pairs:
        assert one.dtype == dtype and one.shape == x.shape
        np.testing.assert_allclose(
            np.float64(one), np.float64(other), rtol=bound, atol=bound
        )


@pytest.mark.tensorflow
@pytest.mark.parametrize("eps_mode", ["floor", "add"])
@pytest.mark.parametrize("axis", [None, (0, 1), (0, 1, 3)])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_the_gradient_of_standardization_in_a_graph_is_the_derived_one(
    eps_mode, axis, spread
):
    """Also below `eps`, which is a floor or is added."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    kernel = tf.constant(
        spread * generator.normal(0.1, 1, (3, 3, 4, 8)), "float32"
    )
    units = {None: 8, (0, 1): 32, (0, 1, 3): 4}[axis]
    gain = tf.constant(generator.normal(1, 0.2, units), "float32")
    weights = tf.constant(generator.normal(size=kernel.shape), "float32")

    def values():
        with tf.GradientTape() as tape:
            tape.watch([kernel, gain])
            y = standardize(kernel, gain, 1e-3, eps_mode, axis)
            total = tf.reduce_sum(y * weights)
        return y, *tape.gradient(total, [kernel, gain])

    for one, other in zip(tf.function(values)(), values(), strict=True):
        scale = max(float(np.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("make", "rank"),
    [
        (lambda **options: ScaledWSConv2D(8, 3, groups=2, **options), None),
        (lambda **options: ScaledWSConv2D(8, 3, **options), 2),
        (lambda **options: ScaledWSDense(8, **options), None),
        (lambda **options: ScaledWSDense(8, **options), 2),
        # Keras has no LoRA for these.
        (lambda **options: ScaledWSDepthwiseConv2D(3, **options), None),
        (lambda **options: ScaledWSConv2DTranspose(8, 2, 2, **options), None),
    ],
    ids=["convolution", "convolution, LoRA", "dense", "dense, LoRA"]
    + ["depthwise", "transposed"],
)
def test_a_layer_in_a_graph_has_the_gradient_written_by_hand(make, rank, dtype):
    """Of variables and of LoRA's sum, and the gradients' shapes are known."""
    import tensorflow as tf

    layer, x = make(dtype=dtype), pictures()[..., :4]
    layer.build(x.shape)
    if rank is not None:
        layer.enable_lora(rank)
    randomize(layer)
    variables = layer.trainable_variables

    def values():
        with tf.GradientTape() as tape:
            y = tf.cast(layer(x), "float32")
            total = tf.reduce_sum(tf.sin(y))
        return tape.gradient(total, [each.value for each in variables])

    function = tf.function(values).get_concrete_function()
    types = {operation.type for operation in function.graph.get_operations()}
    # The derivative of `rsqrt`, which TensorFlow would derive.
    assert "RsqrtGrad" not in types
    bound = 1e-5 if dtype == "float32" else 2e-2
    for variable, shape, one, other in zip(
        variables, function.output_shapes, function(), values(), strict=True
    ):
        assert shape == variable.shape
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=bound, atol=bound * scale)
