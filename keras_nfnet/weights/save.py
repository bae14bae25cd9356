"""Writing weights: our own formats, timm's and DeepMind's; conversion."""

import functools
import io
import json
import os
import pickle
from typing import Any

import h5py
import keras
import numpy as np

from keras_nfnet.utils.files import replacing, write_whole
from keras_nfnet.utils.types import Path
from keras_nfnet.weights.check import CHECKSUM, CHECKSUMS, checksum_of
from keras_nfnet.weights.files import open_weights, path_of
from keras_nfnet.weights.names import HAIKU, KERAS_H5, OWN, TIMM, layout_for
from keras_nfnet.weights.published import sealing
from keras_nfnet.weights.structure import (
    expected_shapes,
    infer,
    variant_of,
    whole_network,
)


def save(model: keras.Model, path: Path, layout: str | None = None) -> None:
    """Saves a model's weights, whole or not at all.

    Args:
        model: An NFNet of this package.
        path: Ends in `.safetensors`, `.weights.h5` (which Keras's
            `load_weights` reads as well), or `.npz` (DeepMind's pickle of
            `{module: {parameter: array}}`, NumPy arrays only).
        layout: Whose names a `.safetensors` has: `"keras_nfnet"`, as by
            default, or `"timm"`.

    Raises:
        ValueError: If the model is not an NFNet, a value is not finite, or
            the path does not fit. What was at `path` is unchanged then.
        WeightsFileError: If the disk refuses, with the same promise; an
            `OSError` and a `ValueError`.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> keras_nfnet.weights.save(model, "own.safetensors")
    >>> same = keras_nfnet.NFNet(config, weights="own.safetensors", classes=10)
    >>> images = keras.random.normal((2, 32, 32, 3))
    >>> np.array_equal(same(images), model(images))
    True
    """
    path = path_of(path, "path")
    write, _ = _writer_for(path, layout)
    arrays = _values_of(whole_network(model))
    bad = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(
            "Every value must be finite, or the file could not be loaded "
            f"again. Not finite: {', '.join(bad[:5])}"
        )
    write(arrays, path)


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
    write, ours = _writer_for(destination, layout)
    if (
        os.path.exists(source)
        and os.path.exists(destination)
        and os.path.samefile(source, destination)
    ):
        raise ValueError(
            "`destination` must be another file than `source`. "
            f"Received: destination={destination!r}"
        )
    with open_weights(source) as contents:
        try:
            config, classes, channels = infer(contents.shapes)
        except ValueError as error:
            raise ValueError(f"The file {source!r}: {error}") from error
        shapes = expected_shapes(config, classes, channels)
        arrays = contents.read(shapes, "is not a whole NFNet")
    write(arrays, destination)
    return {
        "source": source,
        "destination": destination,
        "from": contents.layout.name,
        "to": ours,
        "variant": variant_of(shapes),
        "classes": classes,
        "arrays": len(arrays),
        "parameters": sum(array.size for array in arrays.values()),
    }


def to_haiku_tree(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of a model as DeepMind's code names them.

    Args:
        model: An NFNet of this package.

    Returns:
        `{module: {parameter: float32 array}}`, sorted as the published
        files are, kernels HWIO. A model without a classifier has no
        module `…/~/linear`.

    Raises:
        ValueError: If the model is no network of this package, or one that
            DeepMind's code does not have, such as timm's.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> tree = keras_nfnet.weights.to_haiku_tree(model)
    >>> tree["NFNet/~/linear"]["w"].shape
    (128, 10)

    Reference: the authors' published `F*_haiku.npz`.
    """
    return _tree_of(_values_of(whole_network(model)))


def _writer_for(path, layout=None):
    """`(write(arrays, path), whose names)` for a file's ending."""
    if layout not in (None, "keras_nfnet", "timm"):
        raise ValueError(
            '`layout` must be `None`, "keras_nfnet" or "timm". '
            f"Received: layout={layout!r}"
        )
    lower = path.lower()
    if lower.endswith(".safetensors"):
        # "pt" is what timm and transformers expect to find.
        layouts, form = [OWN], "keras_nfnet"
        if layout == "timm":
            layouts, form = TIMM, "pt"
        write = functools.partial(_write_safetensors, layouts, form)
        return write, layouts[0].name
    if layout:
        raise ValueError(
            "`layout` is for a file that ends in .safetensors. "
            f"Received: layout={layout!r}, path={path!r}"
        )
    if lower.endswith(".weights.h5"):
        return _write_h5, KERAS_H5.name
    if lower.endswith(".npz"):
        return _write_pickle, HAIKU[0].name
    raise ValueError(
        "The file to write must end in .safetensors, .weights.h5 or .npz "
        f"(DeepMind's form). Received: path={path!r}"
    )


def _write_safetensors(layouts, form, arrays, path):
    from safetensors.numpy import save_file

    layout = layout_for(arrays, layouts)
    tensors = {
        name: layout.to_file(key, arrays[key])
        for key, name in layout.names(arrays).items()
    }
    checksums = {name: checksum_of(array) for name, array in tensors.items()}
    metadata = {"format": form, CHECKSUMS: json.dumps(checksums)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _write_h5(arrays, path):
    names = KERAS_H5.names(arrays)
    # In memory: where the disk is full, HDF5 would end the process.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for key, array in arrays.items():
            dataset = file.create_dataset(names[key], data=array)
            dataset.attrs[CHECKSUM] = checksum_of(array)
    write_whole(path, content.getbuffer())


def _write_pickle(arrays, path):
    with (
        replacing(path) as temporary,
        open(temporary, "w+b") as file,
        sealing(file),
    ):
        # Protocol 4 is the newest that names nothing but arrays and dtypes
        # in the way that every NumPy reads.
        pickle.dump(_tree_of(arrays), file, protocol=4)


def _values_of(variables):
    """`{key: float32 array}`, copies of the variables' values."""
    return {
        key: np.array(keras.ops.convert_to_numpy(variable), np.float32)
        for key, variable in variables.items()
    }


def _tree_of(arrays):
    """`{module: {parameter: array}}` of `{key: array}`."""
    tree = {}
    for key, name in layout_for(arrays, HAIKU).names(arrays).items():
        module, parameter = name.split(":")
        tree.setdefault(module, {})[parameter] = arrays[key]
    return {
        module: dict(sorted(tree[module].items())) for module in sorted(tree)
    }
