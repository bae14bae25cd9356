"""What `keras.RematScope` saves: the peak memory and time of a step of F1.

    python benchmarks/remat.py
    python benchmarks/remat.py --variant F0 --size 192 --rounds 10

The network with and the one without it train in a process each. On
TensorFlow the peak of its tensors is read during the steps, as
`tf.config.experimental.get_memory_info` has it on every device: weights and
momentum are in it, the program and its graph are not. On every backend the
largest resident memory of the process is. The steps alternate; with `--apart`
one process follows the other, where memory is short. Writes
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

    Sends the seconds of each step, on the wall and of the processors; at the
    end the peak of the tensors in MiB, or `None`, and the largest resident
    memory, before the first step and of all.
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
        start, used = time.perf_counter(), time.process_time()
        model.train_on_batch(x, y)
        seconds = time.perf_counter() - start
        connection.send((seconds, time.process_time() - used))
    peak = None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        statistics_of = tf.config.experimental.get_memory_info
        peak = statistics_of("CPU:0")["peak"] / 2**20
    connection.send((peak, built, largest_memory()))


def largest_memory():
    """Largest resident memory of this process so far, in MiB."""
    # KiB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(rounds, apart, **options):
    """Seconds on the wall and of the processors, and MiB, by mode."""
    seconds, memory = {name: [] for name in MODES}, {}
    for names in [[name] for name in MODES] if apart else [list(MODES)]:
        started = {name: start(MODES[name], options) for name in names}
        for index in range(rounds):
            for name in names[:: 1 if index % 2 else -1]:
                end, _ = started[name]
                end.send(True)
                seconds[name].append(end.recv())
                print(f"step {index + 1} of {rounds} {name}", flush=True)
        for name, (end, process) in started.items():
            end.send(False)
            memory[name] = end.recv()
            process.join()
    return seconds, memory


def start(mode, options):
    """A process that has made its first step, and the way to it."""
    context = multiprocessing.get_context("spawn")
    end, other = context.Pipe()
    process = context.Process(target=train, args=(other, mode), kwargs=options)
    process.start()
    end.recv()
    return end, process


def main():
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", default="F1")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--apart", action="store_true")
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
        + (", one process after the other" if options.apart else "")
    )
    name = "remat" if backend == "tensorflow" else f"remat_{backend}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps(
            {"setting": setting, "seconds": seconds, "MiB": memory}, indent=1
        )
        + "\n"
    )
    lines = [
        "# Rematerialization",
        "",
        f'`keras.RematScope("full")`: {setting}. Tensors are counted by '
        "`tf.config.experimental.get_memory_info`, weights and momentum "
        "among them. The memory of the process, one of its own, is the "
        "largest resident one: TensorFlow keeps what it has once had, and "
        "the program and its graph are in it. Written by "
        "`benchmarks/remat.py`.",
        "",
        "| | without | with | with / without |",
        "|---|---:|---:|---:|",
    ]

    def row(label, values, form):
        before, after = values["without"], values["with"]
        cells = f"{before:{form}} | {after:{form}} | {after / before:.2f}"
        lines.append(f"| {label} | {cells} |")

    peak, built, largest = (
        {name: values[index] for name, values in memory.items()}
        for index in range(3)
    )
    above = {name: largest[name] - built[name] for name in MODES}
    if None not in peak.values():
        row("peak of the tensors of a step, MiB", peak, ".0f")
    row("memory of the process, MiB", largest, ".0f")
    row("the same before the first step, MiB", built, ".0f")
    row("what the steps and their graph added, MiB", above, ".0f")
    for index, clock in enumerate(("on the wall", "of the processors")):
        for of in (statistics.median, min, max):
            row(
                f"s {clock}, {of.__name__}",
                {n: of(s[index] for s in v) for n, v in seconds.items()},
                ".2f",
            )
        pairs = zip(seconds["with"], seconds["without"], strict=True)
        ratios = [a[index] / b[index] for a, b in pairs]
        lines.append(
            f"| s {clock}, pair by pair | | | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–"
            f"{max(ratios):.2f}) |"
        )
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
