"""What a row of the scorecard is, and the page that is made of the rows.

Each module of this package that is named in `KINDS` injects one kind of
fault. It has a `TITLE`, a `PROMISE` (one sentence: what must come of the
fault) and a function `rows(full, folder, say)` that yields a `Row` for each
thing it injected. `make test` runs the short form of each, `make faults` the
full one.
"""

import dataclasses
import datetime
import importlib
import json
import pathlib
import platform

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults"
PAGE = ROOT / "docs" / "reliability.md"
# The modules, in the order of the page.
_ORDER = (
    "hostile",
    "damage",
    "images",
    "values",
    "kills",
    "runs",
    "serving",
    "downloads",
    "dependencies",
    "arguments",
)
KINDS = tuple(
    kind
    for kind in _ORDER
    if pathlib.Path(__file__).with_name(f"{kind}.py").exists()
)


@dataclasses.dataclass
class Row:
    """One count.

    Args:
        injected: What was injected.
        outcomes: How often each outcome came, such as `{"refused": 100}`.
        short: How the row falls short of the promise; empty if it does not.
        measured: Times and memory, in words.
        is_known: Whether what falls short is known, so that it stands on the
            page and fails no test.
    """

    injected: str
    outcomes: dict
    short: str = ""
    measured: str = ""
    is_known: bool = False

    @property
    def times(self):
        return sum(self.outcomes.values())


def module(kind):
    return importlib.import_module(f"faults.{kind}")


def store(kind, rows, seconds, full):
    """Writes the rows of one kind of fault to its file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    import keras

    content = {
        "date": datetime.date.today().isoformat(),
        "full": full,
        "seconds": round(seconds),
        "keras": keras.__version__,
        "python": platform.python_version(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    path = RESULTS / f"{kind}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")


def page():
    """The text of `docs/reliability.md`."""
    parts = [
        "# Reliability\n\nWhat was injected, how often, and what came of it. "
        "`make faults` runs the injections and\nwrites this page "
        '(`make faults KINDS="damage values"` some of them); `make test` '
        "runs a\nshort form of each. Code: `tests/faults/`.\n"
    ]
    for kind in KINDS:
        path = RESULTS / f"{kind}.json"
        about = module(kind)
        parts.append(f"## {about.TITLE}\n\n{about.PROMISE}\n")
        if not path.exists():
            parts.append("Not run yet.\n")
            continue
        content = json.loads(path.read_text())
        rows = [Row(**row) for row in content["rows"]]
        lines = [
            "| injected | times | what came of it | measured | falls short |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            came = ", ".join(
                f"{count} {outcome}"
                for outcome, count in row.outcomes.items()
                if count
            )
            lines.append(
                f"| {row.injected} | {row.times:,} | {came} "
                f"| {row.measured or '–'} | {row.short or '–'} |"
            )
        form = "" if content["full"] else " Short form."
        lines.append(
            f"\n{content['date']}, Python {content['python']}, Keras "
            f"{content['keras']}, {content['seconds']} s.{form}\n"
        )
        parts.append("\n".join(lines))
    return "\n".join(parts)
