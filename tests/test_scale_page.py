"""The page of a step on many chips says what its script computes."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scale():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import scale_page

        yield scale_page
    sys.modules.pop("scale_page", None)


def test_a_row_of_the_page_and_the_published_share(scale):
    counts = {"F0": scale.counted("F0")}
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert scale.scale_table("F0", counts, "F0", 0) in page
    # 6.98 GMACs, 32 images, 6 operations, in 73.3 ms, of 61.5 TFLOP/s.
    share, _ = scale.reached("F0", counts["F0"][1])
    assert share == pytest.approx(0.2973, abs=1e-3)


def test_what_hides_and_what_does_not(scale):
    numbers = (70e6, 7e9, "H100, 400 Gb/s network")
    few, many = (scale.step(*numbers, chips, 0.3) for chips in (32, 256))
    assert few["hidden"] == few["sum"]
    assert many["hidden"] < many["sum"]
    assert few["AGC and SGD"] == many["AGC and SGD"]
    sam = scale.step(*numbers, 256, 0.3, sam=0.2)
    assert sam["step"] - many["step"] == pytest.approx(
        0.2 * many["convolutions"] + sam["sum of SAM"]
    )
    # Two devices send half of the bytes and receive the other half, twice.
    assert scale.all_reduce(10, 2, 5) == 2
