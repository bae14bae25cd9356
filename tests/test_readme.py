"""The README says what its sources say, and its links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tools"))


def test_tables_are_those_of_the_results(variant_rows, monkeypatch):
    import readme_tables

    monkeypatch.setattr(
        "keras_nfnet.diagnostics.variant_table", lambda: variant_rows
    )
    stand = set()
    for path in readme_tables.FILES:
        text = path.read_text(encoding="utf-8")
        assert readme_tables.filled(path) == text, path
        stand |= set(re.findall(r"<!-- table (\w+) -->", text))
    assert stand == {table.__name__ for table in readme_tables.TABLES}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_and_named_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    code = re.findall(
        r"`((?:benchmarks|export|notebooks|tools)/[\w./]*)`", text
    )
    assert document != "README.md" or len(links) > 10
    for target in links:
        assert (ROOT / target).exists(), target
    for target in code:  # Of the package, or beside it.
        places = (ROOT / target, ROOT / "keras_nfnet" / target)
        assert any(place.exists() for place in places), target


def test_no_command_is_unknown():
    from keras_nfnet.cli import _parser

    (commands,) = (
        action.choices
        for action in _parser()._actions
        if isinstance(action.choices, dict)
    )
    said = set(re.findall(r"^keras-nfnet (\w+)", README, re.MULTILINE))
    assert said and said <= set(commands)
