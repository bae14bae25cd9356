"""What it costs to import the package and to build a network.

    python benchmarks/build.py

Each in a process of its own: `import keras` and `import keras_nfnet` in
turns, pair by pair; then F0, F6 and F7 with random weights: seconds, and the
memory that the build took at its highest over that of the parameters.
Writes benchmarks/results/build.json and .md.
"""

import os
import subprocess
import sys

from pages import argument_parser, machine, spread, write

IMPORT = """
import time; started = time.perf_counter()
import {module}
print("FOUND", time.perf_counter() - started)
"""
BUILD = """
import resource, time
import keras_nfnet
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, started = peak(), time.perf_counter()
model = keras_nfnet.NFNet({variant!r}, weights=None)
seconds = time.perf_counter() - started
print("FOUND", seconds, (peak() - before) / (4 * model.count_params()))
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [x for x in done.stdout.splitlines() if x[:5] == "FOUND"]
    return [float(value) for value in line.split()[1:]]


def table(result):
    pairs = result["imports"]
    ratios = [ours / keras for keras, ours in pairs]
    lines = [
        "# Import and build",
        "",
        f"{result['machine']}; median (lowest–highest) of "
        f"{len(pairs)} processes each. Written by "
        "`python benchmarks/build.py`.",
        "",
        "| | s | memory over the parameters |",
        "|---|---:|---:|",
        f"| `import keras` | {spread([k for k, _ in pairs], '.2f')} | |",
        f"| `import keras_nfnet` | {spread([o for _, o in pairs], '.2f')} | |",
        f"| the second over the first, pair by pair | "
        f"{spread(ratios, '.2f')} | |",
    ]
    for variant, values in result["builds"].items():
        seconds, memory = zip(*values, strict=True)
        over = [value - 1 for value in memory]
        lines.append(
            f"| build of {variant} | {spread(seconds, '.2f')} | "
            f"{spread(over, '.1%')} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each")
    options = parser.parse_args()
    imports, builds = [], {}
    for _ in range(options.runs):
        pair = [
            run(IMPORT.format(module=module))[0]
            for module in ("keras", "keras_nfnet")
        ]
        imports.append(pair)
    for variant in ("F0", "F6", "F7"):
        builds[variant] = [
            run(BUILD.format(variant=variant)) for _ in range(options.runs)
        ]
    result = {
        "machine": machine(),
        "imports": imports,
        "builds": builds,
    }
    write("build", result, table)


if __name__ == "__main__":
    main()
