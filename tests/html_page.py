"""Reads a page as a browser would, for tests of what it holds."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tables and pictures of a page, and all its elements.

    Args:
        path: The file.
    """

    def __init__(self, path):
        super().__init__()
        self.in_cell = False
        self.elements, self.tables, self.pictures = [], [], []
        self.text = path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True
        elif tag == "img":
            self.pictures.append(dict(attributes))

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.tables[-1][-1][-1] += data


def refuse_what_is_not_offline(page):
    """No script, no address but of embedded pictures, and a policy."""
    assert "default-src 'none'" in page.text
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "a")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, attributes)
            if name in ("src", "href"):
                assert value.startswith("data:image/png;base64,"), value
