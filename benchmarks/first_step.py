"""What the first step of training costs, and where it goes.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --before DIRECTORY

Each network at 64 px and batch 2, where the arithmetic is little, in a process
of its own: the first step, how often and how long TensorFlow traced in it, and
the second step. `--before` takes a checkout of an earlier version besides, in
turns with this one. Writes benchmarks/results/first_step.json and .md.
"""

import json
import os
import pathlib
import subprocess
import sys

from pages import argument_parser, machine, spread, write

HERE = pathlib.Path(__file__).parent
STEPS = """
import json, resource, time
import keras, numpy as np
import keras_nfnet
from keras_nfnet.models.classifier import NFNetModel

traces, train_step = [], NFNetModel.train_step

def timed(self, data):
    started = time.perf_counter()
    result = train_step(self, data)
    traces.append(time.perf_counter() - started)
    return result

NFNetModel.train_step = timed
model = keras_nfnet.NFNet({variant!r}, weights=None)
model.compile(
    keras_nfnet.SGDAGC(0.1, ema_decay={average}),
    "categorical_crossentropy",
    metrics=["accuracy"],
)
images = np.zeros((2, 64, 64, 3), "float32")
labels = np.eye(1000, dtype="float32")[:2]
steps = []
for _ in range(3):
    started = time.perf_counter()
    model.train_on_batch(images, labels)
    steps.append(time.perf_counter() - started)
print("FOUND", json.dumps(dict(
    first=steps[0], later=min(steps[1:]), traces=len(traces),
    tracing=sum(traces),
    memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
)))
"""
ROWS = {
    "F0": ("F0", None),
    "F0, with an average of the weights": ("F0", 0.9999),
    "F6": ("F6", None),
}


def run(row, directory):
    variant, average = ROWS[row]
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(variant=variant, average=average)],
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(directory),
        },
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,  # Python looks here first.
    )
    (line,) = [x for x in done.stdout.splitlines() if x[:5] == "FOUND"]
    return json.loads(line[5:])


def table(result):
    lines = [
        "# The first step of training",
        "",
        f"{result['machine']}; SGDAGC, 64 px, batch 2; median "
        "(lowest–highest) of processes of their own, and how many. Written by "
        "`python benchmarks/first_step.py`.",
        "",
        "| | first step, s | traced | tracing, s | a later step, s "
        "| peak of the process, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, versions in result["rows"].items():
        for version, found in versions.items():
            columns = [
                spread([x["first"] for x in found]) + f", {len(found)}",
                str(found[0]["traces"]),
                spread([x["tracing"] for x in found]),
                spread([x["later"] for x in found], ".2f"),
                spread([x["memory"] for x in found], ".0f"),
            ]
            name = row if version == "now" else f"{row}, {version}"
            lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--before", metavar="DIRECTORY", type=pathlib.Path)
    parser.add_argument("--name", default="before", help="of that version")
    parser.add_argument("--runs", type=int, default=3, help="of F0; F6 has one")
    options = parser.parse_args()
    versions = {"now": HERE.parent}
    if options.before:
        versions[options.name] = options.before.resolve()
    rows = {row: {version: [] for version in versions} for row in ROWS}
    for row in ROWS:
        for _ in range(1 if row == "F6" else options.runs):
            for version, directory in versions.items():
                rows[row][version].append(run(row, directory))
                print(row, version, rows[row][version][-1], flush=True)
    result = {
        "machine": machine(),
        "rows": rows,
    }
    write("first_step", result, table)


if __name__ == "__main__":
    main()
