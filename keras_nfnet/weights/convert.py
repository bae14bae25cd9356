"""Converting a weights file to another format, without building a model."""

import os
from typing import Any

from keras_nfnet.utils.types import Path
from keras_nfnet.weights.check import collect
from keras_nfnet.weights.files import open_weights, path_of, shapes_in
from keras_nfnet.weights.save import writer_for
from keras_nfnet.weights.structure import expected_shapes, infer, variant_of


def convert(
    source: Path, destination: Path, layout: str | None = None
) -> dict[str, Any]:
    """Converts a weights file.

    Args:
        source: A file as for `load`; which kind is told from its content.
        destination: The file to write, by its ending `.safetensors` (this
            package's names), `.weights.h5` (Keras's) or `.npz` (DeepMind's
            names, a pickle of NumPy arrays). It is replaced only when
            everything succeeded.
        layout: Whose names a `.safetensors` has: `"keras_nfnet"`, as by
            default, or `"timm"`.

    Returns:
        A report: `{"source", "destination", "from", "to", "variant",
        "classes", "arrays", "parameters"}`; `variant` is `None` for a
        network outside of the table.

    Raises:
        ValueError: If the source is damaged or holds no NFNet, or the
            destination does not fit.
        WeightsFileError: If a file cannot be read or written.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> keras_nfnet.weights.save(model, "haiku.npz")
    >>> report = keras_nfnet.weights.convert("haiku.npz", "own.safetensors")
    >>> report["from"], report["classes"]
    ("DeepMind's (haiku)", 10)
    """
    source = path_of(source, "source")
    destination = path_of(destination, "destination")
    write, ours = writer_for(destination, layout)
    if os.path.realpath(source) == os.path.realpath(destination) or (
        os.path.exists(source)
        and os.path.exists(destination)
        and os.path.samefile(source, destination)
    ):
        raise ValueError(
            "`destination` must be another file than `source`. "
            f"Received: destination={destination!r}"
        )
    with open_weights(source) as contents:
        theirs, shapes, classes = _expected(contents, source)
        names = theirs.names(shapes)
        arrays = collect(
            {
                names[key]: theirs.shape(key, shape)
                for key, shape in shapes.items()
            },
            contents.entries,
            f"The file {source!r} ({theirs.name} names)",
            "is not a whole NFNet",
        )
        contents.compare_with_known(source)
        arrays = {
            key: theirs.from_file(key, arrays.pop(names[key])) for key in shapes
        }
    write(arrays, destination)
    return {
        "source": source,
        "destination": destination,
        "from": theirs.name,
        "to": ours,
        "variant": variant_of(shapes),
        "classes": classes,
        "arrays": len(arrays),
        "parameters": sum(array.size for array in arrays.values()),
    }


def _expected(contents, source):
    """`(layout, {key: shape}, classes)` of the network a file holds."""
    theirs = contents.layout
    try:
        config, classes, channels = infer(shapes_in(contents))
    except ValueError as error:
        raise ValueError(f"The file {source!r}: {error}") from error
    return theirs, expected_shapes(config, classes, channels), classes
