"""The pages of the models say what the tables say."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import model_cards


def test_pages_are_what_their_sources_say(variant_rows):
    there = {
        path.name: path.read_text(encoding="utf-8")
        for path in model_cards.PAGES.glob("*.md")
    }
    assert model_cards.pages(variant_rows) == there, "run tools/model_cards.py"
