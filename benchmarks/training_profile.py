"""Where a training step of F0 on TensorFlow's CPU kernels spends its time.

    python benchmarks/training_profile.py
    python benchmarks/training_profile.py --setting 192x32

By TensorFlow's own profile of the step that `train_on_batch` takes: the time
of every operation, summed by what it belongs to. Two operations run side by
side on two cores, so the sums are longer than the step. Writes
results/training_profile.json and results/training_profile.md.
"""

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STEPS = 3
# What an operation belongs to → a pattern of its kind and its name in the
# graph. The first that is found counts.
PARTS = {
    "convolutions": r"Conv2D",
    "AGC and SGD": r"sgd_agc",
    "activations": r"_preact|_act\b|_act_|final_act|stem_act",
    "standardization": r"conv",
    "squeeze-and-excite, head": r"_se_|MatMul|avg_pool|predictions",
    "shortcuts, sums and the rest": r"",
}


def measure(dtype, size, batch):
    """`{"step": seconds, "parts": {part: seconds of operations}}`."""
    import keras
    import numpy as np
    from pages import profiled

    import keras_nfnet

    keras.config.set_dtype_policy(dtype)
    model = keras_nfnet.NFNetF0(
        weights=None, classifier_activation=None, stochastic_depth_rate=0.25
    )
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    )
    model.compile(keras_nfnet.SGDAGC(0.1), loss)
    x = np.random.default_rng(0).normal(size=(batch, size, size, 3))
    y = np.eye(1000, dtype="float32")[np.arange(batch)]
    seconds = []
    for _ in range(3 + STEPS):
        began = time.perf_counter()
        model.train_on_batch(np.float32(x), y)
        seconds.append(time.perf_counter() - began)
    events = profiled(lambda: model.train_on_batch(np.float32(x), y), STEPS)
    return {"step": statistics.median(seconds[3:]), "parts": by_part(events)}


def by_part(events):
    """`{part: seconds}` of what `profiled` returned."""
    parts = collections.Counter(dict.fromkeys(PARTS, 0.0))
    # The gradients written by hand are functions without a layer's name; of
    # these the standardization's alone has sums.
    of_sums = {
        name.partition("/")[0] for name, kind, _ in events if kind == "Sum"
    }
    for name, kind, seconds in events:
        call = name.partition("/")[0]
        if call.startswith("PartitionedCall"):
            part = "standardization" if call in of_sums else "activations"
        else:
            text = f"{kind} {name}"
            part = next(p for p, x in PARTS.items() if re.search(x, text))
        parts[part] += seconds
    return dict(parts)


def table(result):
    lines = [
        "# Where a training step spends its time",
        "",
        f"F0, {result['setting']} (pixels x images), SGDAGC, TensorFlow on "
        f"CPU: seconds of operations in one step, mean of {STEPS}, and their "
        "share. Two run side by side, so their sum is longer than the step. "
        "Written by `python benchmarks/training_profile.py`.",
        "",
        f"{result['machine']}.",
        "",
        "| | float32, s | share | bfloat16, s | share |",
        "|---|---:|---:|---:|---:|",
    ]
    found = [result[dtype] for dtype in ("float32", "mixed_bfloat16")]
    totals = [sum(x["parts"].values()) for x in found]
    for part in PARTS:
        cells = []
        for x, total in zip(found, totals, strict=True):
            value = x["parts"][part]
            cells += [f"{value:.3f}", f"{value / total:.0%}"]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    cells = [f"{x:.2f} | " for x in totals]
    lines.append(f"| sum of operations | {'| '.join(cells)}|")
    cells = [f"{x['step']:.2f} | " for x in found]
    lines.append(f"| the step | {'| '.join(cells)}|")
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--setting", default="256x4", help="pixels x images")
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size, batch = map(int, options.setting.split("x"))
    if options.dtype:
        print(json.dumps(measure(options.dtype, size, batch)))
        return
    from pages import machine, write

    result = {"setting": options.setting, "machine": machine()}
    for dtype in ("float32", "mixed_bfloat16"):
        command = [sys.executable, __file__, "--setting", options.setting]
        done = subprocess.run(
            [*command, "--dtype", dtype],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        result[dtype] = json.loads(done.stdout.splitlines()[-1])
    write("training_profile", result, table)


if __name__ == "__main__":
    main()
