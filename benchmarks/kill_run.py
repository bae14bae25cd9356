"""Does a run that is killed again and again end in the same bits?

    python benchmarks/kill_run.py
    KERAS_BACKEND=jax python benchmarks/kill_run.py

trains a small network once undisturbed, and again under `kill -9`: 20 at
random moments, from the start of the process on, and 20 while a checkpoint
is being written (its unfinished file is left behind). A run that ends before
all kills is followed by another. Compares every array of the last
checkpoints: weights, their average, the optimizer, the metrics and the
seeds. Writes benchmarks/results/kill_run.json and .md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_nfnet.training.checkpoint import Checkpoints

RESULTS = Path(__file__).parent / "results"
SCRIPT = Path(__file__).parents[1] / "tests" / "train_for_kill.py"


def start(directory, data, epochs):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), directory, data, "1", str(epochs)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last(directory):
    return Checkpoints(os.path.join(directory, "checkpoints")).restore()


def unfinished(directory):
    folder = Path(directory, "checkpoints")
    return list(folder.glob(".step-*.tmp")) if folder.is_dir() else []


def kill_at_random(process, seconds):
    """Kills after so many seconds; whether it was still running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def kill_in_save(process, directory, skip):
    """Kills as soon as the next checkpoint but `skip` is being written."""
    seen = set(unfinished(directory))
    while process.poll() is None:
        new = set(unfinished(directory)) - seen
        if new and skip <= 0:
            process.kill()
            process.wait()
            return bool(new & set(unfinished(directory)))
        skip -= bool(new)
        seen |= new
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        plain, killed = f"{folder}/plain", f"{folder}/killed"
        data = f"{folder}/data"
        began = time.perf_counter()
        if start(plain, data, options.epochs).wait():
            raise SystemExit("The undisturbed run failed.")
        alone = time.perf_counter() - began
        expected = last(plain)
        counts = {"at random": 0, "in a save": 0}
        runs, different, same_history = 0, set(), True

        def compare():
            found = last(killed)
            different.update(
                name
                for name, array in expected.arrays.items()
                if not np.array_equal(
                    array, found.arrays.get(name), equal_nan=True
                )
            )
            return expected.metadata == found.metadata

        bar = tqdm(total=2 * options.kills, desc="kills", mininterval=1)
        while min(counts.values()) < options.kills:
            killed = f"{folder}/killed{runs}"
            process = start(killed, data, options.epochs)
            if counts["in a save"] < options.kills:
                kind = "in a save"
                hit = kill_in_save(process, killed, generator.randint(0, 1))
            else:
                kind = "at random"
                hit = kill_at_random(process, generator.uniform(0, alone))
            counts[kind] += hit
            bar.update(hit)
            if process.returncode == 0:  # Ended in spite of all kills.
                same_history &= compare()
                runs += 1
        bar.close()
        killed = f"{folder}/killed{runs}"
        restarts = 0
        while start(killed, data, options.epochs).wait():
            restarts += 1
            if restarts > 3:
                raise SystemExit("The killed run does not end.")
        same_history &= compare()
    result = {
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "kills": counts,
        "steps": expected.step,
        "arrays": len(expected.arrays),
        "runs": runs + 1,
        "different_arrays": sorted(different),
        "same_history": same_history,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "kill_run.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[result["backend"]] = result
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    lines = [
        "# Runs under kill -9",
        "",
        "Written by `benchmarks/kill_run.py`; on CPU.",
        "",
        "| backend | steps | kills at random | kills in a save | runs they "
        "fell on | arrays compared | that differ in a bit | same log |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, row in sorted(results.items()):
        lines.append(
            f"| {name} | {row['steps']} | {row['kills']['at random']} | "
            f"{row['kills']['in a save']} | {row['runs']} | "
            f"{row['arrays']} | "
            f"{len(row['different_arrays'])} | "
            f"{'yes' if row['same_history'] else 'no'} |"
        )
    text = "\n".join(lines) + "\n"
    (RESULTS / "kill_run.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
