"""Writing weights: our own formats, timm's and DeepMind's."""

import io
import json
import pickle

import keras
import numpy as np

from keras_nfnet.utils.files import replacing
from keras_nfnet.utils.types import Path
from keras_nfnet.weights.check import checksum_of
from keras_nfnet.weights.files import CHECKSUM, CHECKSUMS, path_of
from keras_nfnet.weights.haiku import tree_of, values_of
from keras_nfnet.weights.known import sealing
from keras_nfnet.weights.layout import layout_for
from keras_nfnet.weights.layouts import HAIKU, KERAS_H5, OWN, TIMM
from keras_nfnet.weights.structure import whole_network


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
    write, _ = writer_for(path, layout)
    write(values_of(whole_network(model)), path)


def writer_for(path, layout=None):
    """`(write(arrays, path), whose names)` for a file's ending."""
    if layout not in (None, "keras_nfnet", "timm"):
        raise ValueError(
            '`layout` must be `None`, "keras_nfnet" or "timm". '
            f"Received: layout={layout!r}"
        )
    lower = path.lower()
    if lower.endswith(".safetensors"):
        if layout == "timm":
            return _write_timm, TIMM[0].name
        return _write_safetensors, OWN.name
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


def _refuse_infinite(arrays):
    bad = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(
            "Every value must be finite, or the file could not be loaded "
            f"again. Not finite: {', '.join(bad[:5])}"
        )


def _write_safetensors(arrays, path):
    from safetensors.numpy import save_file

    _refuse_infinite(arrays)
    names = OWN.names(arrays)
    checksums = {names[key]: checksum_of(arrays[key]) for key in arrays}
    metadata = {"format": "keras_nfnet", CHECKSUMS: json.dumps(checksums)}
    with replacing(path) as temporary:
        save_file(
            {names[key]: array for key, array in arrays.items()},
            temporary,
            metadata=metadata,
        )


def _write_timm(arrays, path):
    from safetensors.numpy import save_file

    _refuse_infinite(arrays)
    layout = layout_for(arrays, TIMM)
    names = layout.names(arrays)
    checksums, tensors = {}, {}
    for key, name in names.items():
        tensors[name] = layout.to_file(key, arrays[key])
        checksums[name] = checksum_of(tensors[name])
    # "pt" is what timm and transformers expect to find.
    metadata = {"format": "pt", CHECKSUMS: json.dumps(checksums)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _write_h5(arrays, path):
    import h5py

    _refuse_infinite(arrays)
    names = KERAS_H5.names(arrays)
    # In memory: where the disk is full, HDF5 would end the process.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for key, array in arrays.items():
            dataset = file.create_dataset(names[key], data=array)
            dataset.attrs[CHECKSUM] = checksum_of(array)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())


def _write_pickle(arrays, path):
    _refuse_infinite(arrays)
    with (
        replacing(path) as temporary,
        open(temporary, "w+b") as file,
        sealing(file),
    ):
        # Protocol 4 is the newest that names nothing but arrays and dtypes
        # in the way that every NumPy reads.
        pickle.dump(tree_of(arrays), file, protocol=4)
