"""What a release offered stays: names, arguments, options of commands."""

import importlib
import inspect
import json

import pytest
from conftest import FIGURES

from keras_nfnet.cli import main
from keras_nfnet.utils.moved import MOVED

# Of 1.0.0rc1, read from the release itself.
RC1 = json.loads((FIGURES / "public_names.json").read_text())


def named(path):
    where, _, name = path.rpartition(".")
    return getattr(importlib.import_module(where), name)


@pytest.mark.parametrize("path", RC1["names"])
def test_a_public_name_takes_what_it_took(path):
    found = named(path)
    module, _, name = path.rpartition(".")
    assert name in importlib.import_module(module).__all__
    before = RC1["names"][path]
    if before is not None:
        now = inspect.signature(found).parameters
        assert [name for name in now if name in before] == before


@pytest.mark.parametrize("command", RC1["commands"])
def test_a_command_takes_the_options_that_it_took(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    for option in RC1["commands"][command]:
        assert option in text.replace(",", " ").replace("]", " ").split()


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in MOVED for name in MOVED[module]],
)
def test_a_name_that_moved_works_and_says_where_it_is(module, name):
    new = MOVED[module][name]
    with pytest.warns(DeprecationWarning, match=f"`{module}.{name}` is `{new}"):
        old = getattr(importlib.import_module(module), name)
    assert old is named(new)
    with pytest.raises(AttributeError, match="no attribute 'none_such'"):
        importlib.import_module(module).none_such  # noqa: B018
