"""One whole run from a recipe: pipeline → model → optimizer → evaluation."""

from dataclasses import dataclass

import keras

from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.optimizers import SGDAGC, WarmupCosine
from keras_nfnet.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves.

    Attributes:
        model: The trained model, ending in probabilities.
        history: Per-epoch values by name, as in `keras.callbacks.History`.
        accuracy: Top-1 accuracy on the test split, in [0, 1].
        loss: Loss on the test split.
        label_names: One name per class.
        examples: Examples of the test split.
    """

    model: keras.Model
    history: dict
    accuracy: float
    loss: float
    label_names: tuple
    examples: int


def train(recipe, data_dir=None, verbose="auto", callbacks=()):
    """Trains and evaluates a network as a recipe says.

    Args:
        recipe: A `keras_nfnet.Recipe`.
        data_dir: Where TFDS keeps data sets; `None` for its default.
        verbose: As for `keras.Model.fit`; by default a progress bar.
        callbacks: Further Keras callbacks.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: If the recipe does not fit the data.

    Example:

    >>> from keras_nfnet.training.recipes.digits import RECIPE
    >>> result = train(RECIPE.replace(epochs=3))

    Reference: arXiv:2102.06171, section 4.
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"`recipe` must be a `Recipe`. Received: recipe={recipe!r}"
        )
    from keras_nfnet.data.pipeline import evaluation_dataset, training_dataset

    training, info = training_dataset(
        recipe.data,
        recipe.train_split,
        size=recipe.size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augmentation,
        data_dir=data_dir,
    )
    evaluation, test_info = evaluation_dataset(
        recipe.data,
        recipe.test_split,
        size=recipe.size,
        batch_size=recipe.batch_size,
        margin=recipe.evaluation_margin,
        data_dir=data_dir,
    )
    if info.classes != recipe.classes:
        raise ValueError(
            f"`classes` must be what the data has ({info.classes}). "
            f"Received: classes={recipe.classes}"
        )
    steps = info.steps(recipe.batch_size)
    if not steps:
        raise ValueError(
            "`batch_size` must not exceed the examples of the training "
            f"split ({info.examples}). Received: "
            f"batch_size={recipe.batch_size}"
        )
    # Here and not before: writing a data set draws from the same generators.
    keras.utils.set_random_seed(recipe.seed)
    model = build(recipe, steps)
    history = model.fit(
        training,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=evaluation,
        callbacks=list(callbacks),
        verbose=verbose,
        shuffle=False,  # The pipeline shuffles.
    ).history
    return TrainingResult(
        model=model,
        history=history,
        accuracy=float(history["val_accuracy"][-1]),
        loss=float(history["val_loss"][-1]),
        label_names=info.label_names,
        examples=test_info.examples,
    )


def build(recipe, steps_per_epoch):
    """The recipe's model, compiled with its optimizer and loss."""
    model = NFNet(
        recipe.model,
        weights=None,
        classes=recipe.classes,
        input_shape=(recipe.size, recipe.size, 3),
        name=recipe.name,
    )
    model.compile(
        optimizer=SGDAGC(
            WarmupCosine(
                recipe.peak_learning_rate,
                total_steps=recipe.epochs * steps_per_epoch,
                warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            ),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            clipping=recipe.clipping,
            eps=recipe.eps,
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        # Keras would choose XLA on a GPU, which MirroredStrategy refuses.
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    return model
