"""Writes a preset whole or not at all, with a model card for the hub."""

import contextlib
import contextvars
import dataclasses
import fnmatch
import os

import numpy as np
from keras import ops

from keras_nfnet.architecture import RECIPE_CHECKS, NFNetConfig
from keras_nfnet.diagnostics.cost import count_macs
from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.utils.arguments import path, text
from keras_nfnet.utils.files import place, staged
from keras_nfnet.variants import VARIANTS
from keras_nfnet.version import __version__
from keras_nfnet.weights.load import load
from keras_nfnet.weights.published import (
    digest_of,
    published_weights,
    repository,
)
from keras_nfnet.weights.structure import HEAD, is_head, parameters

_CONFIG = "config.json"
_CARD = "README.md"
_TAGS = ("keras-hub", "nfnet", "normalizer-free", "arxiv:2102.06171")
_TAGS_OF_TASK = {
    "image-classification": "ImageClassifier",
    "image-feature-extraction": "Backbone",
}
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
        with open(os.path.join(folder, _CARD), "w", encoding="utf-8") as file:
            file.write(_model_card(model, compared, license, sizes))
        names = {*sizes, _CARD}
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
    if not _same(found, _loaded(backbone, source)):
        raise ValueError(
            "`source` must be the file that the values came from, or `None`. "
            f"Received: source={source!r}, whose values are others"
        )
    has_head, bias = False, found.get(f"{HEAD}/bias")
    if bias is not None:
        # Not where the file has another number of classes, or none.
        with contextlib.suppress(ValueError):
            theirs = _loaded(backbone, source, bias.shape[0])
            heads = {key: theirs[key] for key in theirs if is_head(key)}
            has_head = _same(heads, found)
    return name or os.path.basename(source), digest_of(source), has_head


def _loaded(backbone, source, classes=None):
    """The variables of a network with the values of a file, by key."""
    model = NFNet(
        backbone.config,
        include_top=classes is not None,
        weights=None,
        input_shape=backbone.image_shape,
        classes=classes or 1,
    )
    load(model, source)
    return parameters(model)[0]


def _same(some, others):
    return all(
        np.array_equal(_values(some[key]), _values(others[key]))
        for key in some.keys() & others.keys()
    )


def _values(variable):
    return np.asarray(ops.convert_to_numpy(variable), "float32")


def _model_card(model, compared, license, sizes):
    """The text of a model card: only what is known of the model.

    Args:
        model: An `NFNetBackbone` or `NFNetImageClassifier`.
        compared: `(name, SHA-256, whether the classifier's are its too)` of
            the file that the values were compared with, or `None`.
        license: Of the values, or `None` if it is not known.
        sizes: `{name: bytes}` of the preset's files.

    Returns:
        Markdown with a YAML header.
    """
    backbone = getattr(model, "backbone", model)
    is_task = backbone is not model
    task = "image-classification" if is_task else "image-feature-extraction"
    name = backbone.variant
    title = "A Normalizer-Free Network"
    if name:
        title = f"Normalizer-Free Network {name}"
    tags = (*_TAGS, "arxiv:2101.08692", task)
    return f"""\
---
library_name: keras-hub
license: {license or "unknown"}
pipeline_tag: {task}
tags:
{_lines(f"- {tag}" for tag in tags)}---

# {title}

An image classifier without batch normalization, after Brock et al. 2021 \
([2102.06171](https://arxiv.org/abs/2102.06171), \
[2101.08692](https://arxiv.org/abs/2101.08692))\
{"." if is_task else ", without its classifier."}

```python
import keras_hub
import keras_nfnet.hub  # pip install 'keras-nfnet[hub]'

model = keras_hub.models.{_TAGS_OF_TASK[task]}.from_preset("hf://USER/NAME")
```

## Architecture

{_table(_architecture(model, backbone, is_task))}
## Sizes

{_table(_sizes(model, backbone, sizes))}
{_images(model)}## Values

{_lines(_values_said(compared, license, is_task))}"""


def _lines(lines):
    return "".join(f"{line}\n" for line in lines)


def _table(rows):
    rows = (f"| {a} | {b} |" for a, b in rows)
    return _lines(["| | |", "|---|---|", *rows])


def _architecture(model, backbone, is_task):
    """All fields that are not their defaults, and what is beside them."""
    rows = [("network", backbone.variant or "a configuration of one's own")]
    for field in dataclasses.fields(NFNetConfig):
        value = getattr(backbone.config, field.name)
        if field.name not in RECIPE_CHECKS and value != field.default:
            rows.append((f"`{field.name}`", f"`{value}`"))
    rows.append(("`image_shape`", f"`{backbone.image_shape}`"))
    if backbone.output_stride != 32:
        rows.append(("`output_stride`", f"`{backbone.output_stride}`"))
    if is_task:
        rows += [
            ("classes", model.num_classes),
            ("activation", f"`{model.activation}` (`None`: logits)"),
        ]
    return rows


def _sizes(model, backbone, sizes):
    config, (height, width, _) = backbone.config, backbone.image_shape
    sides = [(side, side) for side in (config.train_size, config.test_size)]
    if height and width:
        sides = [(height, width)]
    rows = [("parameters", f"{model.count_params():,}")]
    for side in dict.fromkeys(sides):
        if side[0]:
            gmacs = count_macs(model, *side) / 1e9
            rows.append((f"GMACs at {side[0]}×{side[1]} px", f"{gmacs:.2f}"))
    weights = sum(n for name, n in sizes.items() if name.endswith(".h5"))
    return [*rows, ("bytes of the weights", f"{weights:,}")]


def _images(model):
    preprocessor = getattr(model, "preprocessor", None)
    converter = getattr(preprocessor, "image_converter", None)
    if converter is None:
        return ""
    return f"""\
## Images

RGB, 0–255. The preprocessor brings them to \
{converter.image_size or "no other size"} \
(`margin={getattr(converter, "margin", None)}`), multiplies the channels by \
{_short(converter.scale)} and adds {_short(converter.offset)}.

"""


def _short(values):
    return [round(float(value), 6) for value in np.atleast_1d(values)]


def _values_said(compared, license, is_task):
    source = "Not stated; not compared with any published file."
    if compared:
        name, digest, has_head = compared
        what = "every value of the network"
        if is_task and has_head:
            what += ", its classifier's too,"
        elif is_task:
            what += " but its classifier's, which are others,"
        source = (
            f"`{name}` (SHA-256 `{digest}`): {what} was compared with that "
            "file when this preset was written, and is the same."
        )
    return [
        f"- **Source**: {source}",
        f"- **Licence**: {license or 'not stated'} (of the values; the code "
        "is Apache-2.0).",
        "- **Checked**: read back when it was written, all arrays the same "
        "bit for bit. Accuracy: not measured for this preset.",
        f"- **Written by**: keras-nfnet {__version__}.",
    ]
