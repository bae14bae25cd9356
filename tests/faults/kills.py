"""Runs that are killed or told to end, and whether they end in the same bits.

Each run is a process of its own, forked from one that has imported all there
is to import and has run nothing.
"""

import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from faults import runs
from faults.scorecard import Row

TITLE = "Killed runs"
PROMISE = (
    "A run that is killed ends, started again, in the bits of an undisturbed "
    "one: weights, their\naverage, optimizer, metrics, seeds and history. A "
    "SIGTERM ends it within 10 s, says what\nit does and loses no step."
)

SECONDS = 10
EPOCHS, STEPS = 8, 24
_PRELOADED = [
    "tensorflow",
    "keras",
    "safetensors.numpy",
    "keras_nfnet.cli",
    "keras_nfnet.data.pipeline",
    "keras_nfnet.training.run",
    "keras_nfnet.training.callbacks",
    "keras_nfnet.training.directory",
    "keras_nfnet.training.state",
]


def recipe(data):
    """One with all that draws random numbers, and an average."""
    from keras_nfnet.data.augmentation import Augmentation

    return runs.recipe(data).replace(
        name="kills",
        epochs=EPOCHS,
        ema_decay=0.9,
        drop_rate=0.2,
        stochastic_depth_rate=0.2,
        augmentation=Augmentation(mixup=0.2),
    )


