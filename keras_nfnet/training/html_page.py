"""A page of HTML in one file: it opens offline, and runs no script.

Text is escaped where it enters the page; only what these functions return is
taken as HTML.
"""

import base64
import datetime
import html
import io
import platform

import keras

from keras_nfnet.utils.files import replacing
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
    """A value as HTML: what is `Html` as it is, all else as text."""
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
    """A table; numbers are set to the right, and thousands parted.

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


def picture(png, text):
    """An embedded picture.

    Args:
        png: Its bytes.
        text: What it shows, for who cannot see it.
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
    footer = element(
        "footer",
        f"Made by keras_nfnet {__version__}, Keras {keras.__version__} on "
        f"{_backend()}, Python {platform.python_version()}, {now}.",
    )
    body = [element("h1", title), *parts, footer]
    content = _HEAD.format(title=escaped(title))
    content += "\n".join(map(escaped, body)) + "\n</body>\n</html>\n"
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)


def _backend():
    name = keras.backend.backend()
    module = __import__(name)
    return f"{name} {module.__version__}"
