"""Find images of a kind by pooled features.

    python examples/retrieval.py

A small network learns the digits 0 to 6 of scikit-learn, moved and turned at
random. Its pooled features then find the digits 7 to 9, which it never saw:
the neighbours of each image by the cosine of their features, beside those by
their pixels. For photographs take `NFNet("eca_nfnet_l0", weights="imagenet",
include_top=False, pooling="avg")`.
"""

import argparse

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import cosine_similarity

import keras_nfnet

CONFIG = keras_nfnet.NFNetConfig((32, 64, 96), (1, 2, 1), group_width=16)
NEIGHBOURS = 5


def images_of(seed=0):
    """Digits `(1797, 32, 32, 3)` of 0 to 255, moved and turned; labels."""
    digits = load_digits()
    move = keras.Sequential(
        [
            keras.layers.Resizing(32, 32),
            keras.layers.RandomRotation(0.05, "constant", seed=seed),
            keras.layers.RandomTranslation(0.2, 0.2, "constant", seed=seed),
        ]
    )
    moved = move(digits.images[..., None] * (255 / 16), training=True)
    pixels = keras.ops.convert_to_numpy(moved).astype("float32")
    return np.repeat(pixels, 3, axis=-1), digits.target


def neighbours(features):
    """Indices of the nearest others, `(batch, NEIGHBOURS)`."""
    similarity = cosine_similarity(features)
    np.fill_diagonal(similarity, -1)
    return np.argsort(-similarity)[:, :NEIGHBOURS]


def plot(path, images, labels, found):
    rows = [np.flatnonzero(labels == label)[0] for label in (7, 8, 9)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    grid = figure.subplots(3, 1 + NEIGHBOURS)
    for axes, query in zip(grid, rows, strict=True):
        for axis, index in zip(axes, [query, *found[query]], strict=True):
            axis.imshow(images[index] / 255)
            right = labels[index] == labels[query]
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color="green" if right else "red", linewidth=3)
    grid[0, 0].set_title("query")
    grid[0, 1].set_title("nearest by pooled features", loc="left")
    figure.savefig(path, dpi=100)


def main(out="retrieval.png", epochs=10, config=CONFIG):
    """Returns the precision among the neighbours, by features and pixels."""
    keras.utils.set_random_seed(0)
    images, labels = images_of()
    known = labels < 7
    x = keras_nfnet.preprocess_input(images)
    model = keras_nfnet.NFNet(
        config, weights=None, classes=7, classifier_activation=None
    )
    model.compile(
        keras_nfnet.SGDAGC(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x[known], labels[known], batch_size=32, epochs=epochs, verbose=2)

    # The inputs of the classifier.
    pooled = keras.Model(model.input, model.layers[-1].input)
    features = pooled.predict(x[~known], verbose=0)
    pixels = x[~known].reshape(len(features), -1)
    truth = labels[~known]
    precision = {}
    for name, values in (("features", features), ("pixels", pixels)):
        found = neighbours(values)
        precision[name] = float(np.mean(truth[found] == truth[:, None]))
        print(
            f"{name}: {precision[name]:.1%} of the {NEIGHBOURS} nearest are "
            f"the same digit ({len(truth)} images of unseen digits)"
        )
    plot(out, images[~known], truth, neighbours(features))
    print(f"see {out}")
    return precision


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="retrieval.png", help="the plot")
    parser.add_argument("--epochs", type=int, default=10)
    main(**vars(parser.parse_args()))
