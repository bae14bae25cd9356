"""What the benchmarks share: arguments, figures, the machine, the pages."""

import argparse
import json
import os
import pathlib
import platform
import statistics

RESULTS = pathlib.Path(__file__).parent / "results"


def argument_parser(script):
    """A parser whose `--help` is the docstring of a script, as it stands."""
    return argparse.ArgumentParser(
        description=script,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def spread(values, form=".1f"):
    """Median, and lowest to highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def machine():
    import keras

    return (
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, "
        f"{keras.backend.backend()} backend, Keras {keras.__version__}"
    )


def write(name, result, table):
    """Writes `name`.json, and what `table` makes of it to `name`.md."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(content)
    text = table(result)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
