"""Runtimes that take turns, each in a process of its own."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_WORKER = Path(__file__).with_name("worker.py")


class Failed(RuntimeError):
    """A process of a runtime ended; the message is its last line."""


class Worker:
    """The process of one runtime.

    Args:
        spec: What `worker.py` takes as its argument.
        script: A script that does as `worker.py` does, with other loaders.

    Attributes:
        start: Seconds until imports, loading and the first answer were done,
            and the largest memory by then, in MB.
    """

    def __init__(self, spec, script=_WORKER):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.start = self._answer()

    def times(self, batch, seconds, least, warm=2):
        """Seconds of each of at least `least` runs of so many images."""
        return self._ask(batch=batch, seconds=seconds, least=least, warm=warm)

    def outputs(self, pixels):
        """What the network says of pixels 0–255, one image at a time."""
        with tempfile.TemporaryDirectory() as folder:
            names = [os.path.join(folder, name) for name in ("x.npy", "y.npy")]
            np.save(names[0], pixels)
            self._ask(images=names[0], to=names[1])
            return np.load(names[1])

    def processor_seconds(self):
        """Seconds of all cores so far; `None` where not known."""
        text = _told_by_system(f"{self._process.pid}/stat")
        # User and system, behind the program's name.
        return _seconds(text and text.rpartition(")")[2].split()[11:13])

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, **message):
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        self.close()
        raise Failed(lines[-1] if lines else "ended without a word")


class Workers:
    """Processes of runtimes that stay while there is memory for them.

    Args:
        specs: `{name: what Worker takes}`.
        say: Function of a line of progress.
        script: As for `Worker`.
        enough: Bytes of free memory below which the process that is longest
            idle is ended before another starts.
    """

    def __init__(self, specs, say, script=_WORKER, enough=5e9):
        self._specs, self._say, self._live = specs, say, {}
        self._script, self._enough = script, enough

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self._live.values():
            worker.close()
        self._live.clear()

    def __getitem__(self, name):
        """The runtime's process; a new one is told from its `is_new`."""
        worker = self._live.pop(name, None)
        is_new = worker is None
        if is_new:
            while self._live and _available() < self._enough:
                self._live.pop(next(iter(self._live))).close()
            self._say(f"starting {name}")
            worker = Worker(self._specs[name], self._script)
        worker.is_new = is_new
        self._live[name] = worker  # The last is the latest used.
        return worker

    def take_turns(self, batches, seconds, index, pause=0.2, least=3, warm=2):
        """One round: a block of runs of every runtime, each warmed up.

        Args:
            batches: Numbers of images at once.
            seconds: How long a block is.
            index: Number of the round. Its order is another each time.
            pause: Seconds before each block, in which threads of the last
                one stop spinning.
            least: Runs that a block has at least.
            warm: Runs before those that are timed.

        Returns:
            `{"order", "times": {name: {batch: median seconds}}, "starts":
            {name: Worker.start}, "other": cores that other processes used,
            "failed": {name: why}}`.
        """
        order = list(self._specs)
        random.Random(index).shuffle(order)
        times, starts, failed, others = {}, {}, {}, []
        for count, name in enumerate(order, 1):
            try:
                worker = self[name]
                if worker.is_new:
                    starts[name] = worker.start
                time.sleep(pause)
                before = _busy(), worker.processor_seconds()
                began = time.perf_counter()
                times[name] = {
                    str(batch): statistics.median(
                        worker.times(batch, seconds, least, warm)
                    )
                    for batch in batches
                }
                took = time.perf_counter() - began
                after = _busy(), worker.processor_seconds()
            except Failed as error:
                self._live.pop(name, None)
                failed[name] = str(error)
                self._say(f"{name} failed: {error}")
                continue
            if None not in (*before, *after):
                all_, own = (b - a for a, b in zip(before, after, strict=True))
                others.append(max(0.0, all_ - own) / took)
            milliseconds = ", ".join(
                f"{1e3 * value:.1f} ms at batch {batch}"
                for batch, value in times[name].items()
            )
            self._say(
                f"round {index + 1}, {count} of {len(order)}: {name} "
                + milliseconds
            )
        return {
            "order": order,
            "times": times,
            "starts": starts,
            "failed": failed,
            "other": statistics.mean(others) if others else None,
        }


def spread(values):
    """`(median, lowest, highest)`."""
    return statistics.median(values), min(values), max(values)


def ratios(rounds, name, other, batch):
    """Times of one over those of another, round by round."""
    return [
        found["times"][name][str(batch)] / found["times"][other][str(batch)]
        for found in rounds
        if name in found["times"] and other in found["times"]
    ]


def agreement(got, wanted):
    """`(cosine, fraction of images with the same first class)` of logits.

    Numbers that are the same for all classes of an image do not count, as
    they do not in a softmax.
    """
    got, wanted = (
        x - x.mean(-1, keepdims=True)
        for x in (np.float64(got), np.float64(wanted))
    )
    lengths = np.linalg.norm(got) * np.linalg.norm(wanted)
    return (
        float(np.vdot(got, wanted) / lengths),
        float(np.mean(got.argmax(-1) == wanted.argmax(-1))),
    )


def _told_by_system(name):
    """The text of a file in `/proc`; `None` on a system without."""
    with contextlib.suppress(OSError):
        return Path("/proc", name).read_text()


def _seconds(ticks):
    return ticks and sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _available():
    text = _told_by_system("meminfo")
    if text is None:
        return float("inf")
    return 1024 * int(text.partition("MemAvailable:")[2].split()[0])


def _busy():
    """Seconds that the cores were not idle; `None` where not known."""
    text = _told_by_system("stat")
    # user, nice, system, idle, iowait, irq, softirq, steal.
    ticks = text and text.partition("\n")[0].split()[1:9]
    return ticks and _seconds(ticks[:3] + ticks[5:])
