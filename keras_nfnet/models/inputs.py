"""Checks of the builder's arguments, as `keras.applications` has them."""

import os

import keras

from keras_nfnet.utils.arguments import (
    boolean,
    integer,
    one_of,
    path,
    refuse,
)


def check_arguments(
    *,
    include_top,
    weights,
    pooling,
    classes,
    classifier_activation,
    input_shape,
    input_tensor,
):
    """Refuses arguments that do not fit, each with one clear error."""
    boolean("include_top", include_top)
    integer("classes", classes)
    one_of("pooling", pooling, (None, "avg", "max"))
    if weights is not None and weights != "imagenet":
        expected = '`None`, "imagenet" or the path of a file'
        path("weights", weights, expected)
        if os.path.isdir(weights):
            refuse("weights", weights, "a file; this is a directory")
        if not os.path.exists(weights):
            refuse("weights", weights, f"{expected} that exists")
    if weights == "imagenet" and include_top and classes != 1000:
        raise ValueError(
            'With `weights="imagenet"` and `include_top=True`, `classes` '
            "must be 1000. For another number of classes use "
            "`include_top=False` and add a head, or build with "
            "`weights=None` and call `keras_nfnet.weights.load(model, "
            f'"imagenet", new_head=True)`. Received: classes={classes}'
        )
    if include_top:
        try:
            activation = keras.activations.get(classifier_activation)
        except (ValueError, TypeError) as error:
            refuse(
                "classifier_activation",
                classifier_activation,
                "an activation that Keras knows, or `None`",
                error,
            )
        allowed = (keras.activations.softmax, keras.activations.linear)
        if weights == "imagenet" and activation not in allowed:
            raise ValueError(
                'With `weights="imagenet"` and `include_top=True`, '
                '`classifier_activation` must be `None` or "softmax". '
                "Received: classifier_activation="
                f"{classifier_activation!r}"
            )
    if input_shape is not None:
        _check_shape("input_shape", input_shape)
    if input_tensor is not None and keras.utils.is_keras_tensor(input_tensor):
        _check_shape("input_tensor", input_tensor.shape[1:])


def _check_shape(name, shape):
    try:
        sides = tuple(
            integer(name, side, optional=True) for side in tuple(shape)
        )
    except (TypeError, ValueError):
        sides = ()
    if len(sides) != 3 or sides[-1] is None:
        refuse(
            name,
            shape,
            "(height, width, channels), channels last, with `None` for any "
            "height or width",
        )


def input_for(input_tensor, input_shape):
    """The image tensor to build on, and the model's inputs."""
    if input_tensor is None:
        shape = (None, None, 3) if input_shape is None else input_shape
        image = keras.Input(tuple(shape), name="images")
        return image, image
    if not keras.utils.is_keras_tensor(input_tensor):
        refuse(
            "input_tensor",
            input_tensor,
            "a Keras tensor, such as the output of `keras.Input`",
        )
    if input_shape is not None and tuple(input_shape) != tuple(
        input_tensor.shape[1:]
    ):
        raise ValueError(
            "`input_shape` and `input_tensor` disagree. Received: "
            f"input_shape={input_shape}, input_tensor of shape "
            f"{tuple(input_tensor.shape)}"
        )
    inputs = keras.utils.get_source_inputs(input_tensor)
    return input_tensor, inputs[0] if len(inputs) == 1 else inputs
