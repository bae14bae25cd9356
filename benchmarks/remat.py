"""What `keras.RematScope` saves: the peak memory and time of a step of F1.

    python benchmarks/remat.py
    python benchmarks/remat.py --variant F0 --size 192 --rounds 10

The network with and the one without it train in a process each, whose
largest resident memory is read; their steps alternate. Writes
benchmarks/results/remat.json and .md; with another backend than TensorFlow,
remat_BACKEND.json and .md.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parent / "results"
MODES = {"without": None, "with": "full"}


def train(connection, mode, variant, batch, size):
    """Makes a step for every message, and answers with what it took.

    Sends the seconds of each step; at the end the largest resident memory
    after building, and after all steps, in MiB.
    """
    import keras
    import numpy as np

    import keras_nfnet

    keras.utils.set_random_seed(0)
    scope = contextlib.nullcontext()
    if mode:
        scope = keras.RematScope(mode)
    with scope:
        model = keras_nfnet.NFNet(
            variant, weights=None, input_shape=(size, size, 3)
        )
    model.compile(keras_nfnet.SGDAGC(0.1), "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, size, size, 3)).astype("float32")
    y = generator.integers(0, 1000, batch)
    built = largest_memory()
    model.train_on_batch(x, y)  # Tracing.
    connection.send(None)
    while connection.recv():
        start = time.perf_counter()
        model.train_on_batch(x, y)
        connection.send(time.perf_counter() - start)
    connection.send((built, largest_memory()))


def largest_memory():
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(rounds, **options):
    """`(seconds of each step, MiB)` by mode."""
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for name, mode in MODES.items():
        ends[name], other = context.Pipe()
        process = context.Process(
            target=train, args=(other, mode), kwargs=options
        )
        process.start()
        processes.append(process)
        ends[name].recv()
    seconds = {name: [] for name in MODES}
    for index in range(rounds):
        for name in list(MODES)[:: 1 if index % 2 else -1]:
            ends[name].send(True)
            seconds[name].append(ends[name].recv())
        print(f"round {index + 1} of {rounds}", flush=True)
    memory = {}
    for name, end in ends.items():
        end.send(False)
        memory[name] = end.recv()
    for process in processes:
        process.join()
    return seconds, memory


def main():
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", default="F1")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    options = parser.parse_args()
    seconds, memory = measure(**vars(options))
    import keras

    backend = keras.backend.backend()
    load = os.getloadavg()[0]
    setting = (
        f"one training step of {options.variant} with SGDAGC, "
        f"{options.size} px, batch {options.batch}, {backend} backend, "
        f"Keras {keras.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} CPU cores, load average {load:.1f}"
    )
    name = "remat" if backend == "tensorflow" else f"remat_{backend}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps(
            {"setting": setting, "seconds": seconds, "MiB": memory}, indent=1
        )
        + "\n"
    )
    ratios = [
        a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)
    ]
    lines = [
        "# Rematerialization",
        "",
        f'`keras.RematScope("full")`: {setting}. Memory is the largest '
        "resident memory of a process of its own. Written by "
        "`benchmarks/remat.py`.",
        "",
        "| | without | with | with / without |",
        "|---|---:|---:|---:|",
    ]
    before, after = memory["without"], memory["with"]
    for label, index in (("after building", 0), ("after the steps", 1)):
        lines.append(
            f"| memory {label}, MiB | {before[index]:.0f} | "
            f"{after[index]:.0f} | {after[index] / before[index]:.2f} |"
        )
    for label, of in (
        ("median", statistics.median),
        ("lowest", min),
        ("highest", max),
    ):
        lines.append(
            f"| s, {label} | {of(seconds['without']):.2f} | "
            f"{of(seconds['with']):.2f} | {of(ratios):.2f} |"
        )
    lines += ["", "The ratios of times are of pairs of steps."]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
