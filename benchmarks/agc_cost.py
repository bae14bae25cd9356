"""What adaptive gradient clipping costs: a step of F0 with it and without.

    python benchmarks/agc_cost.py
    python benchmarks/agc_cost.py --pairs 10 --batch 32 --size 192

Two F0s that differ in `clipping` alone take steps in turn, each pair in the
other order than the one before, and each model goes first equally often.
Writes benchmarks/results/agc_cost.json and .md.
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


def stepper(clipping, batch, size):
    """A function that makes one step and waits for it."""
    keras.utils.set_random_seed(0)
    model = keras_nfnet.NFNetF0(
        weights=None,
        classifier_activation=None,
        input_shape=(size, size, 3),
        stochastic_depth_rate=0.25,
    )
    model.compile(
        SGDAGC(0.1, clipping=clipping),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
    )
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, size, size, 3)).astype("float32")
    y = np.eye(1000, dtype="float32")[generator.integers(0, 1000, batch)]
    return lambda: model.train_on_batch(x, y)


def measure(pairs, batch, size):
    """Seconds of each step, `{"with": [...], "without": [...]}`."""
    steps = {
        "with": stepper(0.01, batch, size),
        "without": stepper(None, batch, size),
    }
    for step in steps.values():  # Tracing.
        step()
    seconds = {"with": [], "without": []}
    for pair in tqdm(range(pairs), "pairs of steps"):
        order = ("with", "without") if pair % 2 else ("without", "with")
        for name in order:
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=192)
    options = parser.parse_args()
    seconds = measure(options.pairs, options.batch, options.size)
    ratios = [
        a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)
    ]
    result = {
        "what": f"one training step of F0, {options.size} px, batch "
        f"{options.batch}",
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "seconds": seconds,
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "agc_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# The cost of AGC",
        "",
        f"{result['what']}, {result['backend']} backend, Keras "
        f"{result['keras']}, {result['machine']}. Written by "
        "`benchmarks/agc_cost.py`.",
        "",
        "| | median | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    for name, label in (
        ("with", "with AGC, s"),
        ("without", "without, s"),
    ):
        values = seconds[name]
        lines.append(
            f"| {label} | {statistics.median(values):.2f} | "
            f"{min(values):.2f} | {max(values):.2f} |"
        )
    lines.append(
        f"| with / without, pair by pair | {statistics.median(ratios):.3f} | "
        f"{min(ratios):.3f} | {max(ratios):.3f} |"
    )
    text = "\n".join(lines) + "\n"
    (RESULTS / "agc_cost.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
