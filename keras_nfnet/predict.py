"""Labels for picture files, by the paper's evaluation."""

import os

from keras_nfnet.data.labels import best, class_names, read_labels
from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    decode_picture,
    evaluation_picture,
    preprocess_input,
    sides,
)
from keras_nfnet.variants import VARIANTS


def predict(
    pictures,
    variant="F0",
    weights="imagenet",
    size=None,
    top=5,
    labels=None,
    classes=None,
    margin=EVALUATION_MARGIN,
):
    """The best classes of picture files.

    All pictures are read before the network is built, so that a bad one
    costs no waiting.

    Args:
        pictures: A list of paths, or of encoded bytes; or one of them.
        variant: Name of a variant, `"F0"` … `"F7+"`.
        weights: `"imagenet"` or the path of a file, as for
            `keras_nfnet.NFNet`.
        size: Side in pixels to evaluate at. Default: the variant's test
            size.
        top: How many classes to return, 1 or more.
        labels: One name per class, or the path of a text file with one name
            a line. Default: ImageNet's names for 1000 classes, else the
            classes' numbers.
        classes: Classes of the weights. Default: as many as there are
            `labels`, or 1000.
        margin: Pixels to resize beyond `size` before the centre crop.

    Returns:
        Per picture a list of `(label, score)`, best first; `top` of them,
        or fewer for fewer classes.

    Raises:
        ValueError: If a picture cannot be read (it is named), or an
            argument does not fit.

    Reference: arXiv:2102.06171, evaluation.
    """
    if isinstance(pictures, str | bytes | os.PathLike):
        pictures = [pictures]
    pictures = list(pictures)
    if not pictures:
        raise ValueError(
            "`pictures` must hold a picture or more. Received: pictures=[]"
        )
    if not isinstance(variant, str) or variant.upper() not in VARIANTS:
        raise ValueError(
            f"`variant` must be one of {', '.join(VARIANTS)}. "
            f"Received: variant={variant!r}"
        )
    if weights is None:
        raise ValueError(
            '`weights` must be "imagenet" or the path of a file; a network '
            "with random weights predicts nothing. Received: weights=None"
        )
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ValueError(
            f"`top` must be a whole number above 0. Received: top={top!r}"
        )
    size = VARIANTS[variant.upper()].test_size if size is None else size
    sides(size)
    if isinstance(labels, str | os.PathLike):
        labels = read_labels(labels)
    if classes is None:
        classes = 1000 if labels is None else len(labels)
    names = class_names(labels, classes)
    views = [
        evaluation_picture(decode_picture(picture), size, margin)
        for picture in pictures
    ]

    # The command line imports this module to print its help.
    from keras import ops
    from tqdm import tqdm

    from keras_nfnet.models.nfnet import NFNet

    model = NFNet(variant, weights=weights, classes=classes)
    results = []
    for view in tqdm(views, unit="picture", disable=len(views) < 2):
        images = preprocess_input(view, data_format="channels_last")[None]
        scores = ops.convert_to_numpy(model(images, training=False))[0]
        results.append(
            [(names[index], score) for index, score in best(scores, top)]
        )
    return results


def format_predictions(pictures, predictions):
    """A plain-text table of what `predict` returns.

    Args:
        pictures: The names of the pictures.
        predictions: A list of `(label, score)` per picture.

    Returns:
        A string: a line with the picture's name, then a line per class.
    """
    lines = []
    for picture, classes in zip(pictures, predictions, strict=True):
        lines.append(str(picture))
        lines.extend(
            f"  {score:7.2%}  {label}"  # 100.00% is the widest
            for label, score in classes
        )
    return "\n".join(lines)
