"""Recipes as TOML, and settings such as `epochs=3` on top of one."""

import dataclasses
import difflib
import tomllib
import typing

from keras_nfnet.training.recipe import Recipe
from keras_nfnet.utils.files import replacing

# TOML has no null.
_NONE = "none"


def to_toml(recipe):
    """A recipe as TOML, from which `from_toml` makes the same again."""
    import tomli_w

    return tomli_w.dumps(_plain(recipe))


def from_toml(text, source="the text"):
    """The recipe that a TOML document holds.

    Args:
        text: The document: the fields of `Recipe`, with `model` and
            `augmentation` as a name or as a table of their own fields, and
            `"none"` for `None`.
        source: What to call the document in an error.

    Raises:
        ValueError: If it is no TOML, or no recipe.

    Example:

    >>> from_toml(to_toml(recipe)) == recipe
    True
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"A recipe must be TOML. Received: {source}, {error}"
        ) from error
    return _made(Recipe, fields)


def read_recipe(path):
    """The recipe in a TOML file; see `from_toml`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"A recipe must be a TOML file. Received: {str(path)!r} ({error})"
        ) from error
    return from_toml(text, repr(str(path)))


def write_recipe(recipe, path):
    """Writes a recipe to a TOML file, whole or not at all."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(to_toml(recipe))


def with_settings(recipe, settings):
    """A recipe with other values, given as texts.

    Args:
        recipe: A `Recipe`.
        settings: Texts `key=value`, such as `"epochs=3"`, `"model=F1"`,
            `"clipping=none"`, `"model.widths=[16, 32]"` or
            `"augmentation.mixup=0"`. Values are TOML's; one that is none is
            taken as text.

    Raises:
        ValueError: If a key is no field of a recipe, or a value does not
            fit.
    """
    fields = _plain(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(
                "A setting must read key=value, such as epochs=3. "
                f"Received: {setting!r}"
            )
        table = fields
        *outer, last = key.split(".")
        for name in outer:
            if not isinstance(table.get(name), dict):
                _refuse_unknown(name, Recipe, table)
                raise ValueError(
                    f"`{name}` of this recipe has no fields of its own. "
                    f"Received: {setting!r} for {name}={table.get(name)!r}"
                )
            table = table[name]
        table[last] = _value(text.strip())
    return _made(Recipe, fields)


def _value(text):
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _plain(value):
    """Values that TOML has."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None:
        return _NONE
    if callable(value):
        raise ValueError(
            "A recipe with a function cannot be written; use an "
            f"`Augmentation` or its name. Received: {value!r}"
        )
    return value


def _made(cls, fields):
    types = typing.get_type_hints(cls)
    arguments = {}
    for name, value in fields.items():
        _refuse_unknown(name, cls, types)
        arguments[name] = _fitted(value, types[name])
    try:
        return cls(**arguments)
    except TypeError as error:  # A required field is not there.
        raise ValueError(
            f"A field is missing in the {cls.__name__}: {error}"
        ) from error


def _fitted(value, expected):
    options = typing.get_args(expected) or (expected,)
    if value == _NONE and type(None) in options:
        return None
    if isinstance(value, dict):
        for option in options:
            if dataclasses.is_dataclass(option):
                return _made(option, value)
    if isinstance(value, list):
        return tuple(value)
    if type(value) is int and float in options and int not in options:
        return float(value)
    return value


def _refuse_unknown(name, cls, known):
    if name in known:
        return
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"A {cls.__name__} has the fields {', '.join(known)}{hint} "
        f"Received: {name!r}"
    )
