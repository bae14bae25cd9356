"""The notebooks run from top to bottom, and hold what they showed."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
notebooks = pytest.importorskip("notebooks", reason="needs nbclient")
NAMES = notebooks.names()


def test_all_five_are_there():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_short_form_runs_from_top_to_bottom(name):
    notebook = notebooks.read(name)
    notebooks.run(notebook, short=True)
    cells = notebooks.code_cells(notebook)
    assert all(cell.execution_count for cell in cells)


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_of_a_whole_run(name):
    notebook = notebooks.read(name)
    cells = notebooks.code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert notebook.metadata["keras_nfnet"]["seconds"] < notebooks.LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_file_is_small_and_names_no_machine(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert len(text) < 1_000_000
    assert not re.search(r"/(home|root|work|Users)/", text)
