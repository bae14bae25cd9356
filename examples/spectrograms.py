"""Tell sounds apart by their spectrograms, in a file for OpenVINO.

    pip install 'keras-nfnet[train,openvino]'
    python examples/spectrograms.py
    python examples/spectrograms.py --out sounds.onnx

Four kinds of sounds are generated in noise. `ECANFNetL0` classifies images of
one channel, their decibels as pixels of 0 to 255. The file takes these pixels
and normalizes them itself.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
import scipy.signal
from matplotlib.figure import Figure

import keras_nfnet

RATE = 16000  # samples a second
NAMES = ("rising", "falling", "warbling", "pulses")


def sounds(count, seed=0):
    """`count` sounds of each kind, one second long, and their labels."""
    generator = np.random.default_rng(seed)
    time = np.arange(RATE) / RATE
    waves = []
    for _ in range(count):
        low, high = generator.uniform(300, 1500), generator.uniform(3000, 7000)
        speed = generator.uniform(3, 8)
        warble = np.cumsum(low + 400 * np.sin(2 * np.pi * speed * time)) / RATE
        pulse = scipy.signal.gausspulse(
            (time * speed) % 1 / speed - 0.05, fc=(low + high) / 2, bw=0.2
        )
        waves += [
            scipy.signal.chirp(time, low, 1, high),
            scipy.signal.chirp(time, high, 1, low),
            np.sin(2 * np.pi * warble),
            3 * pulse,
        ]
    waves = np.stack(waves) + generator.normal(0, 0.5, (4 * count, RATE))
    return waves, np.tile(np.arange(4), count)


def spectrograms(waves, size=128):
    """Pixels of 0 to 255, `(batch, size, size, 1)`, low frequencies first."""
    *_, power = scipy.signal.spectrogram(waves, RATE, nperseg=256, noverlap=128)
    decibels = 10 * np.log10(power + 1e-12)
    decibels -= decibels.max(axis=(1, 2), keepdims=True)
    pixels = 255 * (1 + np.maximum(decibels, -60) / 60)
    resized = keras.ops.image.resize(
        pixels[..., None].astype("float32"), (size, size)
    )
    return keras.ops.convert_to_numpy(resized)


def export(model, path):
    """Writes the file; returns its own runtime's function of pixels."""
    if Path(path).suffix == ".xml":
        print(keras_nfnet.export.to_openvino(model, path, overwrite=True))
        import openvino

        compiled = openvino.Core().compile_model(path)
        return lambda pixels: compiled(pixels)[0]
    print(keras_nfnet.export.to_onnx(model, path, overwrite=True))
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda pixels: session.run(None, {"images": pixels})[0]


def plot(path, pixels, labels, probabilities):
    figure = Figure(figsize=(10, 5), layout="constrained")
    for index, axes in enumerate(figure.subplots(2, 4).flat):
        found = probabilities[index].argmax()
        axes.imshow(pixels[index, ..., 0], origin="lower", cmap="magma")
        axes.set_title(
            f"{NAMES[found]} ({probabilities[index, found]:.0%})",
            color="black" if found == labels[index] else "red",
        )
        axes.set(xticks=[], yticks=[])
    figure.supxlabel("time")
    figure.supylabel("frequency")
    figure.savefig(path, dpi=100)


def main(out="sounds.xml", count=40, epochs=4, size=128):
    """Returns the accuracy of the file on sounds that are held out."""
    keras.utils.set_random_seed(0)
    waves, labels = sounds(count)
    images = keras_nfnet.preprocess_input(spectrograms(waves, size))
    model = keras_nfnet.ECANFNetL0(
        weights=None,  # "imagenet" sums the published kernel over RGB
        input_shape=(size, size, 1),
        classes=len(NAMES),
    )
    model.compile(
        keras_nfnet.SGDAGC(0.05),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size=8, epochs=epochs, verbose=2)

    run = export(model, out)
    waves, labels = sounds(10, seed=1)
    pixels = spectrograms(waves, size)
    probabilities = run(pixels)
    picture = Path(out).with_suffix(".png")
    plot(picture, pixels, labels, probabilities)
    accuracy = float(np.mean(probabilities.argmax(-1) == labels))
    print(f"{out}: {accuracy:.1%} of {len(labels)} other sounds; see {picture}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="sounds.xml", help=".xml or .onnx")
    parser.add_argument("--count", type=int, default=40, help="of each kind")
    parser.add_argument("--epochs", type=int, default=4)
    main(**vars(parser.parse_args()))
