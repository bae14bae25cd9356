"""Draws the README's picture from benchmarks/results/.

    python tools/readme_picture.py           writes docs/overview.png

Left: accuracy on held-out digits over batch sizes, with and without adaptive
gradient clipping (agc_claim.jsonl). Right: time of F0 per picture by runtime
and precision, beside timm (export_speed.json).
"""

import argparse
import json
import pathlib

import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "overview.png"
RATE = 0.8  # the base rate at which the networks differ most
NETWORKS = (
    ("agc", "NFNet with AGC", "#0072b2", "o-"),
    ("no_agc", "NFNet without AGC", "#d55e00", "s--"),
    ("bn", "batch-normalized twin", "#777777", "^:"),
)
BARS = (
    ("timm eager", "timm, eager", "#bbbbbb"),
    ("timm compiled", "timm, compiled", "#bbbbbb"),
    ("saved_model float32", "SavedModel float32", "#0072b2"),
    ("onnx float32", "ONNX float32", "#0072b2"),
    ("tflite float32", "TFLite float32", "#0072b2"),
    ("onnx int8", "ONNX int8", "#009e73"),
    ("tflite int8", "TFLite int8", "#009e73"),
    ("tflite dynamic_int8", "TFLite dynamic int8", "#009e73"),
)


def draw():
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    accuracy, time = figure.subplots(1, 2)
    draw_accuracy(accuracy)
    draw_time(time)
    return figure


def draw_accuracy(axis):
    text = (RESULTS / "agc_claim.jsonl").read_text(encoding="utf-8")
    runs = [json.loads(line) for line in text.splitlines()]
    runs = [run for run in runs if run["base_rate"] == RATE]
    batches = sorted({run["batch"] for run in runs})
    for network, label, color, style in NETWORKS:
        means = []
        for batch in batches:
            found = [
                run["accuracy"]
                for run in runs
                if (run["network"], run["batch"]) == (network, batch)
            ]
            # A run that diverged has no accuracy.
            good = [100 * value for value in found if value is not None]
            whole = len(good) == len(found)
            means.append(np.mean(good) if whole else np.nan)
            if not whole:
                axis.plot(batch, 12, "x", color=color, markersize=9, mew=2)
        axis.plot(batches, means, style, color=color, label=label)
    axis.plot(
        [], [], "x", color="#d55e00", mew=2, label="one seed or more diverged"
    )
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.set_ylim(0, 103)
    axis.set_xlabel(f"batch; learning rate {RATE} · batch / 256")
    axis.set_ylabel("held-out digits right, %")
    axis.set_title("Small NFNets on digits: accuracy over batch sizes")
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", fontsize=9)


def draw_time(axis):
    rows = json.loads((RESULTS / "export_speed.json").read_text())["rows"]
    for place, (name, _, color) in enumerate(BARS):
        milliseconds = 1e3 * rows[name]["seconds"]
        axis.barh(place, milliseconds, color=color)
        axis.text(milliseconds + 1, place, f"{milliseconds:.0f}", va="center")
    axis.set_yticks(range(len(BARS)), [label for _, label, _ in BARS])
    axis.invert_yaxis()
    axis.set_xlabel("ms per picture of 256 px, one at a time, 2 CPU cores")
    axis.set_title("F0, exported: time per picture")
    axis.spines[["top", "right"]].set_visible(False)


def main():
    argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    PICTURE.parent.mkdir(exist_ok=True)
    draw().savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
