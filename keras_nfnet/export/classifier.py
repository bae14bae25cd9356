"""What an export must know of a model: its images, its head, its weights."""

import keras
import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    check_margin,
    sides,
)
from keras_nfnet.models.output import activation_of, last_operation
from keras_nfnet.variants import VARIANTS, default_name


def check_classifier(model):
    """Refuses what is no image classifier.

    Args:
        model: A `keras.Model` with one input `(batch, height, width, 3)` and
            one output `(batch, classes)`.

    Returns:
        The number of classes.

    Raises:
        ValueError: If it is another model.
    """
    check_takes_images(model)
    shape = model.outputs[0].shape
    if len(model.outputs) > 1 or len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            "`model` must return one batch of classes (batch, classes), such "
            "as a model with `include_top=True`. Received: a model of outputs "
            f"{[tuple(x.shape) for x in model.outputs]}"
        )
    return shape[-1]


def check_takes_images(model):
    """Refuses what does not take one batch of images.

    Raises:
        ValueError: If it is another model.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a Keras model. Received: model={model!r}"
        )
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if (
        len(inputs) != 1
        or not outputs
        or len(inputs[0].shape) != 4
        or inputs[0].shape[-1] is None
    ):
        raise ValueError(
            "`model` must be functional or sequential and take one batch of "
            "images (batch, height, width, channels). Received: a model of "
            f"inputs {[tuple(x.shape) for x in inputs]} and outputs "
            f"{[tuple(x.shape) for x in outputs]}"
        )


def ends_in_logits(model):
    """Whether the model's last activation is linear.

    Any other last activation (softmax, or sigmoid for several labels) is
    taken as one that gives probabilities.

    Raises:
        ValueError: If the last layer has no activation, as a model without
            its classifier.
    """
    activation = activation_of(model)
    if activation is None:
        raise ValueError(
            "`model` must end in a classifier, a layer with an activation; or "
            'say what it returns, such as `outputs="probabilities"` or '
            '"features". Received: a model that ends in the layer '
            f"{last_operation(model).name!r}"
        )
    return activation == "linear"


def check_finite(model):
    """Refuses a model with NaN or infinity in its weights, by name.

    Raises:
        ValueError: Naming the first such variable.
    """
    for variable in model.variables:
        values = np.asarray(ops.convert_to_numpy(variable))
        if values.dtype.kind not in "biuSU" and not np.all(
            np.isfinite(values.astype("float32"))
        ):
            raise ValueError(
                "`model` must have finite weights. Received: NaN or infinity "
                f"in {variable.path!r}"
            )


def input_size(model, size=None):
    """The `(height, width)` in pixels that pictures are brought to.

    The model's own where it is fixed, then `size`, then the test size of
    the variant that the model is named after, else `None`.

    Raises:
        ValueError: If `size` is not the fixed size of the model.
    """
    fixed = model.inputs[0].shape[1:3]
    given = None if size is None else sides(size)
    if None not in fixed:
        if given not in (None, fixed):
            raise ValueError(
                "`size` must be the model's own, which is fixed at "
                f"{fixed}. Received: size={size!r}"
            )
        return tuple(fixed)
    if given:
        return given
    config = _variant_of(model)
    size = config and config.test_size
    return size and sides(size)


def view_margin(model, margin=None):
    """The margin or crop fraction with which images are evaluated.

    `margin` where it is given, then that of the variant that the model is
    named after, else 32 pixels.

    Raises:
        ValueError: If `margin` is neither.
    """
    if margin is None:
        config = _variant_of(model)
        margin = config and config.crop_fraction
    if margin is None:
        return EVALUATION_MARGIN
    return check_margin(margin)


def _variant_of(model):
    """The configuration that a model is named after, or `None`."""
    for variant, config in VARIANTS.items():
        if model.name == default_name(variant):
            return config
    return None
