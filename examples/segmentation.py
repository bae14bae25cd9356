"""A small segmentation head on frozen features.

    python examples/segmentation.py

Two photographs that come with scikit-learn are told apart by color: the
labels are the two clusters of each pixel's color, so that no data has to be
fetched. With `weights="imagenet"` in place of `None` the features are those
of the published network.
"""

import argparse

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_images

import keras_nfnet

SIZE = 128


def examples(size):
    """Images `(16, size, size, 3)` and labels 0 or 1 of each pixel."""
    images = []
    for photograph in load_sample_images().images:
        for top in range(0, 427 - size, 150):
            for left in range(0, 640 - size, 128):
                images.append(photograph[top : top + size, left : left + size])
    images = np.random.default_rng(0).permutation(np.stack(images, dtype="f4"))
    colors = images.reshape(-1, 3)
    clusters = KMeans(2, n_init=1, random_state=0).fit(colors[::97])
    labels = clusters.predict(colors).reshape(images.shape[:-1])
    return images, labels


def segmenter(classes, weights=None, size=SIZE):
    """A model of logits `(batch, size, size, classes)` for each pixel."""
    network = keras_nfnet.NFNet(
        "eca_nfnet_l0",
        include_top=False,
        weights=weights,
        input_shape=(size, size, 3),
        output_stride=16,
    )
    network.trainable = False
    features = keras_nfnet.features(network, ("P2", "P5"))
    outputs = features.output
    deep = keras.layers.Conv2D(32, 1, activation="relu")(outputs["P5"])
    deep = keras.layers.UpSampling2D(4, interpolation="bilinear")(deep)
    fine = keras.layers.Conv2D(32, 1, activation="relu")(outputs["P2"])
    x = keras.layers.Concatenate()([deep, fine])
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(classes, 1)(x)
    x = keras.layers.UpSampling2D(4, interpolation="bilinear")(x)
    return keras.Model(features.input, x)


def plot(path, images, labels, found):
    figure = Figure(figsize=(7, 7), layout="constrained")
    for row, axes in enumerate(figure.subplots(3, 3)):
        for axis, picture, title in zip(
            axes,
            (images[row] / 255, labels[row], found[row]),
            ("image", "label", "prediction"),
            strict=True,
        ):
            axis.imshow(picture, vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title="" if row else title)
    figure.savefig(path, dpi=100)


def main(out="segmentation.png", epochs=30, size=SIZE):
    """Trains the head; returns the accuracy by pixel on the last images."""
    keras.utils.set_random_seed(0)
    images, labels = examples(size)
    x = keras_nfnet.preprocess_input(images)
    model = segmenter(2, size=size)
    model.compile(
        keras.optimizers.Adam(0.005),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    last = max(1, len(x) // 4)
    model.fit(x[:-last], labels[:-last], batch_size=4, epochs=epochs, verbose=2)
    accuracy = model.evaluate(x[-last:], labels[-last:], verbose=0)[1]
    found = model.predict(x[-last:], verbose=0).argmax(-1)
    plot(out, images[-last:], labels[-last:], found)
    print(f"accuracy by pixel on {last} other crops: {accuracy:.1%}; see {out}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="segmentation.png", help="the plot")
    parser.add_argument("--epochs", type=int, default=30)
    main(**vars(parser.parse_args()))
