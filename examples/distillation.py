"""Distil an NFNet of the F kind into a light one of the L kind.

    python examples/distillation.py

The teacher has the blocks of F0, the student those of ECA-NFNet-L0; both are
narrow here, for the digits of scikit-learn. The student is trained twice from
the same weights: on the labels of 100 digits, and on the teacher's logits for
898 digits, without a label.
"""

import argparse
import dataclasses

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_nfnet

TEACHER = dataclasses.replace(
    keras_nfnet.VARIANTS["F0"],
    widths=(32, 64, 96, 96),
    depths=(1, 2, 1, 1),
    group_width=16,
)
STUDENT = dataclasses.replace(
    keras_nfnet.VARIANTS["eca_nfnet_l0"],
    widths=(32, 64),
    depths=(1, 1),
    group_width=8,
)


def data():
    """Normalized digits `(batch, 32, 32, 3)`: half to train on, half not."""
    digits = load_digits()
    pixels = digits.images[..., None] * (255 / 16)
    images = keras.ops.image.resize(np.repeat(pixels, 3, axis=-1), (32, 32))
    images = keras.ops.convert_to_numpy(keras_nfnet.preprocess_input(images))
    return train_test_split(
        images.astype("float32"),
        digits.target,
        test_size=0.5,
        stratify=digits.target,
        random_state=0,
    )


def network(config):
    """A network that ends in logits."""
    return keras_nfnet.NFNet(
        config, weights=None, classes=10, classifier_activation=None
    )


def train(model, arrays, epochs):
    """Returns the accuracy on the held-out digits after each epoch."""
    images, held_out, labels, held_out_labels = arrays
    steps = epochs * (len(images) // 32)
    model.compile(
        keras_nfnet.SGDAGC(
            keras_nfnet.WarmupCosine(0.1, steps, warmup_steps=steps // 10)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        images,
        labels,
        batch_size=32,
        epochs=epochs,
        validation_data=(held_out, held_out_labels),
        verbose=2,
    )
    return history.history["val_accuracy"]


def main(out="distillation.png", epochs=10, teacher=TEACHER, student=STUDENT):
    """Returns the last accuracy of teacher, student and distilled student."""
    keras.utils.set_random_seed(0)
    arrays = images, held_out, labels, held_out_labels = data()
    # The first 100 again and again, for as many steps.
    few = (
        *(np.resize(images[:100], images.shape), held_out),
        *(np.resize(labels[:100], labels.shape), held_out_labels),
    )
    teacher, alone, taught = map(network, (teacher, student, student))
    taught.set_weights(alone.get_weights())
    curves = {
        "teacher": train(teacher, arrays, epochs),
        "student on 100 labels": train(alone, few, epochs),
    }
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=taught,
        distillation_losses=keras.distillation.LogitsDistillation(
            # Not by its name: Keras 3.15 would compare logits, not softmaxes.
            loss=keras.losses.KLDivergence(),
            temperature=3.0,
        ),
        student_loss_weight=0.0,  # No labels: the logits alone.
    )
    curves["student of the teacher"] = train(distiller, arrays, epochs)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    models = (teacher, alone, taught)
    for (name, curve), model in zip(curves.items(), models, strict=True):
        axes.plot(range(1, epochs + 1), curve, label=name)
        print(f"{name}: {model.count_params():,} parameters, {curve[-1]:.1%}")
    axes.set(xlabel="epoch", ylabel="held-out accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=100)
    print(f"see {out}")
    return {name: curve[-1] for name, curve in curves.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="distillation.png", help="the plot")
    parser.add_argument("--epochs", type=int, default=10)
    main(**vars(parser.parse_args()))
