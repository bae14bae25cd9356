"""One run of three steps on an engine, in a process of its own.

    python tests/distributed_run.py OUT.npz STRATEGY [--clip-before-sum]
        [--devices N] [--refusals] [--sam FRACTION]

Writes the final weights, momenta and logs. Half of each batch has images
ten times larger, so that one replica's gradients dwarf the others'.
"""

# ruff: noqa: E402

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("strategy")
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--clip-before-sum", action="store_true")
parser.add_argument("--refusals", action="store_true")
parser.add_argument("--sam", type=float)
options = parser.parse_args()

backend = os.environ["KERAS_BACKEND"]
if backend == "jax":
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={options.devices}"
    )

import keras
import numpy as np
import tensorflow as tf

import keras_nfnet
from keras_nfnet import SGDAGC, adaptive_clip
from keras_nfnet.training.distribution import engine_for
from keras_nfnet.training.evaluate import Evaluation

STEPS, BATCH = 3, 16
if backend == "tensorflow" and options.devices > 1:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * options.devices,
    )


class ClipsBeforeSum(SGDAGC):
    """The mistake: clips where only one replica's gradient is at hand."""

    def apply(self, grads, trainable_variables=None):
        grads = [
            gradient
            if "predictions/kernel" in variable.path
            else adaptive_clip(gradient, variable)
            for gradient, variable in zip(
                grads,
                trainable_variables or self._trainable_variables,
                strict=True,
            )
        ]
        super().apply(grads, trainable_variables)


def clip_parts(model, parts):
    """The same mistake on JAX, where gradients come summed: part by part."""
    import jax
    import jax.numpy as jnp

    def train_step(state, data):
        trainable, others, optimizer_variables, metrics = state
        x, y = data
        sums = None
        for index in range(parts):
            rows = slice(index * BATCH // parts, (index + 1) * BATCH // parts)
            gradients = jax.grad(
                lambda w, rows=rows: (
                    model.compute_loss_and_updates(
                        w,
                        others,
                        metrics,
                        x[rows],
                        y[rows],
                        None,
                        training=True,
                        optimizer_variables=optimizer_variables,
                    )[0]
                    / parts
                )
            )(trainable)
            gradients = [
                g if "predictions/kernel" in v.path else adaptive_clip(g, w)
                for g, w, v in zip(
                    gradients,
                    trainable,
                    model.trainable_variables,
                    strict=True,
                )
            ]
            sums = (
                gradients
                if sums is None
                else [a + b for a, b in zip(sums, gradients, strict=True)]
            )
        trainable, optimizer_variables = model.optimizer.stateless_apply(
            optimizer_variables, sums, trainable
        )
        logs = {"loss": jnp.zeros(())}
        return logs, (trainable, others, optimizer_variables, metrics)

    model.train_step = train_step


def batches():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((STEPS, BATCH, 32, 32, 3))
    images[:, BATCH // 2 :] *= 10
    labels = generator.integers(0, 10, (STEPS, BATCH))
    return images.astype("float32"), np.eye(10, dtype="float32")[labels]


def part(index, count):
    images, labels = batches()
    rows = slice(index * BATCH // count, (index + 1) * BATCH // count)
    dataset = tf.data.Dataset.from_tensor_slices(
        (images[:, rows], labels[:, rows])
    )
    return dataset


def build(optimizer):
    keras.utils.set_random_seed(0)
    model = keras_nfnet.NFNet(
        keras_nfnet.NFNetConfig((16,), (1,), group_width=8),
        weights=None,
        classes=10,
        input_shape=(32, 32, 3),
    )
    generator = np.random.default_rng(1)
    for variable in model.trainable_weights:
        if variable.name == "skip_gain":
            variable.assign(generator.uniform(0.3, 0.7))
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(),
        sam_rho=0.05 if options.sam else None,
        sam_fraction=options.sam or 1.0,
    )
    return model


def refusals():
    """What the engine cannot do, asked for before the first step."""
    cases = {
        "accumulate": {"gradient_accumulation_steps": 2},
    }
    messages = {}
    for name, arguments in cases.items():
        try:
            build(SGDAGC(0.1, **arguments))
            messages[name] = ""
        except ValueError as error:
            messages[name] = str(error)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        build(SGDAGC(0.1))
        messages["float16"] = ""
    except ValueError as error:
        messages["float16"] = str(error)
    keras.config.set_dtype_policy("float32")
    for name, arguments in {
        "several steps": {"steps_per_execution": 2},
        "XLA": {"jit_compile": True},
    }.items():
        model = build(SGDAGC(0.1))
        try:
            model.compile(SGDAGC(0.1), "categorical_crossentropy", **arguments)
            messages[name] = ""
        except ValueError as error:
            messages[name] = str(error)
    try:
        engine_for(options.strategy, batch_size=BATCH + 1)
        messages["batch"] = ""
    except ValueError as error:
        messages["batch"] = str(error)
    return messages


engine = engine_for(options.strategy, BATCH)
optimizer_class = SGDAGC
if options.clip_before_sum and backend == "tensorflow":
    optimizer_class = ClipsBeforeSum
with engine.running():
    with engine.scope():
        model = build(optimizer_class(0.01, ema_decay=0.9))
    if options.clip_before_sum and backend == "jax":
        clip_parts(model, 2)
    history = model.fit(
        engine.distributed(part),
        steps_per_epoch=STEPS,
        epochs=1,
        verbose=0,
        shuffle=False,
    ).history
    images, labels = batches()
    # 13 pictures: no number of replicas divides them.
    rest = (images[0][:13], labels[0][:13])
    evaluated = Evaluation(model, engine, BATCH)([rest])
    arrays = {
        f"weight {i}": np.asarray(keras.ops.convert_to_numpy(variable))
        for i, variable in enumerate(model.trainable_variables)
    }
    for i, variable in enumerate(model.optimizer.variables):
        if variable.dtype == "float32" and variable.shape:
            arrays[f"optimizer {i}"] = np.asarray(
                keras.ops.convert_to_numpy(variable)
            )
    messages = {}
    if options.refusals:
        with engine.scope():
            messages = refusals()
np.savez(
    options.out if engine.chief else f"{options.out}.{engine.worker}.npz",
    replicas=engine.replicas,
    workers=engine.workers,
    loss=history["loss"][-1],
    evaluated=[evaluated[k] for k in ("loss", "accuracy", "top5")],
    messages=np.array([f"{k}\n{v}" for k, v in messages.items()]),
    **arrays,
)
