"""What the site takes from beside docs/: results, and lines of the code.

mkdocs calls these. In a page `<!-- source FILE NAME -->` becomes the lines
that define NAME, without the docstring.
"""

import ast
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
_SOURCE = re.compile(r"^<!-- source (\S+) (\S+) -->$", re.MULTILINE)


def on_files(files, config):
    """Adds the benchmarks' results as pages below results/."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "benchmarks" / "results").glob("*")):
        if path.suffix in (".md", ".png"):
            uri = f"results/{path.name}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    return _SOURCE.sub(_fenced, markdown)


def _fenced(match):
    path, name = match.groups()
    lines = source(path, name)
    return f'```python title="{path}"\n{lines}\n```'


def source(path, name):
    """The lines of a function, a method or a value, without its docstring.

    Args:
        path: File, from the project's root.
        name: `"function"`, `"Class.method"` or the name that is assigned.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in name.split("."):
        (node,) = (child for child in node.body if part in _names(child))
    lines = text.splitlines()
    keep = set(range(node.lineno - 1, node.end_lineno))
    if not isinstance(node, ast.Assign) and ast.get_docstring(node):
        keep -= set(range(node.body[0].lineno - 1, node.body[0].end_lineno))
    found = "\n".join(lines[index] for index in sorted(keep))
    return textwrap.dedent(found)


def _names(node):
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if hasattr(target, "id")]
    return [getattr(node, "name", None)]


def mathml(text, *_, **__):
    """A fence ```math, of LaTeX, as MathML: no script, no font."""
    from latex2mathml.converter import convert

    return f'<div class="math">{convert(text, display="block")}</div>'
