"""AGC, its optimizer and the schedule."""

import keras
import numpy as np
import pytest

from keras_nfnet import SGDAGC, WarmupCosine, adaptive_clip
from keras_nfnet.optimizers import unitwise_norm
from keras_nfnet.optimizers.clipping import clip_all


def norms(x):
    axes = None if x.ndim < 2 else tuple(range(x.ndim - 1))
    return np.sqrt((np.asarray(x, np.float64) ** 2).sum(axes, keepdims=True))


@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (3, 2, 4), (3, 3, 2, 6)])
def test_clipped_norm_is_at_most_the_bound_unit_by_unit(shape):
    generator = np.random.default_rng(0)
    parameter = generator.standard_normal(shape).astype("float32")
    scale = 10.0 ** generator.uniform(-4, 2, shape[-1:])
    gradient = (generator.standard_normal(shape) * scale).astype("float32")
    clipped = np.asarray(adaptive_clip(gradient, parameter, 0.05))
    bound = 0.05 * np.maximum(norms(parameter), 1e-3)
    assert (norms(clipped) <= bound * (1 + 1e-5)).all()
    kept = np.broadcast_to(norms(gradient) <= bound, shape)
    np.testing.assert_array_equal(clipped[kept], gradient[kept])
    expected = gradient * np.minimum(1, bound / norms(gradient))
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)
    again = adaptive_clip(clipped, parameter, 0.05)
    np.testing.assert_allclose(again, clipped, rtol=1e-5)


def test_zero_parameters_have_the_floor_and_zero_gradients_stay():
    gradient = np.ones((4, 1), "float32")
    clipped = np.asarray(adaptive_clip(gradient, np.zeros((4, 1), "float32")))
    assert np.linalg.norm(clipped) == pytest.approx(0.01 * 1e-3, rel=1e-5)
    zero = adaptive_clip(np.zeros((4, 1), "float32"), gradient)
    np.testing.assert_array_equal(zero, 0)


def test_bad_bounds_and_shapes_are_named():
    with pytest.raises(ValueError, match="clipping"):
        adaptive_clip(np.ones(3), np.ones(3), clipping=0)
    with pytest.raises(ValueError, match="eps"):
        adaptive_clip(np.ones(3), np.ones(3), eps=-1)
    with pytest.raises(ValueError, match="shape"):
        adaptive_clip(np.ones(3), np.ones(4))


def test_steps_are_the_papers_written_out():
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((6, 4)).astype("float32")
    variable = keras.Variable(kernel, name="kernel")
    optimizer = SGDAGC(0.5, weight_decay=0.1, clipping=0.02)
    velocity, w = np.zeros_like(kernel), kernel.astype(np.float64)
    for _ in range(4):
        g = generator.standard_normal((6, 4)).astype("float32")
        optimizer.apply([keras.ops.array(g)], [variable])
        bound = 0.02 * np.maximum(norms(w), 1e-3)
        g = g * np.minimum(1, bound / norms(g)) + 0.1 * w
        velocity = 0.9 * velocity + g
        w = w - 0.5 * (g + 0.9 * velocity)
        np.testing.assert_allclose(variable, w, rtol=1e-5, atol=1e-6)


def test_the_papers_exclusions_are_the_default(tiny):
    model = tiny()
    optimizer = SGDAGC(0.1)
    optimizer.build(model.trainable_weights)
    for index, variable in enumerate(model.trainable_weights):
        classifier = variable.path == "predictions/kernel"
        assert optimizer._is_clipped[index] is not classifier
        decayed = variable.name == "kernel"
        assert optimizer._is_decayed[index] is decayed


def test_exclusions_are_settable_by_variable_ending_or_function():
    variables = [
        keras.Variable(np.ones((2, 2)), name=name) for name in ("a", "b")
    ]
    for rule in (variables[:1], ["a"], lambda variable: variable.name == "a"):
        optimizer = SGDAGC(
            0.1, exclude_from_clipping=rule, exclude_from_decay=rule
        )
        optimizer.build(variables)
        assert optimizer._is_clipped == [False, True]
        assert optimizer._is_decayed == [False, True]


@pytest.mark.parametrize(
    "argument", ["clipnorm", "clipvalue", "global_clipnorm"]
)
def test_keras_own_clipping_is_refused(argument):
    with pytest.raises(ValueError, match=argument):
        SGDAGC(0.1, **{argument: 1.0})


def test_optimizer_and_schedule_round_trip():
    optimizer = SGDAGC(WarmupCosine(0.4, 100, 10), clipping=0.02)
    config = keras.optimizers.serialize(optimizer)
    twin = keras.optimizers.deserialize(config)
    assert type(twin) is SGDAGC
    assert twin.get_config() == optimizer.get_config()


