"""Labels for image files, by the paper's evaluation."""

import os
from collections.abc import Callable
from typing import NamedTuple

from keras_nfnet.data.decoding import decode_picture
from keras_nfnet.data.labels import best, class_names, described, read_labels
from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    evaluation_picture,
    sides,
)
from keras_nfnet.utils.arguments import integer
from keras_nfnet.variants import VARIANTS, variant_named


def predict(
    images,
    variant="F0",
    weights="imagenet",
    size=None,
    top=5,
    labels=None,
    classes=None,
    margin=None,
    input_range=None,
):
    """The best classes of image files.

    All images are read before the network is built, so that a bad one
    costs no waiting.

    Args:
        images: A list of paths, or of encoded bytes; or one of them, of
            the formats of `keras_nfnet.data.decode_picture`. EXIF
            orientation is not applied.
        variant: Name of a variant, such as `"F0"` or `"eca_nfnet_l0"`, or
            the path of a `.keras` file, such as a run leaves.
        weights: Of a variant: `"imagenet"` or the path of a file, as for
            `keras_nfnet.NFNet`.
        size: Side in pixels to evaluate at. Default: the variant's test
            size, or that of the file.
        top: How many classes to return, 1 or more.
        labels: One name per class, or the path of a text file with one name
            a line. Default: those beside a `.keras` file, ImageNet's names
            for 1000 classes, else the classes' numbers.
        classes: Classes of a variant's weights; 1 for one sigmoid unit,
            which tells two labels apart. Default: as many as there are
            `labels`, or 1000.
        margin: Pixels to resize beyond `size` before the centre crop, or a
            crop fraction, a float in (0, 1]. Default: as the variant was
            evaluated, what lies beside a `.keras` file, or 32.
        input_range: As for `keras_nfnet.export.to_onnx`.

    Returns:
        Per image a list of `(label, score)`, best first; `top` of them,
        or fewer for fewer classes.

    Raises:
        ValueError: If an image cannot be read (it is named), or an
            argument does not fit.

    Reference: arXiv:2102.06171, evaluation.
    """
    if isinstance(images, str | bytes | os.PathLike):
        images = [images]
    images = list(images)
    if not images:
        raise ValueError(
            "`images` must hold an image or more. Received: images=[]"
        )
    top = integer("top", top)
    if isinstance(labels, str | os.PathLike):
        labels = read_labels(labels)
    if str(variant).endswith(".keras"):
        network = _from_file(variant, weights, classes)
    else:
        network = _variant(variant, weights, classes, labels)
    labels = network.labels if labels is None else labels
    names = class_names(labels, network.classes)
    size = network.size if size is None else size
    if size is None:
        raise ValueError(
            "`size` must be given: the file takes any resolution and has no "
            f"preprocessing.json beside it. Received: variant={str(variant)!r}"
        )
    sides(size)
    margin = network.margin if margin is None else margin
    views = [
        evaluation_picture(decode_picture(image), size, margin)
        for image in images
    ]

    from keras import ops
    from tqdm import tqdm

    from keras_nfnet.export.contract import contract_of, ends_in_logits
    from keras_nfnet.models.output import is_one_sigmoid, probabilities

    model = network.build()
    is_logits, one_sigmoid = ends_in_logits(model), is_one_sigmoid(model)
    contract = contract_of(model, input_range)
    results = []
    for view in tqdm(views, unit="image", disable=len(views) < 2):
        outputs = model(
            contract.images(contract.pixels(view[None])), training=False
        )
        scores = probabilities(outputs, is_logits, one_sigmoid)
        scores = ops.convert_to_numpy(scores)[0]
        results.append(
            [(names[index], score) for index, score in best(scores, top)]
        )
    return results


class _Network(NamedTuple):
    """What is known of a network before it is built."""

    build: Callable
    classes: int
    size: int | tuple | None
    margin: int | float
    labels: tuple | None = None


def _variant(variant, weights, classes, labels):
    name = variant_named(variant)
    if name is None:
        raise ValueError(
            f"`variant` must be one of {', '.join(VARIANTS)}, or the path of "
            f"a .keras file. Received: variant={variant!r}"
        )
    if weights is None:
        raise ValueError(
            '`weights` must be "imagenet" or the path of a file; a network '
            "with random weights predicts nothing. Received: weights=None"
        )
    if classes is None:
        classes = 1000 if labels is None else len(labels)

    def build():
        from keras_nfnet.models.nfnet import NFNet

        activation = "sigmoid" if classes == 1 else "softmax"
        return NFNet(
            variant,
            weights=weights,
            classes=classes,
            classifier_activation=activation,
        )

    config = VARIANTS[name]
    margin = config.crop_fraction or EVALUATION_MARGIN
    labelled = 2 if classes == 1 else classes
    return _Network(build, labelled, config.test_size, margin)


def _from_file(path, weights, classes):
    for name, value, default in (
        ("weights", weights, "imagenet"),
        ("classes", classes, None),
    ):
        if value != default:
            raise ValueError(
                f"`{name}` is of a variant; a .keras file has its own. "
                f"Received: {name}={value!r}"
            )
    from keras_nfnet.export.contract import check_classifier, view_margin
    from keras_nfnet.models.keras_file import load_keras_file
    from keras_nfnet.models.output import labelled_classes

    # Its size and classes are not known before.
    model = load_keras_file(path, "variant")
    beside = described(path)
    fixed = tuple(model.inputs[0].shape[1:3])
    size = beside.size if None in fixed else fixed
    margin = view_margin(model, beside.margin)
    check_classifier(model)
    classes = labelled_classes(model)
    return _Network(lambda: model, classes, size, margin, beside.labels)


def format_predictions(images, predictions):
    """A plain-text table of what `predict` returns.

    Args:
        images: The names of the images.
        predictions: A list of `(label, score)` per image.

    Returns:
        A string: a line with the image's name, then a line per class.
    """
    lines = []
    for image, classes in zip(images, predictions, strict=True):
        lines.append(str(image))
        lines.extend(
            f"  {score:7.2%}  {label}"  # 100.00% is the widest
            for label, score in classes
        )
    return "\n".join(lines)
