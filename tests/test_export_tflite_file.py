"""Tests of how the values of a TFLite file get into it."""

import os

import keras
import numpy as np
import pytest
from test_fold import network

import keras_nfnet
from keras_nfnet.export import tflite, to_tflite
from keras_nfnet.export.contract import contract_of

pytestmark = pytest.mark.tensorflow
SIDES = (32, 32)


@pytest.fixture(scope="module")
def nfnet():
    return network(input_shape=(*SIDES, 3), classifier_activation=None)


def of_layers(kind):
    """A small model with what `kind` says among its layers."""
    layers = keras_nfnet.layers
    x = inputs = keras.Input((*SIDES, 3))
    x = layers.ScaledWSConv2D(32, 3, strides=2)(x)
    if kind == "depthwise":
        x = layers.ScaledWSDepthwiseConv2D(7, depth_multiplier=2)(x)
        x = layers.ScaledWSSeparableConv2D(64, 3)(x)
        x = layers.ScaledWSConv2D(64, 9, groups=64)(x)
    if kind == "transposed":
        x = layers.ScaledWSConv2DTranspose(32, 4, strides=2)(x)
    if kind == "ones":
        x = keras.layers.ReLU()(x) + keras.ops.ones((1, 16, 16, 32))
    if kind == "shared":
        shared = layers.ScaledWSConv2D(32, 3)
        x = shared(keras.layers.ReLU()(shared(x)))
    if kind == "zeros":
        x = x + layers.ScaledWSConv2D(32, 3, gain_initializer="zeros")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(64, use_bias=False)(keras.layers.Dense(40)(x))
    return keras.Model(inputs, keras.layers.Dense(10, "softmax")(x))


def operations(path):
    """What a file computes: operations with their constants' values.

    Without the conversions of 16-bit constants, which are in no order, and
    these constants.
    """
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (graph,) = model.subgraphs

    def described(index):
        if index < 0:
            return None
        tensor = graph.tensors[index]
        data = model.buffers[tensor.buffer].data
        scales = getattr(tensor.quantization, "scale", None)
        return (
            tensor.type,
            np.atleast_1d(tensor.shape).tolist(),
            None if data is None else bytes(data),
            None if scales is None else np.asarray(scales).tolist(),
        )

    found, halves = [], set()
    for operation in graph.operators:
        code = model.operatorCodes[operation.opcodeIndex]
        options = operation.builtinOptions
        inputs = [described(index) for index in operation.inputs]
        if code.builtinCode == BuiltinOperator.DEQUANTIZE:
            halves.add(str(inputs))
            continue
        found.append(
            (
                (code.builtinCode, code.version),
                options and vars(options),
                inputs,
            )
        )
    return found, halves


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic_int8"])
@pytest.mark.parametrize(
    "kind", ["nfnet", "depthwise", "transposed", "ones", "shared", "zeros"]
)
def test_what_is_written_is_the_converters_own_file(
    kind, precision, nfnet, tmp_path
):
    """Though the weights are put in, and made integers, one by one."""
    import tensorflow as tf

    model = nfnet if kind == "nfnet" else of_layers(kind)
    folded = keras_nfnet.fold(model, "float32")
    contract = contract_of(model, "0-255")
    found = tmp_path / "found.tflite"
    tflite._converted(folded, contract, precision, None, SIDES).write(found)
    own = tmp_path / "own.tflite"
    own.write_bytes(
        tflite._convert(folded, contract, precision, tf.constant, SIDES)
    )
    assert operations(found) == operations(own)
    # Also what several tensors share.
    assert os.path.getsize(found) == pytest.approx(
        os.path.getsize(own), abs=500
    )


@pytest.mark.parametrize("precision", tflite.PRECISIONS)
def test_values_behind_the_structure_are_read_too(
    precision, nfnet, tmp_path, monkeypatch
):
    """As they lie in a file of more than 2 GB."""
    from keras_nfnet.export import tflite_file

    pixels = np.float32(
        np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    )
    outputs = []
    for largest in (tflite_file._LARGEST, 0):
        monkeypatch.setattr(tflite_file, "_LARGEST", largest)
        path = tmp_path / f"{largest}.tflite"
        calibration = pixels if precision == "int8" else None
        report = to_tflite(nfnet, path, precision, calibration)
        assert report.size == os.path.getsize(path)
        outputs.append(tflite.runner(path)(pixels))
    np.testing.assert_array_equal(*outputs)


def test_a_weight_without_its_number_is_left_to_the_converter():
    import tensorflow as tf

    from keras_nfnet.export.tflite_file import StandIns, TFLiteFile, Unfit

    stand_ins = StandIns()
    kernel = stand_ins.constant(np.zeros((40, 40), "float32"))

    @tf.function(input_signature=[tf.TensorSpec((1, 40), name="images")])
    def product(images):
        return tf.matmul(images, kernel)

    content = tf.lite.TFLiteConverter.from_concrete_functions(
        [product.get_concrete_function()]
    ).convert()
    TFLiteFile(content, stand_ins)
    stand_ins.weights[0] = np.zeros((10, 160))
    with pytest.raises(Unfit, match="a kernel of"):
        TFLiteFile(content, stand_ins)
    stand_ins.weights = [np.zeros((40, 40))] * 2
    with pytest.raises(Unfit, match="1 weights have no place"):
        TFLiteFile(content, stand_ins)