def test_schedule_warms_up_and_falls_to_zero():
    schedule = WarmupCosine(0.4, 100, 10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100, 200)]
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.2, 0, 0], atol=1e-7)
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupCosine(0.1, 10, 10)
    with pytest.raises(ValueError, match="peak"):
        WarmupCosine(-0.1, 10, 1)


def clipped_by_a_step(gradient, parameter, eps):
    """As an optimizer clips the gradients of all parameters."""
    clipped, _, _ = clip_all([gradient], [parameter], 0.01, eps, [(0,)])
    return clipped[0]


def compiled(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


@pytest.mark.parametrize("size", [1e15, 1e37, 3e38])
@pytest.mark.parametrize("parameter_size", [1.0, 1e20])
def test_gradients_of_any_finite_size_are_clipped(size, parameter_size):
    signs = np.where(np.arange(24) % 2, -1, 1).reshape(6, 4)
    gradient = (size * signs).astype("float32")
    parameter = np.full((6, 4), parameter_size, "float32")
    bound = 0.01 * norms(parameter)
    expected = gradient * np.minimum(1, bound / norms(gradient))
    clipped = adaptive_clip(gradient, parameter)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e15, 1e37, 3e38])
@pytest.mark.parametrize("eps", [1e-3, 1e-30])
@pytest.mark.parametrize("function", [adaptive_clip, clipped_by_a_step])
def test_a_compiled_step_clips_gradients_of_any_finite_size(
    size, eps, function
):
    """One product of two scales, as compilers may make it, would be 0."""
    generator = np.random.default_rng(0)
    parameter = generator.standard_normal((6, 4)).astype("float32")
    gradient = np.where(parameter > 0, size, -size).astype("float32")
    expected = gradient * (0.01 * norms(parameter) / norms(gradient))
    clipped = compiled(lambda g, w: function(g, w, eps=eps))(
        *map(keras.ops.convert_to_tensor, (gradient, parameter))
    )
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)


@pytest.mark.parametrize("power", [-60, 60, 100])
def test_scales_of_large_and_small_values_change_no_bit(power):
    generator = np.random.default_rng(0)
    gradient = generator.standard_normal((6, 4)).astype("float32")
    parameter = generator.standard_normal((6, 4)).astype("float32")
    scale = np.float32(2.0**power)
    if power > 0:  # The authors' 1e-6 guards the smallest norms.
        clipped = adaptive_clip(
            gradient * scale, parameter * scale, eps=1e-3 * float(scale)
        )
        expected = np.asarray(adaptive_clip(gradient, parameter)) * scale
        np.testing.assert_array_equal(clipped, expected)
    norm = np.asarray(unitwise_norm(gradient)) * scale
    np.testing.assert_array_equal(unitwise_norm(gradient * scale), norm)
    half = unitwise_norm(np.full((4, 1), 300, "float16"))
    np.testing.assert_array_equal(half, np.float16(600))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e37])
def test_a_step_is_skipped_as_a_whole_and_is_not_averaged(value):
    kernel = keras.Variable(np.ones((6, 4), "float32"), name="kernel")
    head = keras.Variable(np.ones((4, 3), "float32"), name="head")
    optimizer = SGDAGC(0.1, exclude_from_clipping=["head"], ema_decay=0.9)
    good = [keras.ops.ones((6, 4)), keras.ops.ones((4, 3))]
    # Not clipped, so that 1e37 would reach the weights.
    bad = np.ones((4, 3), "float32")
    bad[1, 1] = value
    optimizer.apply([good[0], keras.ops.array(bad)], [kernel, head])
    assert int(optimizer.skipped_steps) == 1
    for variable, average in optimizer.averages:
        np.testing.assert_array_equal(variable, 1)
        np.testing.assert_array_equal(average, 1)
    optimizer.apply(good, [kernel, head])
    assert int(optimizer.skipped_steps) == 1
    for variable, average in optimizer.averages:
        assert np.all(np.asarray(variable) < 1)
        expected = 0.1 + 0.9 * np.asarray(variable)
        np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_a_step_that_a_narrower_type_cannot_hold_is_skipped_as_a_whole():
    variables = [
        keras.Variable(np.ones(4), dtype="float16", name=name)
        for name in ("a", "b")
    ]
    optimizer = SGDAGC(0.1, exclude_from_clipping=None, ema_decay=0.9)
    optimizer.apply([keras.ops.full((4,), 1e6), keras.ops.ones(4)], variables)
    assert int(optimizer.skipped_steps) == 1
    for variable in variables:
        np.testing.assert_array_equal(variable, 1)
