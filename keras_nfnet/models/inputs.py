"""Checks of the builder's arguments, as `keras.applications` has them."""

import os

import keras


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
    if weights is not None and weights != "imagenet":
        if not isinstance(weights, str | os.PathLike):
            raise ValueError(
                '`weights` must be `None`, "imagenet" or the path of a '
                f"file. Received: weights={weights!r}"
            )
        if os.path.isdir(weights):
            raise ValueError(
                "`weights` must be a file; this is a directory. "
                f"Received: weights={str(weights)!r}"
            )
        if not os.path.exists(weights):
            raise ValueError(
                '`weights` must be `None`, "imagenet" or the path of a '
                "file that exists. "
                f"Received: weights={str(weights)!r}"
            )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            '`pooling` must be `None`, "avg" or "max". '
            f"Received: pooling={pooling!r}"
        )
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(
            "`classes` must be a whole number above 0. "
            f"Received: classes={classes!r}"
        )
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
            raise ValueError(
                "`classifier_activation` must be an activation that Keras "
                "knows, or `None`. Received: "
                f"classifier_activation={classifier_activation!r}"
            ) from error
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
        shape = tuple(shape)
        fits = len(shape) == 3 and all(
            side is None or (int(side) == side and side > 0) for side in shape
        )
    except (TypeError, ValueError):
        fits = False
    if not fits or shape[-1] is None:
        raise ValueError(
            f"`{name}` must be (height, width, channels), channels last, "
            "with `None` for any height or width. "
            f"Received: {name}={shape!r}"
        )


def input_for(input_tensor, input_shape):
    """The image tensor to build on, and the model's inputs."""
    if input_tensor is None:
        shape = (None, None, 3) if input_shape is None else input_shape
        image = keras.Input(tuple(shape), name="images")
        return image, image
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, such as the output of "
            f"`keras.Input`. Received: input_tensor={input_tensor!r}"
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
