"""What an evaluation found, as a page: classes, confusions, worst errors."""

import heapq
import io

import numpy as np

from keras_nfnet.training.report import (
    element,
    image,
    table,
    write_page,
)

# More classes than this make a matrix that nobody can read.
_MATRIX = 30
_PAIRS = 50  # Confused pairs that are listed.
_WORST = 40  # Errors that are shown.
_SIDE = 144  # Largest side of their images, in pixels.


class Findings:
    """Gathers what an `Evaluation` says of each image.

    Args:
        pixels: A function that makes what the model was given into pixels,
            `(height, width, channels)` of 0–255.

    Attributes:
        true: Classes of the images, in order.
        predicted: What was predicted.
        finite: Whether the losses of all images are finite.
    """

    def __init__(self, pixels):
        self._pixels = pixels
        self._worst = []
        self.true, self.predicted = [], []
        self.finite = True

    def __call__(self, images, labels, values):
        true = labels.argmax(axis=-1)
        loss, hit, _, predicted, probability = values.T
        self.finite &= bool(np.isfinite(loss).all())
        for i in np.flatnonzero(hit == 0):
            # Of equal losses the first image counts as the worse.
            badness = (float(loss[i]), -len(self.true) - int(i))
            if len(self._worst) == _WORST:
                if badness < self._worst[0][0]:
                    continue
                heapq.heappop(self._worst)
            what = (int(true[i]), int(predicted[i]), float(probability[i]))
            found = (badness, what, self._png(images[i]))
            heapq.heappush(self._worst, found)
        self.true += true.tolist()
        self.predicted += predicted.astype(int).tolist()

    def worst(self):
        """The errors of largest loss, the worst first.

        Returns:
            A list of `(index of the image, true class, predicted class,
            probability of the true class, of the predicted class, PNG)`.
        """
        return [
            (-index, true, predicted, float(np.exp(-loss)), probability, png)
            for (loss, index), (true, predicted, probability), png in sorted(
                self._worst, reverse=True
            )
        ]

    def _png(self, image):
        from PIL import Image

        pixels = np.clip(np.round(self._pixels(image)), 0, 255).astype("uint8")
        gray = pixels.shape[-1] < 3
        pixels = pixels[..., 0] if gray else pixels[..., :3]
        small = Image.fromarray(pixels)
        small.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        small.save(file, "PNG")
        return file.getvalue()


def write_evaluation_report(path, title, rows, findings, names, files=None):
    """Writes the page of an evaluation.

    Args:
        path: The file.
        title: What was evaluated on what, a text.
        rows: Pairs of a name and a value, what `evaluate` prints.
        findings: The `Findings`.
        names: One name per class.
        files: The images' file names in order, or `None`.

    Raises:
        ValueError: If an output of the model was not finite.
    """
    from sklearn.metrics import confusion_matrix

    if not findings.finite:
        raise ValueError(
            "A report needs a model whose outputs are finite. Received: a "
            "loss that is not"
        )
    matrix = confusion_matrix(
        findings.true, findings.predicted, labels=range(len(names))
    )
    parts = [table(rows), element("h2", "Confusions")]
    if len(names) <= _MATRIX:
        parts += [
            element(
                "p",
                "Rows are the true classes, columns what was predicted.",
            ),
            _matrix(matrix, names),
        ]
    parts += [
        _pairs(matrix, names),
        element("h2", "Worst errors"),
        _worst(findings.worst(), names, files),
        element("h2", "Classes"),
        _classes(matrix, names),
    ]
    write_page(path, title, *parts)


def _matrix(matrix, names):
    """The matrix as a table; the darker, the larger fraction of its row."""
    numbers = [
        element("th", str(i), title=name) for i, name in enumerate(names)
    ]
    lines = [element("tr", *[element("th")] * 2, *numbers)]
    for i, (row, name) in enumerate(zip(matrix, names, strict=True)):
        cells = []
        for j, count in enumerate(row):
            fraction = count / max(1, row.sum())
            colour = "70, 130, 200" if i == j else "220, 80, 60"
            style = f"background: rgba({colour}, {0.8 * fraction:.2f})"
            cells.append(
                element("td", f"{count:,}", class_="number", style=style)
            )
        title = element("th", name, dir="auto")
        lines.append(element("tr", element("th", str(i)), title, *cells))
    return element("div", element("table", *lines), class_="wide")


def _pairs(matrix, names):
    """The pairs of classes that were taken for another, by number."""
    wrong = matrix * (1 - np.eye(len(names), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    rows = [
        (
            names[i],
            names[j],
            int(wrong[i, j]),
            f"{100 * wrong[i, j] / matrix[i].sum():.1f}%",
        )
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    if not rows:
        return element("p", "No image was taken for another class.")
    header = ("is", "taken for", "images", "of the class")
    return table(rows, header)


def _worst(errors, names, files):
    if not errors:
        return element("p", "There is none.")
    cards = []
    for index, true, predicted, of_true, of_predicted, png in errors:
        file = files[index] if files else f"image {index + 1:,}"
        lines = (
            ("is", names[true], of_true),
            ("predicted", names[predicted], of_predicted),
        )
        text = [
            element(
                "div",
                *(f"{what} ", element("b", name, dir="auto")),
                f": {100 * probability:.3g}%",
            )
            for what, name, probability in lines
        ]
        cards.append(
            element(
                "figure",
                image(png, f"{names[true]}, taken for {names[predicted]}"),
                element("figcaption", *text, element("div", file, dir="auto")),
            )
        )
    return element("div", *cards, class_="cards")


def _classes(matrix, names):
    """Accuracy by class, the worst first."""
    rows = []
    for name, row, right in zip(names, matrix, matrix.diagonal(), strict=True):
        count = int(row.sum())
        accuracy = right / count if count else np.inf
        text = f"{100 * accuracy:.2f}%" if count else "–"
        rows.append((accuracy, (name, count, int(right), text)))
    rows.sort(key=lambda row: row[0])
    header = ("class", "images", "right", "accuracy")
    return table([row for _, row in rows], header)
