"""The short form of each kind of fault; `make faults` runs the full one."""

import pytest
from faults import scorecard


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("kind", scorecard.KINDS)
def test_what_is_injected_comes_to_what_is_promised(kind, tmp_path):
    rows = list(scorecard.module(kind).rows(False, tmp_path, print))
    assert rows
    for row in rows:
        assert row.times, row
        assert row.is_known or not row.short, row


def test_the_page_is_what_the_counts_say():
    assert scorecard.PAGE.read_text() == scorecard.page()
