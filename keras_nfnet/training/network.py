"""A recipe's network, compiled."""

import keras

from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.models.output import logits_model
from keras_nfnet.optimizers import SGDAGC, WarmupCosine


def build(recipe, steps_per_epoch, load_weights=True):
    """The recipe's network, compiled with its optimizer and loss.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Steps of `fit` in one epoch.
        load_weights: Whether to load the weights that the recipe starts
            from.

    Returns:
        A model that ends in logits, `(batch, classes)`, from which the loss
        is computed. `probabilities_model` gives the classifier.

    Raises:
        ValueError: If the weights do not fit, or the devices cannot do what
            the recipe asks for.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        classifier = NFNet(
            recipe.model,
            weights=None,
            classes=recipe.classes,
            classifier_activation=(
                "sigmoid" if recipe.classes == 1 else "softmax"
            ),
            input_shape=_input_shape(recipe),
            name=recipe.name,
            drop_rate=recipe.drop_rate,
            stochastic_depth_rate=recipe.stochastic_depth_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)
    if recipe.weights is not None and load_weights:
        _load(classifier, recipe)
    model = logits_model(classifier)
    parts = recipe.gradient_accumulation_steps or 1
    steps_per_epoch //= parts
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
            ema_decay=recipe.ema_decay,
            gradient_accumulation_steps=parts if parts > 1 else None,
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        sam_rho=recipe.sam_rho,
        sam_fraction=recipe.sam_fraction,
    )
    return model


def _load(classifier, recipe):
    from keras_nfnet.weights import load
    from keras_nfnet.weights.load import classes_in

    classes = classes_in(recipe.weights)
    new_head = recipe.new_head
    if new_head is None:
        new_head = classes != recipe.classes
    elif not new_head and classes != recipe.classes:
        raise ValueError(
            "`weights` must have a classifier of as many classes as the "
            f"recipe ({recipe.classes}), or `new_head` must be true. Received: "
            f"weights={recipe.weights!r}, with {classes or 'no'} classes, "
            f"new_head={new_head!r}"
        )
    load(classifier, recipe.weights, new_head=new_head)


def _input_shape(recipe):
    if recipe.test_size in (None, recipe.size):
        return (recipe.size, recipe.size, 3)
    return None  # Trained and tested at different sizes.
