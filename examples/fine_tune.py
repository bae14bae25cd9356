"""Fine-tune a network on a folder of images; see what it confuses.

    python examples/fine_tune.py
    python examples/fine_tune.py --data flowers --network eca_nfnet_l0 \
        --weights imagenet --size 224 --rate 0.01

`--data` is a folder with one folder of images for each class. Without it,
scikit-learn's handwritten digits 5 to 9 are written as PNG files, and a small
network that has learned 0 to 4 is fine-tuned on 20 images of each. Writes the
model and a confusion matrix.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay

import keras_nfnet

SMALL = keras_nfnet.NFNetConfig((32, 64, 96), (1, 2, 1), group_width=16)


def write_digits(folder, numbers, count):
    """Writes the first images of each number as `folder/number/*.png`."""
    digits = load_digits()
    for number in numbers:
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(digits.target == number)[:count]:
            keras.utils.save_img(
                folder / str(number) / f"{index:04d}.png",
                digits.images[index][..., None],
            )


def read(folder, size, validation_split):
    """Training and validation images of a folder, and the classes."""
    train, validation = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(size, size),
        batch_size=16,
        validation_split=validation_split,
        subset="both",
        seed=0,
    )
    names = train.class_names

    def prepare(images, labels):
        return keras_nfnet.preprocess_input(images), labels

    return train.map(prepare).cache(), validation.map(prepare).cache(), names


def train(model, data, validation, epochs, rate):
    steps = epochs * len(data)
    model.compile(
        keras_nfnet.SGDAGC(
            keras_nfnet.WarmupCosine(rate, steps, warmup_steps=steps // 10)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data, validation_data=validation, epochs=epochs, verbose=2)


def pre_trained(folder, network, size, epochs):
    """The file of a small network that has learned the digits 0 to 4."""
    write_digits(folder / "digits_0_to_4", range(5), 100)
    data, validation, _ = read(folder / "digits_0_to_4", size, 0.2)
    model = keras_nfnet.NFNet(
        network, weights=None, classes=5, classifier_activation=None
    )
    train(model, data, validation, epochs, rate=0.1)
    return keras_nfnet.weights.save(model, folder / "pre_trained.safetensors")


def plot_confusion(path, labels, predictions, names):
    figure = Figure(figsize=(5, 5), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predictions,
        labels=range(len(names)),
        display_labels=names,
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    figure.savefig(path, dpi=100)


def main(
    out="fine_tune",
    data=None,
    network=SMALL,
    weights=None,
    size=32,
    epochs=20,
    rate=0.1,
):
    """Returns the accuracy on the images that are held out."""
    keras.utils.set_random_seed(0)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if data is None:
        weights = pre_trained(out, network, size, epochs // 2)
        data = out / "digits_5_to_9"
        write_digits(data, range(5, 10), 100)
        held_out = 0.8
    else:
        held_out = 0.2
    train_data, validation, names = read(data, size, held_out)
    model = keras_nfnet.NFNet(
        network, weights=None, classes=len(names), classifier_activation=None
    )
    if weights:
        keras_nfnet.weights.load(model, weights, new_head=True)
    train(model, train_data, validation, epochs, rate)
    model.save(out / "model.keras")

    labels = np.concatenate([labels for _, labels in validation])
    predictions = model.predict(validation, verbose=0).argmax(-1)
    plot_confusion(out / "confusion.png", labels, predictions, names)
    accuracy = float(np.mean(predictions == labels))
    print(f"{accuracy:.1%} of {len(labels)} held-out images; see {out}/")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help="folder of images; default: digits")
    parser.add_argument("--network", default=SMALL, help="such as F0")
    parser.add_argument("--weights", help='file, or "imagenet"')
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--out", default="fine_tune", help="folder to write")
    main(**vars(parser.parse_args()))
