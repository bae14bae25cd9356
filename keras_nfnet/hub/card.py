"""The model card of a preset, as Hugging Face takes it."""

import dataclasses

import numpy as np

from keras_nfnet.architecture import RECIPE_CHECKS, NFNetConfig
from keras_nfnet.diagnostics.cost import count_macs
from keras_nfnet.version import __version__

CARD = "README.md"
_TAGS = ("keras-hub", "nfnet", "normalizer-free", "arxiv:2102.06171")
_TAGS_OF_TASK = {
    "image-classification": "ImageClassifier",
    "image-feature-extraction": "Backbone",
}


def model_card(model, compared, license, sizes):
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
    title = (
        f"Normalizer-Free Network {name}"
        if name
        else ("A Normalizer-Free Network")
    )
    lines = [
        "---",
        "library_name: keras-hub",
        f"license: {license or 'unknown'}",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in (*_TAGS, "arxiv:2101.08692", task)),
        "---",
        "",
        f"# {title}",
        "",
        "An image classifier without batch normalization, after Brock et al. "
        "2021 ([2102.06171](https://arxiv.org/abs/2102.06171), "
        "[2101.08692](https://arxiv.org/abs/2101.08692))"
        + ("." if is_task else ", without its classifier."),
        "",
        "```python",
        "import keras_hub",
        "import keras_nfnet.hub  # pip install 'keras-nfnet[hub]'",
        "",
        f"model = keras_hub.models.{_TAGS_OF_TASK[task]}.from_preset("
        '"hf://USER/NAME")',
        "```",
        "",
        "## Architecture",
        "",
        *_table(_architecture(model, backbone, is_task)),
        "",
        "## Sizes",
        "",
        *_table(_sizes(model, backbone, sizes)),
        "",
        *_images(model),
        "## Values",
        "",
        *_values(compared, license, is_task),
        "",
    ]
    return "\n".join(lines)


def _table(rows):
    return ["| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]


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
        return []
    return [
        "## Images",
        "",
        "RGB, 0–255. The preprocessor brings them to "
        f"{converter.image_size or 'no other size'} (`margin="
        f"{getattr(converter, 'margin', None)}`), multiplies the channels by "
        f"{_short(converter.scale)} and adds {_short(converter.offset)}.",
        "",
    ]


def _short(values):
    return [round(float(value), 6) for value in np.atleast_1d(values)]


def _values(compared, license, is_task):
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