def _train(directory, data, save_every, out, slow):
    """What a process runs; `slow` evaluations last 20 s."""
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import keras

    from keras_nfnet.training import run

    class Say(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            os.write(1, b"begun\n")

        def on_train_batch_end(self, batch, logs=None):
            os.write(1, b"step\n")

    if slow:
        make = run.evaluation_data

        def slowly(*args):
            batches, info = make(*args)
            return _Slow(batches), info

        run.evaluation_data = slowly
    os.write(1, b"started\n")
    try:
        run.train(
            recipe(data),
            directory,
            verbose=0,
            callbacks=[Say()],
            save_every=save_every,
        )
    except run_stopped() as stopped:
        os.write(2, f"{stopped}\n".encode())
        os._exit(128 + stopped.signal)
    os.write(1, b"finished\n")
    os._exit(0)


def run_stopped():
    from keras_nfnet.training.stop import TrainingStopped

    return TrainingStopped


class _Slow:
    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        for batch in self._batches:
            os.write(1, b"evaluating\n")
            for _ in range(20):
                time.sleep(0.05)
                yield batch
                os.write(1, b"evaluating\n")
            break


class Runs:
    """Starts processes on copies of the same run."""

    def __init__(self, folder):
        self.folder = folder
        self.data = runs.images(folder / "data")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._number = 0

    def new(self):
        self._number += 1
        return self.folder / f"run{self._number}"

    def start(self, directory, save_every=1, slow=False):
        process = self._context.Process(
            target=_train,
            args=(
                str(directory),
                str(self.data),
                save_every,
                f"{directory}.txt",
                slow,
            ),
        )
        process.start()
        return process

    def said(self, directory):
        path = pathlib.Path(f"{directory}.txt")
        return path.read_text() if path.exists() else ""

    def wait_for(self, process, directory, word, count):
        """Waits until a run has said a word so often."""
        before = self.said(directory).count(f"{word}\n")
        while self.said(directory).count(f"{word}\n") < before + count:
            if not process.is_alive():
                raise RuntimeError(self.said(directory)[-2000:])
            time.sleep(0.005)

    def finish(self, directory, slow=False):
        return self.ended(self.start(directory, slow=slow), directory)

    def ended(self, process, directory):
        process.join()
        if process.exitcode:
            raise RuntimeError(self.said(directory)[-2000:])
        return runs.last(directory)


def _unfinished(directory):
    folder = directory / "checkpoints"
    return set(folder.glob(".step-*.tmp")) if folder.is_dir() else set()


def kill_in_save(process, directory, skip):
    """Kills while a checkpoint is being written; whether that was hit."""
    seen = _unfinished(directory)
    while process.is_alive():
        new = _unfinished(directory) - seen
        if new and skip <= 0:
            process.kill()
            process.join()
            return bool(new & _unfinished(directory))
        skip -= bool(new)
        seen |= new
        time.sleep(0.0002)
    return False


def kill_at_random(process, seconds):
    """Kills after so many seconds; whether it was still running."""
    process.join(seconds)
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return True


def kills(all_runs, undisturbed, seconds, count, generator):
    """`{kind of kill: counts}` and the runs on which they fell."""
    counts = {"at random": 0, "while saving": 0}
    outcomes = {kind: collections.Counter() for kind in counts}
    pending, directory = collections.Counter(), all_runs.new()
    while pending or min(counts.values()) < count:
        kind = min(counts, key=counts.get)
        process = all_runs.start(directory)
        if min(counts.values()) >= count:
            process.join()
        elif kind == "while saving":
            hit = kill_in_save(process, directory, generator.randint(0, 3))
            counts[kind] += hit
            pending[kind] += hit
        else:
            hit = kill_at_random(process, generator.uniform(0, seconds))
            counts[kind] += hit
            pending[kind] += hit
        if process.exitcode == 0:  # Ended in spite of the kills.
            same = runs.same_bits(runs.last(directory), undisturbed)
            for kind, number in pending.items():
                outcomes[kind]["same bits" if same else "wrong"] += number
            pending.clear()
            directory = all_runs.new()
        elif process.exitcode != -signal.SIGKILL:
            raise RuntimeError(all_runs.said(directory)[-2000:])
    return outcomes


def terminated(all_runs, directory, when, generator):
    """Sends SIGTERM; `(seconds, exit status, what it said)`."""
    process = all_runs.start(directory, 1000, slow=when == "evaluation")
    word, most = {
        "first step": ("begun", 1),
        "evaluation": ("evaluating", 9),
        "training": ("step", 12),
    }[when]
    all_runs.wait_for(process, directory, word, generator.randint(1, most))
    start = time.monotonic()
    process.terminate()
    process.join(10 * SECONDS)
    seconds = time.monotonic() - start
    process.kill()
    process.join()
    return seconds, process.exitcode, all_runs.said(directory)


def sigterms(all_runs, undisturbed, directory, generator, when="training"):
    """Sends one SIGTERM and goes on; `(outcomes, how long it took)`.

    While training the newest checkpoint is damaged as well: the one before
    it must do.
    """
    before = all_runs.said(directory).splitlines().count("step")
    seconds, status, said = terminated(all_runs, directory, when, generator)
    told = "SIGTERM: the run" in said
    if when == "first step":
        right = status == -signal.SIGTERM and told
    else:
        right = status == 128 + signal.SIGTERM and told
        right &= "Stopped at step" in said
        if not before:
            steps = said.splitlines().count("step")
            right &= f"Stopped at step {steps:,}, which is saved" in said
    if when == "training":
        checkpoints = sorted((directory / "checkpoints").glob("step-*"))
        if len(checkpoints) > 1:
            content = bytearray(checkpoints[-1].read_bytes())
            content[len(content) // 2] ^= 1
            checkpoints[-1].write_bytes(content)
    found = all_runs.finish(directory, slow=when == "evaluation")
    right &= runs.same_bits(found, undisturbed()) and seconds < SECONDS
    outcome = "ended, resumed to the same bits" if right else "wrong"
    return {outcome: 1}, f"at most {seconds:.1f} s"


def short_rows(folder):
    """One kill and one SIGTERM on the same run, and damage beside."""
    all_runs, generator = Runs(folder), random.Random(0)
    alone, directory = all_runs.new(), all_runs.new()
    other = all_runs.start(alone)
    process = all_runs.start(directory)
    hit = kill_in_save(process, directory, generator.randint(0, 3))
    outcomes, measured = sigterms(
        all_runs, lambda: all_runs.ended(other, alone), directory, generator
    )
    name = f"SIGTERM after it, {backend_name()}, newest checkpoint damaged"
    killed = {"wrong" if outcomes.get("wrong") else "same bits": 1}
    moment = "while saving" if hit else "between two saves"
    yield f"kill -9 {moment}, {backend_name()}", killed, ""
    yield name, outcomes, measured


def backend_name():
    import keras

    return keras.backend.backend()


def backend_rows(folder, count):
    """`(injected, outcomes, measured)` on the backend of this process."""
    backend = backend_name()
    all_runs, generator = Runs(folder), random.Random(0)
    start = time.monotonic()
    undisturbed = all_runs.finish(all_runs.new())
    seconds = time.monotonic() - start
    assert undisturbed.step == STEPS
    names = undisturbed.arrays
    assert any("ema" in name for name in names)
    assert any("seed" in name for name in names)
    for kind, outcomes in kills(
        all_runs, undisturbed, seconds, count, generator
    ).items():
        yield f"kill -9 {kind}, {backend}", outcomes, f"{len(names)} arrays"
    for when in ("training", "first step", "evaluation"):
        if when == "evaluation":
            undisturbed = all_runs.finish(all_runs.new(), slow=True)
        total, slowest = collections.Counter(), ""
        for _ in range(max(1, count // 4)):
            outcomes, measured = sigterms(
                all_runs,
                lambda found=undisturbed: found,
                all_runs.new(),
                generator,
                when,
            )
            total.update(outcomes)
            slowest = max(slowest, measured)
        name = {
            "training": "while training, newest checkpoint damaged",
            "first step": "before the first step",
            "evaluation": "in an evaluation",
        }[when]
        yield f"SIGTERM {name}, {backend}", total, slowest


def rows(full, folder, say, count=None):
    """The rows of the scorecard."""
    for backend in ("tensorflow", "jax") if full else ("tensorflow",):
        own = folder / backend
        own.mkdir()
        done = subprocess.Popen(
            [
                *(sys.executable, "-m", "faults.kills", own),
                json.dumps([full, count or (20 if full else 1)]),
            ],
            env={**os.environ, "KERAS_BACKEND": backend},
            cwd=pathlib.Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in done.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                injected, outcomes, measured = json.loads(line)
                wrong = outcomes.get("wrong", 0)
                yield Row(
                    injected,
                    outcomes,
                    f"{wrong} wrong" if wrong else "",
                    measured,
                )
        if done.wait():
            raise RuntimeError(done.stderr.read()[-2000:])


def _main():
    folder, options = sys.argv[1:]
    full, count = json.loads(options)
    folder = pathlib.Path(folder)
    made = backend_rows(folder, count) if full else short_rows(folder)
    for row in made:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    _main()
