"""A training loop of one's own in JAX.

    python examples/jax_training_loop.py

`stateless_call` and `stateless_apply` are Keras's functions for JAX: state
goes in and comes out. SGDAGC clips in `stateless_apply`, so that the loop has
no code for it. `get_state_tree` keeps the weights and the optimizer of the
best epoch. The data are scikit-learn's digits.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import argparse

import jax
import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import keras_nfnet

CONFIG = keras_nfnet.NFNetConfig((32, 64, 96), (1, 2, 1), group_width=16)
BATCH = 64


def data():
    """Normalized digits `(1797, 32, 32, 3)`, their labels, in random order."""
    digits = load_digits()
    pixels = np.float32(digits.images[..., None] * (255 / 16))
    images = keras.ops.image.resize(np.repeat(pixels, 3, axis=-1), (32, 32))
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.asarray(keras_nfnet.preprocess_input(images))
    return images[order], digits.target[order]


def functions_of(model, optimizer):
    """The compiled step and logits; a state is three lists of arrays."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def forward(trainable, non_trainable, x, y):
        logits, non_trainable = model.stateless_call(
            trainable, non_trainable, x, training=True
        )
        return loss_of(y, logits), non_trainable

    gradient = jax.value_and_grad(forward, has_aux=True)

    @jax.jit
    def step(state, x, y):
        trainable, non_trainable, optimizer_variables = state
        (loss, non_trainable), gradients = gradient(
            trainable, non_trainable, x, y
        )
        trainable, optimizer_variables = optimizer.stateless_apply(
            optimizer_variables, gradients, trainable
        )
        return loss, (trainable, non_trainable, optimizer_variables)

    @jax.jit
    def logits_of(state, x):
        return model.stateless_call(state[0], state[1], x, training=False)[0]

    return step, logits_of


def main(out="jax_training_loop.png", epochs=6, examples=1797, config=CONFIG):
    """Returns the model of the best epoch and its held-out accuracy."""
    keras.utils.set_random_seed(0)
    images, labels = (array[:examples] for array in data())
    last = len(images) // 5
    model = keras_nfnet.NFNet(
        config, weights=None, classes=10, classifier_activation=None
    )
    steps = epochs * ((len(images) - last) // BATCH)
    optimizer = keras_nfnet.SGDAGC(
        keras_nfnet.WarmupCosine(0.2, steps, warmup_steps=steps // 10)
    )
    model.compile(optimizer)
    optimizer.build(model.trainable_variables)
    step, logits_of = functions_of(model, optimizer)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
    )
    state = tuple([v.value for v in group] for group in variables)

    generator = np.random.default_rng(0)
    losses, best, tree = [], 0.0, None
    for epoch in range(epochs):
        order = generator.permutation(len(images) - last)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            loss, state = step(state, images[rows], labels[rows])
            losses.append(float(loss))
        predictions = logits_of(state, images[-last:]).argmax(-1)
        accuracy = float(np.mean(predictions == labels[-last:]))
        print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {accuracy:.1%}")
        if accuracy > best:
            best = accuracy
            for group, values in zip(variables, state, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)
            tree = model.get_state_tree(value_format="numpy_array")
    model.set_state_tree(tree)  # The weights and the optimizer's.

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(out, dpi=100)
    print(f"best: {best:.1%} of {last} held-out digits; see {out}")
    return model, best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", default="jax_training_loop.png", help="the plot"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--examples", type=int, default=1797)
    main(**vars(parser.parse_args()))
