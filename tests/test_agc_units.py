"""AGC's units by the layer that owns a kernel, and the head by its role."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_nfnet import SGDAGC, adaptive_clip, with_agc
from keras_nfnet.optimizers import unitwise_norm

MATRIX, VOLUME = (5, 6), (4, 4, 4, 6)
IMAGE, SEQUENCE = (5, 5, 6), (5, 6)

# A layer, the shape of its input, and for each variable the axes that are
# summed over in one unit: all but those of an output channel.
UNITS = {
    "Dense": (lambda: layers.Dense(3), MATRIX, {"kernel": (0,), "bias": (0,)}),
    "Conv1D": (lambda: layers.Conv1D(4, 3), SEQUENCE, {"kernel": (0, 1)}),
    "Conv2D": (lambda: layers.Conv2D(4, 3), IMAGE, {"kernel": (0, 1, 2)}),
    "Conv2D in groups": (
        lambda: layers.Conv2D(4, 3, groups=2),
        IMAGE,
        {"kernel": (0, 1, 2)},
    ),
    "Conv3D": (lambda: layers.Conv3D(4, 3), VOLUME, {"kernel": (0, 1, 2, 3)}),
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(3, depth_multiplier=2),
        SEQUENCE,
        {"kernel": (0,)},
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        IMAGE,
        {"kernel": (0, 1)},
    ),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(4, 3),
        SEQUENCE,
        {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)},
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(4, 3),
        IMAGE,
        {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
    ),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(4, 3),
        SEQUENCE,
        {"kernel": (0, 2)},
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(4, 3),
        IMAGE,
        {"kernel": (0, 1, 3)},
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(4, 3),
        VOLUME,
        {"kernel": (0, 1, 2, 4)},
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense(
            "abc,dce->abde", (None, 3, 4), bias_axes="de"
        ),
        SEQUENCE,
        {"kernel": (1,), "bias": (0, 1)},
    ),
    "EinsumDense with dots": (
        lambda: layers.EinsumDense("...x,yx->...y", 3),
        SEQUENCE,
        {"kernel": (1,)},
    ),
    "Embedding": (
        lambda: layers.Embedding(7, 4),
        (5,),
        {"embeddings": (0,)},
    ),
    "LayerNormalization": (
        lambda: layers.LayerNormalization(axis=(1, 2)),
        SEQUENCE,
        {"gamma": (0, 1), "beta": (0, 1)},
    ),
    "GRU": (
        lambda: layers.GRU(3),
        SEQUENCE,
        {"kernel": (0,), "recurrent_kernel": (0,), "bias": (0, 1)},
    ),
    "PReLU": (lambda: layers.PReLU(), SEQUENCE, {"alpha": (0, 1)}),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Conv2DTranspose(3, 2)),
        (2, 4, 4, 5),
        {"kernel": (0, 1, 3)},
    ),
}


def check_one_step(variables, axes_of):
    """One step of rate 1 on gradients of which most are clipped."""
    generator = np.random.default_rng(0)
    for variable in variables:
        variable.assign(generator.standard_normal(variable.shape))
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    gradients = [
        generator.standard_normal(v.shape).astype("float32")
        * 10.0 ** generator.uniform(-3, 1, v.shape[-1:]).astype("float32")
        for v in variables
    ]
    optimizer = SGDAGC(
        1.0, momentum=0, weight_decay=0, exclude_from_clipping=None
    )
    optimizer.apply([keras.ops.array(g) for g in gradients], variables)
    for variable, old, gradient in zip(
        variables, before, gradients, strict=True
    ):
        axis = axes_of(variable)
        expected = old - np.asarray(
            adaptive_clip(gradient, old, 0.01, axis=axis)
        )
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable),
            expected,
            rtol=1e-6,
            atol=1e-6,
            err_msg=variable.path,
        )


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_an_output_channel_of_the_layer(name):
    make, shape, axes = UNITS[name]
    layer = make()
    layer.build((2, *shape))
    variables = [v for v in layer.trainable_variables if v.name in axes]
    assert {v.name for v in variables} == set(axes)
    check_one_step(variables, lambda variable: axes[variable.name])


@pytest.mark.parametrize(
    "attention", [layers.MultiHeadAttention, layers.GroupQueryAttention]
)
def test_a_unit_of_attention_is_a_channel_of_a_head(attention):
    heads = {"num_heads": 2, "key_dim": 3}
    if attention is layers.GroupQueryAttention:
        heads = {"head_dim": 3, "num_query_heads": 2, "num_key_value_heads": 1}
    layer = attention(**heads)
    layer.build((2, 5, 6), (2, 5, 6))
    output = [v for v in layer.trainable_variables if "output" in v.path]
    assert output

    def axes_of(variable):
        if variable.name == "bias":
            return tuple(range(len(variable.shape)))
        return (0, 1) if "output" in variable.path else (0,)

    check_one_step(layer.trainable_variables, axes_of)


def test_a_layer_of_ones_own_says_what_its_units_are():
    class Turned(layers.Layer):
        unit_axes = {"turned": 1}

        def build(self, shape):
            self.turned = self.add_weight((4, shape[-1]), name="turned")
            self.plain = self.add_weight((shape[-1], 4), name="plain")

    layer = Turned()
    layer.build((2, 3))
    check_one_step(
        layer.trainable_variables,
        lambda v: (1,) if v.name == "turned" else (0,),
    )
    Turned.unit_axes = {"turned": (0, 5)}
    with pytest.raises(ValueError, match="axis=.*5"):
        SGDAGC(0.1).build(layer.trainable_variables)


def test_norms_and_clipping_take_axes():
    kernel = np.ones((3, 3, 16, 1), "float32")
    assert unitwise_norm(kernel).shape == (1, 1, 1, 1)
    assert unitwise_norm(kernel, (0, 1)).shape == (1, 1, 16, 1)
    assert unitwise_norm(kernel, -1).shape == (3, 3, 16, 1)
    clipped = adaptive_clip(kernel, kernel, 0.5, axis=(0, 1))
    np.testing.assert_allclose(clipped, 0.5, rtol=1e-6)
    for axis in (4, (0, 0), (0, -4), 1.5, True, "all"):
        with pytest.raises(ValueError, match="axis="):
            adaptive_clip(kernel, kernel, axis=axis)


def unclipped(model, optimizer=None, **options):
    optimizer = optimizer or SGDAGC(0.1, **options)
    optimizer.build(model.trainable_variables)
    return [
        "/".join(variable.path.split("/")[-2:])
        for variable, is_clipped in zip(
            model.trainable_variables, optimizer._is_clipped, strict=True
        )
        if not is_clipped
    ]


def backbone(**kwargs):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Conv2D(4, 3, name="conv")(image), **kwargs)


def pooled(model):
    return layers.GlobalAveragePooling2D()(model.output)


def dense(x, name="head", **kwargs):
    return layers.Dense(3, name=name, **kwargs)(x)


def with_hidden_layer():
    base = backbone()
    hidden = dense(pooled(base), "hidden", activation="relu")
    return keras.Model(base.input, dense(hidden))


def with_steps_after():
    base = backbone()
    x = layers.Rescaling(0.5)(dense(layers.Dropout(0.1)(pooled(base))))
    return keras.Model(base.input, layers.Softmax(dtype="float32")(x))


def of_1x1_convolution():
    base = backbone()
    x = layers.Conv2D(3, 1, name="head")(base.output)
    return keras.Model(base.input, layers.GlobalAveragePooling2D()(x))


def with_backbone_as_a_layer():
    image, base = keras.Input((8, 8, 3)), backbone()
    x = layers.GlobalAveragePooling2D()(base(image))
    return keras.Model(image, dense(x))


def whole_as_a_layer():
    image, base = keras.Input((8, 8, 3)), with_hidden_layer()
    return keras.Model(image, layers.Softmax()(base(image)))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(3, name="head"),
            layers.Softmax(),
        ]
    )


@pytest.mark.parametrize(
    "make",
    [
        with_hidden_layer,
        with_steps_after,
        of_1x1_convolution,
        with_backbone_as_a_layer,
        whole_as_a_layer,
        sequential,
    ],
)
def test_the_head_is_not_clipped_whatever_its_name(make):
    assert unclipped(make()) == ["head/kernel"]
    adam = with_agc(keras.optimizers.AdamW)(0.1)
    assert unclipped(make(), adam) == ["head/kernel"]


def test_every_head_of_several_is_left_out():
    base = backbone()
    x = pooled(base)
    outputs = {"a": dense(x, "a"), "b": [dense(x, "b"), dense(x, "c")]}
    model = keras.Model(base.input, outputs)
    assert set(unclipped(model)) == {"a/kernel", "b/kernel", "c/kernel"}


def test_what_ends_in_no_classifier_is_clipped_whole():
    assert unclipped(backbone()) == []
    base = backbone()
    x = layers.Conv2D(3, 3, name="head")(base.output)
    assert unclipped(keras.Model(base.input, x)) == []
    # A layer named as the package's head is not one for its name.
    x = dense(pooled(base), "predictions")
    model = keras.Model(base.input, dense(x, "last"))
    assert unclipped(model) == ["last/kernel"]


def test_the_compiled_model_decides_where_two_share_variables():
    whole = with_hidden_layer()
    hidden = keras.Model(whole.input, whole.get_layer("hidden").output)
    optimizer = SGDAGC(0.1)
    hidden.compile(optimizer, "mse")
    assert unclipped(hidden, optimizer) == ["hidden/kernel"]
    optimizer = SGDAGC(0.1)
    whole.compile(optimizer, "mse")
    assert unclipped(whole, optimizer) == ["head/kernel"]


VECTORS = {
    "batch": layers.BatchNormalization,
    "layer": lambda: layers.LayerNormalization(axis=(1, 2)),
    "group": lambda: layers.GroupNormalization(2),
    "rms": lambda: layers.RMSNormalization(axis=(1, 2)),
    "prelu": layers.PReLU,
    "bias": lambda: layers.EinsumDense(
        "abc,cde->abde", (None, 2, 3), bias_axes="de"
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_never_decay(name):
    layer = VECTORS[name]()
    layer.build((2, *SEQUENCE))
    for optimizer in (
        SGDAGC(0.1, weight_decay=0.5),
        with_agc(keras.optimizers.AdamW)(0.1, weight_decay=0.5),
        with_agc(keras.optimizers.SGD)(0.1, weight_decay=0.5),
    ):
        variables = layer.trainable_variables
        for variable in variables:
            variable.assign(np.ones(variable.shape))
        optimizer.apply(
            [keras.ops.zeros(v.shape) for v in variables], variables
        )
        for variable in variables:
            decays = variable.name == "kernel"
            is_one = (keras.ops.convert_to_numpy(variable) == 1).all()
            assert is_one != decays, variable.path


@pytest.mark.parametrize(
    "argument", ["exclude_from_clipping", "exclude_from_decay"]
)
def test_a_rule_that_names_no_variable_is_refused(argument):
    model = with_hidden_layer()
    for rule in (
        ["hidden"],
        ["hidden/kernel", "nothing/kernel"],
        lambda v: False,
        [keras.Variable(1.0)],
        "ead/kernel",
    ):
        with pytest.raises(ValueError, match=argument):
            unclipped(model, **{argument: rule})
    for rule in (3, [3], [["hidden/kernel"]]):
        with pytest.raises(ValueError, match=argument):
            SGDAGC(0.1, **{argument: rule})


def test_a_variable_names_itself_and_not_its_namesake():
    one, two = with_hidden_layer(), with_hidden_layer()
    kernel = one.trainable_variables[0]
    optimizer = SGDAGC(0.1, exclude_from_clipping=[kernel])
    optimizer.build(one.trainable_variables + two.trainable_variables)
    assert optimizer._is_clipped.count(False) == 1
    with pytest.raises(ValueError, match="cannot be saved.*2 variables"):
        optimizer.get_config()


@keras.saving.register_keras_serializable(package="test_agc_units")
def is_convolution(variable):
    return "conv" in variable.path


def test_a_rule_that_cannot_be_loaded_is_refused_when_saved(tmp_path):
    model = with_hidden_layer()
    model.compile(
        SGDAGC(0.1, exclude_from_clipping=lambda v: "conv" in v.path), "mse"
    )
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="exclude_from_clipping"):
        model.save(tmp_path / "model.keras")
    model.compile(SGDAGC(0.1, exclude_from_clipping=is_convolution), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert unclipped(again, again.optimizer) == ["conv/kernel", "conv/bias"]


@pytest.mark.tensorflow
def test_a_gradient_whose_shape_tensorflow_does_not_know_is_clipped():
    """Such as one that a function of one's own returns."""
    import tensorflow as tf

    class Own(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight((shape[-1], 3), name="kernel")
            self.bias = self.add_weight((3,), name="bias")

        def call(self, x):
            @tf.custom_gradient
            def plain(kernel):
                def gradient(upstream):
                    return tf.numpy_function(np.array, [upstream], tf.float32)

                return tf.identity(kernel), gradient

            return x @ plain(tf.convert_to_tensor(self.kernel)) + self.bias

    x, y = np.ones((4, 5), "float32"), np.arange(12.0).reshape(4, 3)
    results = []
    for eagerly in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([Own()])
        model.compile(SGDAGC(0.1, clipping=0.02), "mse", run_eagerly=eagerly)
        model.fit(x, y, epochs=2, verbose=0)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
