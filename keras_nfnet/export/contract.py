"""What a model takes and returns: its images, its outputs, its head.

An export takes pixels of 0–255 and must hand the model what its user would:
normalized ones where an NFNet begins at the input, and pixels as they are
where a layer of the model normalizes them.
"""

import dataclasses
import itertools

import keras
import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    channel_statistics,
    check_margin,
    sides,
    to_channels,
)
from keras_nfnet.export.folded_layers import ONLY_TRAINING
from keras_nfnet.layers import ScaledWSConv2D
from keras_nfnet.models.graphs import functional_graph, is_graph
from keras_nfnet.models.output import activation_of, last_operation
from keras_nfnet.utils.arguments import refuse
from keras_nfnet.variants import VARIANTS, default_name

INPUT_RANGES = ("imagenet", "0-255")
# Layers that leave the range of the pixels as it is.
_NEUTRAL = (
    *ONLY_TRAINING,
    keras.layers.InputLayer,
    keras.layers.CenterCrop,
    keras.layers.RandomCrop,
    keras.layers.Resizing,
    keras.layers.ZeroPadding2D,
)
# Layers and operations that make pixels into what follows.
_NORMALIZING = (
    *("Rescaling", "Normalization", "Subtract", "TrueDivide"),
    *("Divide", "Multiply", "Cast", "Lambda"),
)


@dataclasses.dataclass(frozen=True)
class Contract:
    """What is handed to a model for pixels, and what comes out.

    Args:
        channels: Of the images.
        input_range: `"imagenet"` (normalized by `preprocess_input`) or
            `"0-255"` (pixels as they are).
        dtype: Of the model's input.
        outputs: Names of the outputs, in order.
        sides: Height and width in pixels, `None` for any.
    """

    channels: int
    input_range: str
    dtype: str
    outputs: tuple
    sides: tuple = (None, None)

    @property
    def statistics(self):
        """Float32 mean and standard deviation per channel, or `None`."""
        if self.input_range == "imagenet":
            return np.float32(channel_statistics(self.channels))
        return None

    def images(self, pixels):
        """What the model is called with, on any backend.

        Args:
            pixels: Array or tensor `(batch, height, width, channels)`,
                0–255.
        """
        images = ops.cast(pixels, "float32")
        if self.statistics is not None:
            mean, deviation = self.statistics
            images = (images - mean) / deviation
        if "int" in self.dtype:
            images = ops.round(ops.clip(images, 0, 255))
        return ops.cast(images, self.dtype)

    def pixels_of(self, images):
        """The pixels that `images` was given, of a NumPy array."""
        images = np.asarray(images, "float32")
        if self.statistics is not None:
            mean, deviation = self.statistics
            images = images * deviation + mean
        return images

    def pixels(self, images):
        """RGB images with the model's channels.

        Args:
            images: Array `(batch, height, width, 3)`, 0–255.
        """
        if self.channels in (1, 3):
            return to_channels(images, self.channels)
        times = -(-self.channels // 3)
        return np.tile(images, (1, 1, 1, times))[..., : self.channels]


def contract_of(model, input_range=None):
    """The contract of a model.

    Args:
        model: A functional or sequential model with one input of images.
        input_range: What the model takes, or `None` to find it out.

    Raises:
        ValueError: If `input_range` is unknown, or `None` for a model of
            which it cannot be found out.
    """
    if input_range is None:
        input_range = _found(model)
    if input_range not in INPUT_RANGES:
        refuse(
            "input_range",
            input_range,
            '"imagenet", for a model on images normalized by '
            '`preprocess_input`, or "0-255", for a model that takes pixels. '
            "It is found out for a model that begins with an NFNet, or with a "
            "layer that rescales or normalizes",
        )
    image = model.inputs[0]
    return Contract(
        image.shape[-1],
        input_range,
        keras.backend.standardize_dtype(image.dtype),
        tuple(named(functional_graph(model).output)),
        tuple(image.shape[1:3]),
    )


def named(structure):
    """`{name: value}` of a model's outputs: a tensor, list or dictionary."""
    if isinstance(structure, dict):
        if any(isinstance(v, dict | list | tuple) for v in structure.values()):
            raise ValueError(
                "`model` must return a tensor, or a list or a dictionary of "
                "tensors. Received: a model of nested outputs"
            )
        return dict(structure)
    if isinstance(structure, list | tuple):
        if len(structure) == 1:
            return {"output": structure[0]}
        return {f"output_{i}": value for i, value in enumerate(structure)}
    return {"output": structure}


def _found(model):
    """The range that a model takes, by its first layers, or `None`."""
    if "int" in keras.backend.standardize_dtype(model.inputs[0].dtype):
        return "0-255"
    graph = functional_graph(model)
    tensors = {id(graph.inputs[0])}
    found = set()
    by_depth = sorted(graph._nodes_by_depth.items(), reverse=True)
    for node in itertools.chain(*(nodes for _, nodes in by_depth)):
        if not any(id(x) in tensors for x in node.input_tensors):
            continue
        operation = node.operation
        if isinstance(operation, _NEUTRAL):
            tensors.update(id(x) for x in node.outputs)
        elif isinstance(operation, ScaledWSConv2D):
            found.add("imagenet")
        elif isinstance(operation, keras.Model) and is_graph(operation):
            found.add(_found(operation))
        elif type(operation).__name__ in _NORMALIZING:
            found.add("0-255")
        else:
            found.add(None)
    return found.pop() if len(found) == 1 else None


def check_takes_images(model):
    """Refuses what does not take one batch of images.

    Raises:
        ValueError: If it is another model.
    """
    if not isinstance(model, keras.Model):
        refuse("model", model, "a Keras model")
    inputs, outputs = (
        [tuple(x.shape) for x in getattr(model, name, None) or []]
        for name in ("inputs", "outputs")
    )
    if (
        len(inputs) != 1
        or not outputs
        or len(inputs[0]) != 4
        or inputs[0][-1] is None
    ):
        raise ValueError(
            "`model` must be functional or sequential and take one batch of "
            "images (batch, height, width, channels). Received: a model of "
            f"inputs {inputs} and outputs {outputs}"
        )


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
    shapes = [tuple(x.shape) for x in model.outputs]
    if len(shapes) > 1 or len(shapes[0]) != 2 or shapes[0][-1] is None:
        raise ValueError(
            "`model` must return one batch of classes (batch, classes), such "
            "as a model with `include_top=True`. Received: a model of outputs "
            f"{shapes}"
        )
    return shapes[0][-1]


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
    """The `(height, width)` in pixels that images are resized to.

    The model's own where it is fixed, then `size`, then the test size of
    the variant that the model is named after, else `None`.

    Raises:
        ValueError: If `size` is not the fixed size of the model.
    """
    fixed = tuple(model.inputs[0].shape[1:3])
    given = None if size is None else sides(size)
    if None not in fixed:
        if given not in (None, fixed):
            expected = f"the model's own, which is fixed at {fixed}"
            refuse("size", size, expected)
        return fixed
    size = _of_variant(model, "test_size")
    return given or (size and sides(size))


def view_margin(model, margin=None):
    """The margin or crop fraction with which images are evaluated.

    `margin` where it is given, then that of the variant that the model is
    named after, else 32 pixels.

    Raises:
        ValueError: If `margin` is neither.
    """
    if margin is None:
        margin = _of_variant(model, "crop_fraction")
    return EVALUATION_MARGIN if margin is None else check_margin(margin)


def _of_variant(model, field):
    """A field of the variant that a model is named after, or `None`."""
    for variant, config in VARIANTS.items():
        if model.name == default_name(variant):
            return getattr(config, field)
    return None
