"""Injects faults and writes docs/reliability.md: `make faults`."""

import argparse
import os
import pathlib
import tempfile
import time

from faults import scorecard


def main():
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", default=scorecard.KINDS, help="kinds of faults"
    )
    parser.add_argument("--short", action="store_true", help="as make test")
    options = parser.parse_args()
    unknown = set(options.kinds) - set(scorecard.KINDS)
    if unknown:
        parser.error(
            f"kinds must be of {', '.join(scorecard.KINDS)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    # Neither read nor written is what the user's Keras keeps.
    home = tempfile.TemporaryDirectory()
    os.environ["KERAS_HOME"] = home.name
    for kind in options.kinds:
        rows, start = [], time.monotonic()
        print(f"{kind}: {scorecard.module(kind).TITLE}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for row in scorecard.module(kind).rows(
                not options.short, pathlib.Path(folder), print
            ):
                print(f"  {row}", flush=True)
                rows.append(row)
        seconds = time.monotonic() - start
        scorecard.store(kind, rows, seconds, not options.short)
    scorecard.PAGE.write_text(scorecard.page())
    print(f"written: {scorecard.PAGE.relative_to(scorecard.ROOT)}")


if __name__ == "__main__":
    main()
