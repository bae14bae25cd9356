"""What a model takes and returns: the pixels it expects, its outputs.

An export takes pixels of 0–255 and must hand the model what its user would:
normalized ones where an NFNet begins at the input, and pixels as they are
where a layer of the model normalizes them.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import channel_statistics, to_channels
from keras_nfnet.export.copies import ONLY_TRAINING
from keras_nfnet.layers import ScaledWSConv2D
from keras_nfnet.models.graphs import functional_graph, is_graph

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
_NORMALIZING = ("Rescaling", "Normalization", "Subtract", "TrueDivide")
_NORMALIZING += ("Divide", "Multiply", "Cast", "Lambda")


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
        """`(mean, deviation)` of the normalization, or `None` for none."""
        if self.input_range == "imagenet":
            return channel_statistics(self.channels)
        return None

    def images(self, pixels):
        """What the model is called with, on any backend.

        Args:
            pixels: Array or tensor `(batch, height, width, channels)`,
                0–255.
        """
        images = ops.cast(pixels, "float32")
        if self.statistics:
            mean, deviation = (np.float32(values) for values in self.statistics)
            images = (images - mean) / deviation
        if "int" in self.dtype:
            images = ops.round(ops.clip(images, 0, 255))
        return ops.cast(images, self.dtype)

    def pixels_of(self, images):
        """The pixels that `images` was given, of a NumPy array."""
        images = np.asarray(images, "float32")
        if self.statistics:
            mean, deviation = (np.float32(values) for values in self.statistics)
            images = images * deviation + mean
        return images

    def pixels(self, pictures):
        """RGB pictures with the model's channels.

        Args:
            pictures: Array `(batch, height, width, 3)`, 0–255.
        """
        if self.channels in (1, 3):
            return to_channels(pictures, self.channels)
        times = -(-self.channels // 3)
        return np.tile(pictures, (1, 1, 1, times))[..., : self.channels]


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
        raise ValueError(
            '`input_range` must be "imagenet", for a model on images '
            'normalized by `preprocess_input`, or "0-255", for a model that '
            "takes pixels. It is found out for a model that begins with an "
            "NFNet, or with a layer that rescales or normalizes. Received: "
            f"input_range={input_range!r}"
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
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
    ]
    found = set()
    for node in nodes:
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
