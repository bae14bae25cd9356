"""Runs the notebooks, and stores what they show.

    python tools/notebooks.py                  all of them, as a reader would
    python tools/notebooks.py 01_classify      one
    python tools/notebooks.py --short          as CI does: quick, not stored

Each runs from top to bottom in a kernel of its own, in `notebooks/`. The
first code cell has the parameters, `SHORT = False` among them; `--short`
runs it as `SHORT = True`. Exit status 0, or 1 naming the cell that failed.
"""

import argparse
import os
import pathlib
import re
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
# A notebook in full must take less than this, in seconds.
LONGEST = 600
_SHORT = re.compile(r"^SHORT = False\b", re.MULTILINE)


def names():
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(notebook, short=False):
    """Runs a notebook in place; returns the seconds it took.

    Raises:
        CellExecutionError: Of the cell that failed.
        ValueError: If the first code cell has no `SHORT = False`.
    """
    first = code_cells(notebook)[0]
    if not _SHORT.search(first.source):
        raise ValueError("The first code cell must have `SHORT = False`")
    source = first.source
    if short:
        first.source = _SHORT.sub("SHORT = True", source)
    started = time.monotonic()
    try:
        NotebookClient(
            notebook,
            timeout=LONGEST,
            kernel_name="python3",
            resources={"metadata": {"path": str(FOLDER)}},
        ).execute(
            # Start-up notes of TensorFlow are not for readers.
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        )
    finally:
        first.source = source
    return time.monotonic() - started


def store(name, notebook, seconds):
    """Writes a notebook as it ran, without what differs at every run."""
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        # Warnings and progress bars, which go to standard error.
        cell.outputs = [
            output for output in cell.outputs if output.get("name") != "stderr"
        ]
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        "keras_nfnet": {"seconds": round(seconds)},
    }
    path = FOLDER / f"{name}.ipynb"
    new = path.with_suffix(".new")
    nbformat.write(notebook, new)
    os.replace(new, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    for name in options.names or names():
        name = pathlib.Path(name).stem
        notebook = read(name)
        try:
            seconds = run(notebook, options.short)
        except (CellExecutionError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(f"{name}: {seconds:.0f} s", flush=True)
        if not options.short:
            store(name, notebook, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
