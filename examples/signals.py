"""A normalizer-free network of one's own, on signals of one dimension.

    python examples/signals.py

Standardized convolutions, scaled activations and sums that know their
variance, from `keras_nfnet.layers`; `docs/own_networks.md` explains them. The
network tells apart four wave forms of unknown pitch and phase in noise. It is
checked at its start, trained with AGC, folded and exported to ONNX.
"""

import argparse

import keras
import numpy as np
import onnxruntime
import scipy.signal
from matplotlib.figure import Figure

import keras_nfnet

nf = keras_nfnet.layers
LENGTH = 256
FORMS = {
    "sine": np.sin,
    "square": scipy.signal.square,
    "sawtooth": scipy.signal.sawtooth,
    "triangle": lambda phase: scipy.signal.sawtooth(phase, 0.5),
}


def signals(count, seed=0):
    """`count` signals of each form, `(4 * count, LENGTH, 1)`, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(FORMS)), count)
    generator.shuffle(labels)
    pitch = generator.uniform(4, 12, (len(labels), 1))
    start = generator.uniform(0, 2 * np.pi, (len(labels), 1))
    phase = 2 * np.pi * pitch * np.linspace(0, 1, LENGTH) + start
    forms = list(FORMS.values())
    waves = np.stack([forms[k](p) for k, p in zip(labels, phase, strict=True)])
    waves /= waves.std(axis=1, keepdims=True)
    waves += generator.normal(0, 0.1, waves.shape)
    return waves[..., None].astype("float32"), labels


def network(width=64):
    """A residual network of logits for the four forms."""
    act = nf.ScaledActivation("silu")
    residual = nf.Residual("silu")
    inputs = keras.Input((LENGTH, 1))
    x = nf.ScaledWSConv1D(width, 7, strides=2)(inputs)
    for filters in (width, 2 * width):
        x = residual(
            x,
            [
                *(nf.ScaledWSConv1D(filters, 5, strides=2), act),
                nf.ScaledWSConv1D(filters, 5),
            ],
            shortcut=nf.ScaledWSConv1D(filters, 1, strides=2),
        )
        x = residual(
            x,
            [nf.ScaledWSConv1D(filters, 5), act, nf.ScaledWSConv1D(filters, 5)],
        )
    x = keras.layers.GlobalAveragePooling1D()(residual.activate(x))
    return keras.Model(inputs, keras.layers.Dense(len(FORMS))(x))


def export(model, path):
    """Writes the folded network; returns ONNX Runtime's function of it."""
    folded = keras_nfnet.fold(model)
    folded(keras.ops.zeros((1, LENGTH, 1)))  # Keras asks for a call.
    folded.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def plot(path, x, labels, found):
    names = list(FORMS)
    figure = Figure(figsize=(9, 4), layout="constrained")
    for index, axes in enumerate(figure.subplots(2, 4).flat):
        axes.plot(x[index, :, 0], linewidth=0.8)
        right = found[index] == labels[index]
        axes.set_title(names[found[index]], color="black" if right else "red")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


def main(out="signals.onnx", count=200, epochs=12, width=64):
    """Returns the accuracy of the file on signals that are held out."""
    keras.utils.set_random_seed(0)
    model = network(width)
    print(keras_nfnet.check_normalizer_free(model))
    model.compile(
        keras_nfnet.SGDAGC(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, labels = signals(count)
    model.fit(x, labels, batch_size=32, epochs=epochs, verbose=2)

    run = export(model, out)
    x, labels = signals(50, seed=1)
    logits = run(x)
    difference = np.abs(logits - model.predict(x, verbose=0)).max()
    found = logits.argmax(-1)
    accuracy = float(np.mean(found == labels))
    picture = f"{out.removesuffix('.onnx')}.png"
    plot(picture, x, labels, found)
    print(
        f"{out}: {accuracy:.1%} of {len(labels)} other signals, logits within "
        f"{difference:.0e} of the model's; see {picture}"
    )
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="signals.onnx")
    parser.add_argument("--count", type=int, default=200, help="of each form")
    parser.add_argument("--epochs", type=int, default=12)
    main(**vars(parser.parse_args()))
