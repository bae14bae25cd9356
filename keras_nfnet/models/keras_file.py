"""Models from `.keras` files, as runs leave them."""

import io
import itertools
import json
import math
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np

# What the file names must be known to Keras.
from keras_nfnet.models import nfnet  # noqa: F401
from keras_nfnet.models.nfnet import without_values
from keras_nfnet.weights.check import check_size, one_line
from keras_nfnet.weights.files import SafeHDF5

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = ("metadata.json", _CONFIG, _WEIGHTS)
_LONGEST_JSON = 8 * 2**20  # F7's has 0.1 MB.
_MOST_COST = 15_000  # 1,500 simple layers; F7 costs 5,000.
_SMALL = ("keras.initializers", "keras.regularizers", "keras.constraints")
_SPARE_VARIABLES = 1000
_PART = 2**20


def load_keras_file(path, argument):
    """Loads a model for inference.

    The file is looked through before Keras loads it: what it takes in time
    and memory is bounded by its size.

    NOTE: Keras makes whatever layers the file names, those of other
    packages that are registered included. A file is as trustworthy as they.

    Args:
        path: Of the `.keras` file.
        argument: Name of the caller's argument, for errors.

    Returns:
        The model, without what trained it, which may be code that is not
        here.

    Raises:
        ValueError: If there is no such file, it is not whole, would take
            far more memory than it has bytes, or has values that are not
            finite.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"`{argument}` must be a variant or a .keras file that exists. "
            f"Received: {str(path)!r}"
        )
    try:
        _check(path)
        model = keras.models.load_model(path, compile=False)
        _check_values(model)
    except Exception as error:  # Of any type: Keras runs the configuration.
        raise ValueError(
            f"`{argument}` must be a whole .keras file of known layers. "
            f"Received: {str(path)!r} ({one_line(error)})"
        ) from error
    return model


class _SmallReads(io.BufferedReader):
    """A file that is read in small parts.

    A zip archive's list of members is read at once, and takes ten times its
    size in memory.
    """

    def read(self, size=-1):
        data = super().read(size if 0 <= size <= _PART else _PART + 1)
        if len(data) > _PART:
            raise ValueError("its list of members is too long")
        return data


def _check(path):
    """Refuses what Keras could not load within bounds."""
    with (
        _SmallReads(io.FileIO(path)) as file,
        zipfile.ZipFile(file) as archive,
    ):
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("it names a member twice")
        for name, member in members.items():
            if name not in _MEMBERS and not name.startswith("assets/"):
                raise ValueError(f"it has the member {name[:80]!r}")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"its {name} is compressed, which Keras never does, and "
                    "could be far larger than the file"
                )
        size = os.path.getsize(path)
        if sum(member.file_size for member in members.values()) > size:
            raise ValueError("its members are larger than the file")
        for name in (_CONFIG, _WEIGHTS):
            if name not in members:
                raise ValueError(f"it has no {name}")
        if members[_CONFIG].file_size > _LONGEST_JSON:
            raise ValueError(f"its {_CONFIG} is too long")
        # Reading a member to its end checks its checksum.
        contents = {name: _read(archive, name) for name in (_CONFIG, _WEIGHTS)}
        for name in members.keys() - contents.keys():
            _read(archive, name)
    with h5py.File(contents[_WEIGHTS], "r") as weights:
        safe = SafeHDF5(weights, size)
        datasets = safe.datasets()
        for dataset in datasets.values():
            safe.text(dataset, "dtype")  # Keras reads it.
        sizes = {name: dataset.nbytes for name, dataset in datasets.items()}
    check_size(sizes, size)
    config = json.load(contents[_CONFIG])
    _check_variables(config, len(sizes), sum(sizes.values()))


def _read(archive, name):
    data = io.BytesIO()
    with archive.open(name) as member:
        shutil.copyfileobj(member, data, _PART)
    data.seek(0)
    return data


def _cost(config):
    """How long Keras takes to build what is described, in about 0.5 ms."""
    if isinstance(config, list):
        return sum(map(_cost, config))
    if not isinstance(config, dict):
        return 0
    cost = sum(
        _cost(value) for key, value in config.items() if key != "inbound_nodes"
    )
    if "class_name" not in config or config.get("module") in _SMALL:
        return cost
    inner = config.get("config")
    if config["class_name"] == "Sequential" and isinstance(inner, dict):
        # Keras builds it anew after each of its layers.
        layers = inner.get("layers") or []
        cost = sum(itertools.accumulate(_cost(layer) for layer in layers))
    cost += 10 if config.get("registered_name") is None else 30
    return cost * max(1, len(config.get("inbound_nodes") or ()))


def _custom_objects(config):
    """What a configuration names and only the scope of this thread knows."""
    if isinstance(config, dict):
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _custom_objects(value)
    elif isinstance(config, str):
        found = keras.saving.get_registered_object(config)
        if found is not None:
            yield config, found


def _check_variables(config, datasets, stored):
    """Refuses a model whose variables are not what the file has."""
    if _cost(config) > _MOST_COST:
        raise ValueError("it has more layers than any network")
    custom_objects = dict(_custom_objects(config))

    def build():
        return keras.saving.deserialize_keras_object(
            {**config, "compile_config": None}, custom_objects
        )

    try:
        model = without_values(build)
    except ValueError as error:
        # Someone's layer that gives its variables values at once.
        if "stateless scope" in str(error):
            return
        raise
    if len(model.variables) > 2 * datasets + _SPARE_VARIABLES:
        raise ValueError(f"it has {datasets} of {len(model.variables)} arrays")
    check_size(
        {
            variable.path: 4 * math.prod(variable.shape)
            for variable in model.variables
        },
        stored,
    )


def _check_values(model):
    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable)
        if keras.backend.is_float_dtype(variable.dtype) and (
            not np.isfinite(value).all()
        ):
            raise ValueError(f"its {variable.path} is not finite")
