"""Pages of HTML, each one file that opens offline: elements, and a run's page.

Text is escaped where it enters a page. Only what these functions return is
taken as HTML. A page runs no script.
"""

import base64
import datetime
import html
import io
import platform

import keras
import numpy as np

from keras_nfnet.training.recipe import to_toml
from keras_nfnet.utils.files import write_whole
from keras_nfnet.version import __version__

# The browser itself is told to load and run nothing.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }}
h1, h2 {{ line-height: 1.2; overflow-wrap: anywhere; }}
b {{ unicode-bidi: isolate; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .15rem .6rem; border-bottom: 1px solid #ddd;
  text-align: left; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; max-width: 100%; }}
.cards figure {{ width: 9rem; overflow-wrap: anywhere; font-size: .85rem; }}
.cards img {{ width: 100%; image-rendering: pixelated; }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: .6rem; }}
footer {{ color: #666; margin-top: 2rem; }}
</style>
</head>
<body>
"""


class Html(str):
    """Text that is HTML already."""


def escaped(value):
    """A value as HTML: `Html` unchanged, anything else as escaped text."""
    if isinstance(value, Html):
        return value
    # Names from a file system may hold what UTF-8 has no code for.
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return Html(html.escape(text))


def element(name, *content, **attributes):
    """An element, such as `element("p", "Some text")`."""
    inside = "".join(
        f' {key.rstrip("_")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{inside}>{''.join(map(escaped, content))}</{name}>")


def table(rows, header=()):
    """A table; integers are right-aligned, with a comma every three digits.

    Args:
        rows: Lists of cells.
        header: Titles of the columns, or none.
    """
    lines = [element("tr", *map(_cell, row)) for row in rows]
    if header:
        titles = (element("th", title) for title in header)
        lines.insert(0, element("tr", *titles))
    return element("div", element("table", *lines), class_="wide")


def _cell(value):
    if isinstance(value, int):
        return element("td", f"{value:,}", class_="number")
    # A name that is written from right to left ends with its cell.
    return element("td", value, dir="auto")


def image(png, text):
    """An embedded image.

    Args:
        png: Its bytes.
        text: What it shows, for readers who cannot see it.
    """
    data = base64.b64encode(png).decode()
    return Html(
        f'<img alt="{escaped(text)}" src="data:image/png;base64,{data}">'
    )


def png_of(figure):
    """A matplotlib figure as the bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()


def write_page(path, title, *parts):
    """Writes a page, whole or not at all.

    Args:
        path: The file.
        title: Its title, a text.
        *parts: Elements, or texts.
    """
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    footer = element(
        "footer",
        f"Made by keras_nfnet {__version__}, Keras {keras.__version__} on "
        f"{backend} {version}, Python {platform.python_version()}, {now}.",
    )
    body = [element("h1", title), *parts, footer]
    content = _HEAD.format(title=escaped(title))
    content += "\n".join(map(escaped, body)) + "\n</body>\n</html>\n"
    write_whole(path, content)


def write_run_report(path, recipe, history, curves, summary, signal=None):
    """Writes the page of a run: results, curves, signal, recipe.

    Args:
        path: The file.
        recipe: The run's `Recipe`.
        history: `{name: values by epoch}`.
        curves: `training_figure` of it, a PNG.
        summary: What `results.json` holds, or `None` of a run that is not
            finished.
        signal: The `SignalPropagation` of the trained model, or `None`.
    """
    epochs = len(next(iter(history.values())))
    parts = [element("p", f"Epoch {epochs:,} of {recipe.epochs:,}.")]
    if summary is not None:
        parts.append(table(_results(summary)))
    parts += [element("h2", "Training"), image(curves, "Training curves")]
    if signal is not None:
        parts += [
            element("h2", "Signal propagation"),
            element(
                "p",
                "Of standard-normal images through the trained network, by "
                "block; expected is what the analysis says of a network "
                "before training.",
            ),
            image(png_of(signal.plot()), "Signal propagation"),
        ]
    rows = [
        (epoch, *("–" if v is None else f"{v:.4g}" for v in values))
        for epoch, values in enumerate(zip(*history.values(), strict=True), 1)
    ]
    log = table(rows, ("epoch", *history))
    parts += [
        element("h2", "Recipe"),
        element("pre", to_toml(recipe)),
        element("details", element("summary", "The log"), log),
    ]
    write_page(path, f"Run of {recipe.name}", *parts)


def _results(summary):
    for prefix, weights in (("val", ""), ("ema_val", ", averaged weights")):
        for name, text, form in (
            ("accuracy", "accuracy", ".2%"),
            ("top5", "top-5 accuracy", ".2%"),
            ("loss", "loss", ".4f"),
        ):
            value = summary.get(f"{prefix}_{name}")
            if value is not None:
                yield f"held-out {text}{weights}", f"{value:{form}}"
    for name in ("examples", "steps", "parameters", "backend"):
        text = "held-out examples" if name == "examples" else name
        yield text, summary[name]
    for split, line in summary["corrupt"].items():
        yield f"corrupt, {split}", line


def training_figure(history):
    """Loss, accuracy, clipped units and learning rate over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (loss, accuracy), (clipped, rate) = figure.subplots(2, 2)
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        for prefix, label in (
            ("", "training"),
            ("val_", "held out"),
            ("ema_val_", "held out, average of the weights"),
        ):
            _curve(axis, history.get(prefix + name), label)
        axis.set_ylabel(name)
        axis.legend()
    _curve(clipped, history.get("clipped"), "all", color="black")
    for stage in ("stem", "stage1", "stage2", "stage3", "stage4", "head"):
        _curve(clipped, history.get(f"clipped_{stage}"), stage, linewidth=1)
    clipped.set_ylabel("fraction of units clipped, last step")
    if clipped.lines:
        clipped.legend()
    _curve(rate, history.get("learning_rate"), "learning rate")
    rate.set_ylabel("learning rate")
    for axis in (loss, accuracy, clipped, rate):
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    return figure


def _curve(axis, values, label, **style):
    if values:
        epochs = range(1, len(values) + 1)
        values = np.array(values, float)  # `None` becomes NaN: a gap.
        axis.plot(epochs, values, label=label, marker=".", ms=3, **style)
