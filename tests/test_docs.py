"""Every command and example of the site and the README runs as it stands.

The networks by name are narrow ones here, and `"imagenet"` is a file of such a
network: what is tried is that the text runs, not what comes of it. A block
that cannot run says why in the line before it: `<!-- not run: … -->`.
"""

import contextlib
import dataclasses
import importlib
import pkgutil
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from small_recipes import small

import keras_nfnet
from keras_nfnet.cli import main
from keras_nfnet.training import recipes
from keras_nfnet.variants import VARIANTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>python|sh|bash)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# Of the cards of the models, which are made alike, one for each publisher.
CARDS = ("f0.md", "eca_nfnet_l0.md")
PAGES = [
    "../README.md",
    *sorted(
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if BLOCK.search(path.read_text(encoding="utf-8"))
        and (path.parent.name != "models" or path.name in CARDS)
    ),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Where the digits are: writing the data set takes a while."""
    from keras_nfnet.data.pipeline import load_split

    data_dir = tmp_path_factory.mktemp("data")
    load_split("nf_digits", "test", str(data_dir))
    return data_dir


@pytest.fixture
def place(tmp_path, digits, monkeypatch, request):
    """A folder with what the pages speak of, and networks that are small."""
    (tmp_path / "data").symlink_to(digits)
    short = small(recipes.recipe("digits"))
    monkeypatch.setattr(recipes, "_digits", lambda: short)
    # Of one block, as those of `small`; where feature maps matter, of four.
    page = request.node.callspec.params["page"]
    stages = 4 if "features(" in (DOCS / page).read_text("utf-8") else 1
    for name, row in list(VARIANTS.items()):
        narrow = dataclasses.replace(
            row, widths=(16,) * stages, depths=(1,) * stages, group_width=8
        )
        monkeypatch.setitem(VARIANTS, name, narrow)

    def published(variant):
        path = tmp_path / f"{variant}.safetensors"
        if not path.exists():
            model = keras_nfnet.NFNet(variant, weights=None)
            keras_nfnet.weights.save(model, path)
        return str(path)

    # `keras_nfnet.weights.load` is the function.
    module = importlib.import_module("keras_nfnet.weights.load")
    monkeypatch.setattr(module, "published_weights", published)
    generator = np.random.default_rng(0)

    def picture(path, channel):
        pixels = generator.integers(0, 100, (70, 80, 3), dtype="uint8")
        pixels[..., channel] += 100
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    picture(tmp_path / "photo.jpg", 0)
    for split, count in (("train", 8), ("test", 2)):
        for channel, name in enumerate(("cat", "dog")):
            for index in range(count):
                path = f"images/{split}/{name}/{index}.jpg"
                picture(tmp_path / path, channel)
    f0 = keras_nfnet.NFNet("F0", weights=None)
    keras_nfnet.weights.save(f0, tmp_path / "F0_haiku.npz")
    config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    model = keras_nfnet.NFNet(config, weights=None, classes=5)
    model.save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(text):
    for line in text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "python":
            file, *arguments = arguments
            with contextlib.ExitStack() as stack:
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(sys, "argv", [file, *arguments])
                with contextlib.suppress(SystemExit):
                    runpy.run_path(str(ROOT / file), run_name="__main__")
        elif program:
            assert program == "keras-nfnet", f"not known here: {line}"
            assert main(arguments) == 0, line


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page, place):
    text = (DOCS / page).read_text(encoding="utf-8")
    if "import keras_hub" in text:  # make test-hub
        pytest.importorskip("keras_hub")
    names = {"keras": keras, "keras_nfnet": keras_nfnet, "np": np}
    for block in BLOCK.finditer(text):
        if block["why"]:
            continue
        code = textwrap.dedent(block["text"])
        if block["kind"] == "python":
            line = text[: block.start("text")].count("\n")
            exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)
        else:
            run_shell(code)


def test_what_the_pages_name_exists():
    """Files, and names of the package, in the pages' running text."""
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(
            r"`((?:benchmarks|examples|export|notebooks|tests|tools)/[\w./]*)`",
            text,
        ):
            places = (ROOT / name, ROOT / "keras_nfnet" / name)
            assert any(place.exists() for place in places), (path, name)
        for name in re.findall(r"`keras_nfnet\.([\w.]+)`", text):
            if name.split(".")[0] != "hub":  # Needs an extra.
                pkgutil.resolve_name(f"keras_nfnet.{name}")


def test_the_code_that_a_page_shows_is_there():
    hooks = runpy.run_path(str(ROOT / "tools" / "site_hooks.py"))
    shown = {
        match
        for page in ROOT.glob("docs/*.md")
        for match in hooks["_SOURCE"].findall(page.read_text("utf-8"))
    }
    assert shown
    for path, name in shown:
        assert hooks["source"](path, name)
