"""Docstrings as the site shows them, read without importing the package."""

import ast
import inspect
import re
import textwrap
import types

import griffe

# Up to the reference, or the end.
_EXAMPLE = re.compile(r"^Example:\n\n(.*?)(?=\n\nReference:|\Z)", re.M | re.S)


class Docstrings(griffe.Extension):
    """Keras's `Example:` as griffe's `Examples:`, and computed docstrings.

    A module may compute a `__doc__` from strings and docstrings of its own.
    """

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = _with_examples(obj.docstring.value)

    def on_module_members(self, *, node, mod, **_):
        names = {"__builtins__": {}, "inspect": inspect}
        for statement in getattr(node, "body", []):
            if isinstance(statement, ast.ClassDef):
                computed = [
                    part.value
                    for part in statement.body
                    if isinstance(part, ast.Assign)
                    and ast.unparse(part.targets[0]) == "__doc__"
                ]
                text = ast.get_docstring(statement)
                for value in computed:
                    text = _evaluated(value, names)
                    _document(mod.members[statement.name], text)
                names[statement.name] = types.SimpleNamespace(__doc__=text)
            elif isinstance(statement, ast.Assign):
                target = statement.targets[0]
                if getattr(target, "attr", None) == "__doc__":
                    text = _evaluated(statement.value, names)
                    _document(mod.members[target.value.id], text)
                    continue
                try:
                    exec(ast.unparse(statement), names)
                except (NameError, AttributeError):
                    pass  # Not of strings alone, so not of a docstring.


def _evaluated(node, names):
    return inspect.cleandoc(eval(ast.unparse(node), names))


def _document(obj, text):
    obj.docstring = griffe.Docstring(_with_examples(text), parent=obj)


def _with_examples(text):
    def section(match):
        return "Examples:\n" + textwrap.indent(match[1].rstrip(), "    ")

    return _EXAMPLE.sub(section, text)
