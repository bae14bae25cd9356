"""Writes a preset whole or not at all, with its model card."""

import contextvars
import fnmatch
import os

import numpy as np
from keras import ops

from keras_nfnet.hub.card import CARD, model_card
from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.utils.arguments import path, text
from keras_nfnet.utils.files import place, staged
from keras_nfnet.variants import VARIANTS
from keras_nfnet.weights.load import load
from keras_nfnet.weights.published import (
    digest_of,
    published_weights,
    repository,
)
from keras_nfnet.weights.structure import HEAD, is_head, parameters

_CONFIG = "config.json"
# What keras-hub would read of an earlier preset beside a new one.
_OF_ANOTHER = ("task.json", "task.weights.h5", "model*.weights.*")
# A task's preset holds its backbone's, which keras-hub writes by the
# backbone's own method.
_inside = contextvars.ContextVar("inside another's preset", default=False)


def save(model, write, preset_dir, source, license):
    """Saves a preset, read back and compared before it takes its place.

    Args:
        model: An `NFNetBackbone` or `NFNetImageClassifier`.
        write: Function of a folder that writes keras-hub's files into it.
        preset_dir: As for `NFNetBackbone.save_to_preset`, as those below.
        source: A path, `"imagenet"` or `None`.
        license: A text or `None`.

    Raises:
        ValueError: As `NFNetBackbone.save_to_preset`.
    """
    if _inside.get():
        write(preset_dir)
        return
    path("preset_dir", preset_dir, "the path of a folder")
    text("license", license, optional=True)
    target = place(os.fspath(preset_dir))
    bad = [v.path for v in model.weights if not np.isfinite(_values(v)).all()]
    if bad:
        raise ValueError(
            "Every value must be finite to be saved. Not finite: "
            f"{', '.join(bad[:5])}"
        )
    compared = source and _compared(model, source)
    others = []
    with staged(os.path.join(target, _CONFIG), "preset_dir", others) as config:
        folder = os.path.dirname(config)
        token = _inside.set(True)
        try:
            write(folder)
        finally:
            _inside.reset(token)
        _read_back(model, folder)
        sizes = {
            name: os.path.getsize(os.path.join(folder, name))
            for name in os.listdir(folder)
        }
        with open(os.path.join(folder, CARD), "w", encoding="utf-8") as file:
            file.write(model_card(model, compared, license, sizes))
        names = {*sizes, CARD}
        _refuse_a_mixture(target, names)
        others += [os.path.join(target, name) for name in names - {_CONFIG}]


def variant_of(config):
    """The name in `VARIANTS` of a configuration, or `None`."""
    names = [name for name, row in VARIANTS.items() if row == config]
    return names[0] if names else None


def _refuse_a_mixture(target, names):
    stale = [
        name
        for name in sorted(os.listdir(target))
        if name not in names
        and any(fnmatch.fnmatch(name, pattern) for pattern in _OF_ANOTHER)
    ]
    if stale:
        raise ValueError(
            "`preset_dir` must not hold files of another preset that this "
            "one does not replace: keras-hub would load both as one. Remove "
            f"them or choose another folder. Received: "
            f"preset_dir={target!r} with {', '.join(stale[:5])}"
        )


def _read_back(model, folder):
    again = type(model).from_preset(folder)
    for one, other in zip(model.weights, again.weights, strict=True):
        if not np.array_equal(_values(one), _values(other)):
            raise ValueError(
                "The preset was not written: read back, the values of "
                f"{one.path} are others"
            )


def _compared(model, source):
    """Compares the values with the file that they came from.

    Returns:
        `(name, SHA-256, whether the classifier's are its too)`.

    Raises:
        ValueError: If they are not the file's.
    """
    found, _ = parameters(model)
    backbone = getattr(model, "backbone", model)
    name = None
    if source == "imagenet":
        variant = backbone.variant
        name, source = repository(variant), published_weights(variant)
    source = os.fspath(path("source", source, "the path of a file"))
    fresh = NFNet(
        backbone.config,
        include_top=False,
        weights=None,
        input_shape=backbone.image_shape,
    )
    load(fresh, source)
    theirs, _ = parameters(fresh)
    if not _same(found, theirs):
        raise ValueError(
            "`source` must be the file that the values came from, or `None`. "
            f"Received: source={source!r}, whose values are others"
        )
    heads = [key for key in found if is_head(key)]
    return (
        name or os.path.basename(source),
        digest_of(source),
        bool(heads) and _has_head(found, backbone, source),
    )


def _has_head(found, backbone, source):
    """Whether the classifier's values are the file's too."""
    bias = found[f"{HEAD}/bias"]
    whole = NFNet(
        backbone.config,
        weights=None,
        input_shape=backbone.image_shape,
        classes=bias.shape[0],
    )
    try:
        load(whole, source)
    except ValueError:  # Another number of classes, or none.
        return False
    theirs, _ = parameters(whole)
    return _same({k: v for k, v in theirs.items() if is_head(k)}, found)


def _same(some, others):
    return all(
        np.array_equal(_values(some[key]), _values(others[key]))
        for key in some.keys() & others.keys()
    )


def _values(variable):
    return np.asarray(ops.convert_to_numpy(variable), "float32")
