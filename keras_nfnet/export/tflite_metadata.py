"""The metadata by which MediaPipe and ML Kit open a TFLite file.

They say how pixels are normalized, what the outputs are called and where the
labels lie.

Reference: the schema of TFLite metadata, `metadata_schema.fbs`, version 1.5,
whose tables' slots stand below as numbers.
"""

import flatbuffers
import numpy as np

from keras_nfnet.data.labels import LABELS

_FEATURE, _IMAGE = 1, 2  # ContentProperties
_COLORS = {3: 1, 1: 2}  # ColorSpaceType by the number of channels
_NORMALIZATION = 1  # ProcessUnitOptions
_AXIS_LABELS = 2  # AssociatedFileType


def model_metadata(
    name, channels, outputs, is_open, has_labels, is_probability
):
    """The bytes of a `ModelMetadata`.

    Args:
        name: The model's.
        channels: Of the images.
        outputs: Names of the outputs, sorted.
        is_open: Whether the file takes images of any size. Then the metadata
            do not say how pixels are normalized, so that MediaPipe refuses
            the file: it would bring images to one pixel.
        has_labels: Whether each value of the output has its line in
            `labels.txt`, in the zip archive behind the model.
        is_probability: Whether the output is between 0 and 1.
    """
    builder = flatbuffers.Builder()

    def table(**slots):
        """A table of offsets, or of bytes `(value,)`, by `s` and the slot."""
        slots = {int(slot[1:]): value for slot, value in slots.items()}
        builder.StartObject(max(slots) + 1)
        for slot, value in slots.items():
            if isinstance(value, tuple):
                builder.PrependUint8Slot(slot, *value, 0)
            elif value is not None:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()

    def tables(*offsets):
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def floats(*values):
        return builder.CreateNumpyVector(np.array(values, np.float32))

    text = builder.CreateString

    def tensor(name, about, content, kind, units=None, most=None, files=None):
        return table(
            s0=text(name),
            s1=text(about),
            s3=table(s0=(kind,), s1=content) if content else None,
            s4=tables(units) if units else None,
            s5=most and table(s0=floats(most), s1=floats(0.0)),
            s6=tables(files) if files else None,
        )

    normalization = None
    if not is_open:  # Pixels go in as they are.
        normalization = table(
            s0=(_NORMALIZATION,), s1=table(s0=floats(0.0), s1=floats(1.0))
        )
    images = tensor(
        "images",
        "Pixels of 0 to 255. The model normalizes them.",
        table(s0=(_COLORS[channels],)) if channels in _COLORS else None,
        _IMAGE,
        normalization,
        255.0,
    )
    returned = [
        tensor(
            each,
            "One score per class." if has_labels else "What the model returns.",
            table(s0=None),
            _FEATURE,
            most=1.0 if is_probability else None,
            files=table(
                s0=text(LABELS),
                s1=text("One label a line."),
                s2=(_AXIS_LABELS,),
            )
            if has_labels
            else None,
        )
        for each in outputs
    ]
    graph = table(s2=tables(images), s3=tables(*returned))
    root = table(s0=text(name), s3=tables(graph), s7=text("1.0.0"))
    builder.Finish(root, file_identifier=b"M001")
    return bytes(builder.Output())
