"""Twenty steps of small networks on meshes of eight devices and on one.

    python tests/sharded_run.py OUT.json

In a process of its own: JAX makes its virtual devices once. Writes the
largest differences from one device, and what each device holds.
"""

import contextlib
import dataclasses
import doctest
import json
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0"  # To compile faster.
)

import keras
import numpy as np

import keras_nfnet
from keras_nfnet import layers

STEPS, BATCH, CLASSES = 20, 8, 10
NFNET = keras_nfnet.NFNetConfig((32,), (1,), group_width=8)
# Four devices do not divide its channels; with dropout.
REGNET = dataclasses.replace(
    keras_nfnet.VARIANTS["RegNet-B0"],
    widths=(78,),
    depths=(1,),
    stochastic_depth_rate=0.3,
    head_initializer="normal",
)


def network(config):
    return keras_nfnet.NFNet(
        config, weights=None, classes=CLASSES, input_shape=(32, 32, 3)
    )


def own():
    """A model of layers of the package, and two of Keras."""
    inputs = keras.Input((16, 16, 3))
    x = layers.ScaledWSConv2D(24, 3, strides=2)(inputs)
    x = layers.ScaledActivation("silu")(x)
    x = layers.ScaledWSDepthwiseConv2D(3)(x)
    x = layers.SqueezeExcite(0.25)(x)
    x = layers.ScaledWSConv2DTranspose(16, 3, strides=2)(x)
    x = layers.ScaledActivation("silu")(x)
    x = layers.ScaledWSSeparableConv2D(20, 3, strides=2)(x)
    x = keras.layers.Conv2D(8, 3, activation="silu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(x)
    return type(network(NFNET))(inputs, outputs)


def scope(mesh):
    if mesh is None:
        return contextlib.nullcontext()
    mesh = keras.distribution.DeviceMesh(mesh, ("batch", "model"))
    return keras.distribution.ModelParallel(
        layout_map=keras_nfnet.layout_map(mesh), batch_dim_name="batch"
    ).scope()


def number(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


def trained(build):
    """What twenty steps leave, as arrays by name; and the model."""
    keras.utils.set_random_seed(0)
    model = build()
    generator = np.random.default_rng(1)
    for variable in model.trainable_weights:
        if variable.name == "skip_gain":
            variable.assign(generator.uniform(0.3, 0.7))
    model.compile(
        keras_nfnet.SGDAGC(0.01, ema_decay=0.9),
        keras.losses.CategoricalCrossentropy(),
    )
    images = generator.standard_normal((STEPS * BATCH, *model.input_shape[1:]))
    labels = generator.integers(0, CLASSES, STEPS * BATCH)
    steps = []
    model.fit(
        images.astype("float32"),
        np.eye(CLASSES, dtype="float32")[labels],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda _, logs: steps.append(dict(logs))
            )
        ],
    )
    arrays = {
        f"log {name}": np.array([float(step[name]) for step in steps])
        for name in steps[0]
    }
    for variable in model.variables + model.optimizer.variables:
        arrays[variable.path] = number(variable)
    return arrays, model


def largest_difference(found, expected):
    """Over all arrays, relative to the largest value of each."""
    assert found.keys() == expected.keys()
    return {
        name: float(
            np.abs(found[name] - values).max() / (np.abs(values).max() or 1)
        )
        for name, values in expected.items()
        if values.dtype.kind == "f"
    }


def held(variables):
    """Bytes on each device."""
    bytes_by_device = {}
    for variable in variables:
        for shard in variable.value.addressable_shards:
            device = shard.device.id
            before = bytes_by_device.get(device, 0)
            bytes_by_device[device] = before + shard.data.nbytes
    return list(bytes_by_device.values())


def layouts(variables):
    """Axes of the mesh, by the path of what is not replicated."""
    return {
        variable.path: list(variable.value.sharding.spec)
        for variable in variables
        if not variable.value.is_fully_replicated
    }


results = []
for name, build, meshes in (
    ("NFNet", lambda: network(NFNET), ((2, 4),)),
    ("RegNet", lambda: network(REGNET), ((2, 4),)),
    ("own", own, ((1, 8),)),
):
    keras.backend.clear_session()
    expected, model = trained(build)
    alone = held(model.variables + model.optimizer.variables)
    for mesh in meshes:
        keras.backend.clear_session()
        with scope(mesh):
            found, model = trained(build)
            variables = model.variables + model.optimizer.variables
            # The classifier of another model, such as a loaded one, has the
            # same name and another shape.
            keras.layers.Dense(3, name="predictions").build((None, 8))
            results.append(
                {
                    "network": name,
                    "mesh": mesh,
                    "differences": largest_difference(found, expected),
                    "clipped": list(found["log clipped"]),
                    "alone": alone,
                    "held": held(variables),
                    "parameters": held(model.trainable_variables),
                    "layouts": layouts(variables),
                    "shapes": {v.path: v.shape for v in model.variables},
                }
            )
keras.backend.clear_session()
names = {"keras": keras, "keras_nfnet": keras_nfnet}
(example,) = doctest.DocTestFinder().find(
    keras_nfnet.layout_map, "layout_map", globs=names
)
failed, attempted = doctest.DocTestRunner().run(example)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({"runs": results, "example": [failed, attempted]}, file)
