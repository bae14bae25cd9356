"""What the benchmarks share: arguments, figures, profiles, the pages."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import tempfile

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


def profiled(run, times):
    """TensorFlow's profile of calls: `[(name, kind, seconds of a call)]`.

    Args:
        run: Function without arguments.
        times: How often it is called; an operation is in the list each time.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(times):
            run()
        tf.profiler.experimental.stop()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space.ParseFromString(path.read_bytes())
    found = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # An operation is `its name:its kind`.
                name = plane.event_metadata[event.metadata_id].name
                name, _, kind = name.rpartition(":")
                kind = kind.partition("#")[0]
                if name and kind not in ("Process", "Run") and " " not in kind:
                    found.append((name, kind, event.duration_ps / 1e12 / times))
    return found


def write(name, result, table):
    """Writes `name`.json, and what `table` makes of it to `name`.md."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(content)
    text = table(result)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
