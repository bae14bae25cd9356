"""What SAM costs: a step of a small network without it, whole, on a fifth.

    python benchmarks/sam_cost.py
    python benchmarks/sam_cost.py --rounds 20 --batch 64

Three networks that differ in SAM alone take steps in turn, each round in
another order. Writes benchmarks/results/sam_cost.json and .md.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from tqdm import tqdm

import keras_nfnet
from keras_nfnet import SGDAGC

RESULTS = Path(__file__).parent / "results"
STEPS = {
    "without SAM": {},
    "SAM": {"sam_rho": 0.05},
    "SAM, sam_fraction=0.2": {"sam_rho": 0.05, "sam_fraction": 0.2},
}


def stepper(batch, size, **sam):
    """A function that makes one step and waits for it."""
    keras.utils.set_random_seed(0)
    config = keras_nfnet.NFNetConfig((64, 128), (1, 2), group_width=32)
    model = keras_nfnet.NFNet(
        config, weights=None, classes=10, input_shape=(size, size, 3)
    )
    model.compile(
        SGDAGC(0.1),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        **sam,
    )
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, size, size, 3)).astype("float32")
    y = np.eye(10, dtype="float32")[generator.integers(0, 10, batch)]
    return lambda: model.train_on_batch(x, y)


def measure(rounds, batch, size):
    """Seconds of each step, by what differs."""
    steps = {name: stepper(batch, size, **sam) for name, sam in STEPS.items()}
    for step in steps.values():  # Tracing.
        step()
    seconds = {name: [] for name in steps}
    names = list(steps)
    for index in tqdm(range(rounds), "rounds of steps"):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(values):
    """`(median, lowest, highest)`."""
    return statistics.median(values), min(values), max(values)


def main():
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    options = parser.parse_args()
    seconds = measure(**vars(options))
    plain = seconds["without SAM"]
    rows = {name: summary(values) for name, values in seconds.items()}
    ratios = {
        name: summary([a / b for a, b in zip(values, plain, strict=True)])
        for name, values in seconds.items()
        if values is not plain
    }
    setting = (
        f"one training step of a network of widths 64 128 and depths 1 2, "
        f"{options.size} px, batch {options.batch}, "
        f"{keras.backend.backend()} backend, Keras {keras.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} CPU cores"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sam_cost.json").write_text(
        json.dumps({"setting": setting, "seconds": seconds}, indent=1) + "\n"
    )
    lines = [
        "# The cost of SAM",
        "",
        f"{setting}. Written by `benchmarks/sam_cost.py`.",
        "",
        "| | median | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    for name, row in rows.items():
        cells = " | ".join(f"{value:.3f}" for value in row)
        lines.append(f"| {name}, s | {cells} |")
    for name, row in ratios.items():
        cells = " | ".join(f"{value:.2f}" for value in row)
        lines.append(f"| {name} / without, round by round | {cells} |")
    (RESULTS / "sam_cost.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
