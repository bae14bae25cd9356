"""The README says what its sources say, and its links lead somewhere."""

import configparser
import re
import shlex
import sys
from pathlib import Path

import pytest

from keras_nfnet.cli import _parser
from keras_nfnet.training.command import recipe_of

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


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def commands():
    """Each line of the README's `sh` blocks, and what it installs, in words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:pip|make|keras-nfnet) [^`]+)`", README)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in [*lines, *inline]]


def test_each_command_exists():
    """`make` runs in CI, the rest in the guides; here: nothing is misspelt."""
    known = {
        "make": in_the_makefile,
        "keras-nfnet": in_the_parser,
        "pip": in_the_extras,
        "python": lambda file, *_: (ROOT / file).is_file(),
        "docker": lambda *words: (ROOT / words[2]).is_file(),
        ".": lambda file: file == ".venv/bin/activate",
    }
    found = [words for words in commands() if words]
    assert {program for program, *_ in found} == set(known)
    for program, *arguments in found:
        assert known[program](*arguments), (program, arguments)


def in_the_makefile(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{target}:", makefile, re.MULTILINE)


def in_the_extras(word, target):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    named = re.fullmatch(r"\.\[([\w,]+)\]", target)[1]
    return word == "install" and set(named.split(",")) <= set(extras)


def in_the_parser(*arguments):
    """Refused arguments end the program; recipes and fields are checked too."""
    options = _parser().parse_args(arguments)
    if arguments[0] == "train":
        recipe_of(options)
    return True


def test_commands_that_do_not_exist_are_noticed():
    for wrong in ("train fine_tun", "train fine_tune --set clases=2"):
        with pytest.raises(ValueError):
            in_the_parser(*wrong.split())
    with pytest.raises(SystemExit):
        in_the_parser("export", "a.keras", "--form", "onyx")
    assert not in_the_makefile("demos")
    assert not in_the_extras("install", ".[trains]")
