"""Which checkpoint engine survives kills, flipped bits and truncations?

    python benchmarks/checkpoint_engines.py

compares Orbax, TensorFlow's `CheckpointManager` and this package's
`Checkpoints`, as far as they are installed, in about 3 minutes, and writes
`benchmarks/results/checkpoint_engines.json` and `.md`. Each engine keeps
two checkpoints and saves synchronously; a restore takes the newest that the
engine does not refuse, and what it returns is compared bit for bit.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
BLOCKED = {"tensorflow": "jax", "jax": "tensorflow"}
OUTCOMES = {
    "exact": "the newest, exact",
    "older": "refused, the one before it exact",
    "error": "refused, nothing restored",
    "silent": "wrong values, silently",
    "crash": "crash or hang",
}


class Orbax:
    """Orbax, through the interface that `keras.callbacks` uses."""

    package = "orbax-checkpoint"

    def __init__(self, directory):
        import orbax.checkpoint

        ocp = orbax.checkpoint.v1
        self.checkpointer = ocp.training.Checkpointer(
            directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(2),
            save_decision_policy=(
                ocp.training.save_decision_policies.FixedIntervalPolicy(1)
            ),
        )

    def save(self, step, arrays):
        self.checkpointer.save_pytree(step, arrays)

    def restore(self, _):
        steps = [found.step for found in self.checkpointer.checkpoints]
        for step in sorted(steps, reverse=True):
            with contextlib.suppress(Exception):
                return self.checkpointer.load_pytree(step)
        return ValueError("nothing restored") if steps else None


class TensorFlow:
    """`tf.train.Checkpoint` and its manager."""

    package = "tensorflow"

    def __init__(self, directory):
        self.directory = directory
        self.variables = None

    def _manage(self, arrays):
        import tensorflow as tf

        if self.variables is None:
            self.variables = {k: tf.Variable(v) for k, v in arrays.items()}
            self.checkpoint = tf.train.Checkpoint(values=self.variables)
            self.manager = tf.train.CheckpointManager(
                self.checkpoint, self.directory, max_to_keep=2
            )
        return self.manager

    def save(self, step, arrays):
        manager = self._manage(arrays)
        for name, value in arrays.items():
            self.variables[name].assign(value)
        manager.save(checkpoint_number=step)

    def restore(self, template):
        paths = self._manage(template).checkpoints
        for path in reversed(paths):
            with contextlib.suppress(Exception):
                self.checkpoint.restore(path).assert_consumed()
                return {k: v.numpy() for k, v in self.variables.items()}
        return ValueError("nothing restored") if paths else None


class Ours:
    """`keras_nfnet.training.checkpoint.Checkpoints`."""

    package = "keras-nfnet"

    def __init__(self, directory):
        from keras_nfnet.training.checkpoint import Checkpoints

        self.checkpoints = Checkpoints(directory, keep=2)

    def save(self, step, arrays):
        self.checkpoints.save(step, arrays)

    def restore(self, _):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checkpoint = self.checkpoints.restore()
        except ValueError as error:
            return error
        return checkpoint and checkpoint.arrays


ENGINES = {"orbax": Orbax, "tensorflow": TensorFlow, "ours": Ours}


def state(step, megabytes):
    """Arrays that tell their step: random, as trained weights are."""
    import ml_dtypes

    generator = np.random.default_rng(step)
    size = int(megabytes * 1e6 / 4 / 8)
    arrays = {
        f"kernel_{i}": generator.random((size // 16, 16), np.float32)
        for i in range(8)
    }
    return {
        **arrays,
        "step": np.array(step, np.int64),
        "seed": generator.integers(0, 2**32, 2, np.uint32),
        "gain": generator.random(64, np.float32).astype(ml_dtypes.bfloat16),
        "flag": np.array([True, False]),
    }


def step_of(restored, megabytes):
    """The step of what was restored if it is exact, otherwise `None`."""
    try:
        step = int(restored["step"])
        expected = state(step, megabytes)
    except Exception:
        return None
    same = set(expected) == set(restored) and all(
        np.asarray(restored[name]).dtype == value.dtype
        and np.asarray(restored[name]).shape == value.shape
        and np.asarray(restored[name]).tobytes() == value.tobytes()
        for name, value in expected.items()
    )
    return step if same else None


# What runs in the engine's own process -----------------------------------


def answer(value):
    print("=" + json.dumps(value), flush=True)


def save_loop(engine, directory, megabytes):
    """Saves for ever, after the last step of what is there."""
    restored = engine(directory).restore(state(0, megabytes))
    step = 0
    if restored is not None:
        failed = isinstance(restored, Exception)
        step = None if failed else step_of(restored, megabytes)
    answer({"restored": step})
    if step is None:
        return
    target = engine(directory)
    while True:
        step += 1
        target.save(step, state(step, megabytes))
        answer({"saved": step})


def prepare(engine, directory, megabytes):
    target = engine(directory)
    for step in (1, 2):
        target.save(step, state(step, megabytes))
    answer("done")


def outcome(engine, directory, megabytes):
    restored = engine(directory).restore(state(0, megabytes))
    if restored is None or isinstance(restored, Exception):
        return answer("error")
    step = step_of(restored, megabytes)
    answer({2: "exact", 1: "older"}.get(step, "silent"))


def speed(engine, directory, megabytes):
    figures = {"save": [], "restore": []}
    target = engine(directory)
    target.save(0, state(0, 1))  # What is slow only once.
    for step in (1, 2, 3):
        arrays = state(step, megabytes)
        os.sync()
        start = time.perf_counter()
        target.save(step, arrays)
        figures["save"].append(time.perf_counter() - start)
        start = time.perf_counter()
        restored = engine(directory).restore(state(0, 1))
        figures["restore"].append(time.perf_counter() - start)
        if step_of(restored, megabytes) != step:
            raise RuntimeError("the restored arrays are not those saved")
    answer(figures)


JOBS = {job.__name__: job for job in (save_loop, prepare, outcome, speed)}


def serve(name):
    """Imports an engine once and forks a process for each job.

    A job starts from a process that has imported, but not used, the engine.
    """
    engine = ENGINES[name]
    {
        "orbax": lambda: __import__("orbax.checkpoint"),
        "tensorflow": lambda: __import__("tensorflow"),
        "ours": lambda: __import__("keras_nfnet.training.checkpoint"),
    }[name]()
    answer("ready")
    for line in sys.stdin:
        job, directory, megabytes = json.loads(line)
        process = os.fork()
        if process == 0:
            try:
                answer({"process": os.getpid()})
                JOBS[job](engine, directory, megabytes)
            except BaseException as error:
                answer({"raised": f"{type(error).__name__}: {error}"[:300]})
            os._exit(0)
        os.waitpid(process, 0)
        answer("ended")


# What drives it ----------------------------------------------------------


class Server:
    """The engine's process, asked for one job at a time."""

    def __init__(self, name):
        environment = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "jax" if name == "ours" else "tensorflow",
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        if self._answer() != "ready":
            raise RuntimeError(f"{name} cannot be imported")

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("="):
                return json.loads(line[1:])
        return None

    def run(self, job, directory, megabytes, kill_after=None, limit=60):
        """All answers of a job, killed after some seconds if need be.

        The seconds count from the job's first answer.
        """
        request = json.dumps([job, str(directory), megabytes])
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        child = self._answer()["process"]
        answers = []
        if kill_after is not None:
            answers.append(self._answer())
        timer = subprocess.Popen(
            ["sh", "-c", f"sleep {kill_after or limit}; kill -9 {child}"],
            stderr=subprocess.DEVNULL,
        )
        while (got := self._answer()) != "ended":
            answers.append(got)
        killed = timer.poll() is not None
        timer.kill()
        timer.wait()
        if kill_after is None and killed:
            answers.append({"raised": "killed for taking too long"})
        return answers

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def kills(server, folder, generator, count, megabytes):
    """Kills a loop of saves at random moments, and looks what is left."""
    directory = folder / "kills"
    directory.mkdir()
    acknowledged, result = 0, dict.fromkeys(("newest", "older", "lost"), 0)
    saved = 0
    for trial in range(count + 1):  # Each start checks the kill before it.
        moment = generator.uniform(0.05, 1.2)
        answers = server.run("save_loop", directory, megabytes, moment)
        restored = answers[0].get("restored") if answers[0] else None
        if trial:
            if restored is None or restored == 0:
                result["lost"] += 1
                shutil.rmtree(directory)
                directory.mkdir()
                acknowledged = 0
            elif restored < acknowledged:
                result["older"] += 1
            else:
                result["newest"] += 1
        if restored is not None:
            acknowledged = max(restored, 0)
        for got in answers[1:]:
            if isinstance(got, dict) and "saved" in got:
                acknowledged = got["saved"]
                saved += 1
    left = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
    return {**result, "saves": saved, "megabytes left": round(left / 1e6, 1)}


def damage(server, folder, generator, count, megabytes, how):
    """Damages the newest of two checkpoints in one place, many times."""
    sound = folder / f"sound-{how}"
    sound.mkdir()
    prepared = server.run("prepare", sound, megabytes)
    if prepared != ["done"]:
        raise RuntimeError(f"cannot save: {prepared}")
    newest = [p for p in sound.rglob("*") if p.is_file() and p.stat().st_size]
    newest = [p for p in newest if _is_newest(p.relative_to(sound))]
    result = dict.fromkeys(OUTCOMES, 0)
    for trial in range(count):
        # By turns any byte alike and any file alike, so that the small
        # files that everything hangs on have their share.
        weights = [p.stat().st_size if trial % 2 else 1 for p in newest]
        (victim,) = generator.choices(newest, weights)
        copy = folder / "damaged"
        shutil.copytree(sound, copy)
        path = copy / victim.relative_to(sound)
        data = bytearray(path.read_bytes())
        if how == "flips":
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        else:
            del data[generator.randrange(len(data)) :]
        path.write_bytes(data)
        answers = server.run("outcome", copy, megabytes, limit=20)
        got = answers[0] if answers else "crash"
        result[got if got in OUTCOMES else "crash"] += 1
        shutil.rmtree(copy)
    return result


def _is_newest(path):
    """Whether a file belongs to step 2, or to all, under any engine."""
    return not (
        path.parts[0] == "1"  # Orbax.
        or path.name.startswith("ckpt-1.")  # TensorFlow.
        or path.name == "step-0000000001.safetensors"  # Ours.
    )


WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {blocked!r}:
            raise ImportError("No module named " + name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, {here!r})
import keras
from checkpoint_engines import *
engine = ENGINES[{name!r}]
engine({directory!r}).save(1, state(1, 0.1))
restored = engine({directory!r}).restore(state(0, 0.1))
print("exact" if step_of(restored, 0.1) == 1 else "wrong")
"""


def without(name, backend, folder):
    """Whether an engine works where only one backend is installed."""
    directory = folder / f"on-{backend}"
    directory.mkdir()
    code = WITHOUT.format(
        blocked=BLOCKED[backend],
        here=str(Path(__file__).parent),
        name=name,
        directory=str(directory),
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    if ran.returncode == 0 and ran.stdout.strip().endswith("exact"):
        return "yes"
    lines = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
    return f"no: {lines[-1][:80]}"


def measure(name, arguments):
    generator = random.Random(arguments.seed)
    start = time.perf_counter()
    server = Server(name)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        folder = Path(folder)
        timing = folder / "speed"
        timing.mkdir()
        figures = server.run("speed", timing, arguments.megabytes)
        shutil.rmtree(timing)
        result = {
            "version": version(ENGINES[name].package),
            "speed": figures[0],
            "kills": kills(server, folder, generator, arguments.kills, 20),
            "flips": damage(
                server, folder, generator, arguments.flips, 0.2, "flips"
            ),
            "truncations": damage(
                server, folder, generator, arguments.flips // 2, 0.2, "cuts"
            ),
            "alone": {
                backend: without(name, backend, folder) for backend in BLOCKED
            },
        }
        server.close()
    result["seconds of measuring"] = round(time.perf_counter() - start, 1)
    return result


@functools.cache
def version(package):
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def table(report):
    """The report as Markdown."""
    names = list(report["engines"])
    lines = [
        "# Checkpoint engines",
        "",
        "Written by `python benchmarks/checkpoint_engines.py` on "
        f"{report['machine']}.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]

    def row(title, cell):
        cells = (str(cell(report["engines"][name])) for name in names)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    row("version", lambda e: e["version"])
    count = report["kills"]
    row(
        f"restored the newest acknowledged after {count} `kill -9`",
        lambda e: e["kills"]["newest"],
    )
    row("… an older one", lambda e: e["kills"]["older"])
    row("… nothing", lambda e: e["kills"]["lost"])
    row("saves in that time, 20 MB each", lambda e: e["kills"]["saves"])
    row("MB left after it", lambda e: e["kills"]["megabytes left"])
    for kind in ("flips", "truncations"):
        one = "one flipped bit" if kind == "flips" else "one truncated file"
        total = sum(report["engines"][names[0]][kind].values())
        for key, text in OUTCOMES.items():
            row(
                f"{one}, {total} times: {text}",
                lambda e, kind=kind, key=key: e[kind][key],
            )
    for backend, blocked in BLOCKED.items():
        row(
            f"works on {backend} without {blocked}",
            lambda e, backend=backend: e["alone"][backend],
        )

    def seconds(values):
        middle = statistics.median(values)
        return f"{middle:.2f} ({min(values):.2f}–{max(values):.2f})"

    for kind in ("save", "restore"):
        row(
            f"seconds to {kind} {report['megabytes']} MB: median (range)",
            lambda e, kind=kind: (
                seconds(e["speed"][kind])
                if kind in e["speed"]
                else e["speed"].get("raised")
            ),
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=290)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", help="a folder on the disk to measure")
    parser.add_argument("--output", default=str(RESULTS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    report = {
        "machine": f"{platform.system()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "kills": arguments.kills,
        "megabytes": arguments.megabytes,
        "seed": arguments.seed,
        "engines": {},
    }
    for name in arguments.engines:
        if version(ENGINES[name].package) is None:
            print(f"{name}: not installed", flush=True)
            continue
        report["engines"][name] = measure(name, arguments)
        print(f"{name}: {json.dumps(report['engines'][name])}", flush=True)
    text = table(report)
    print("\n" + text)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "checkpoint_engines.json").write_text(
        json.dumps(report, indent=1) + "\n"
    )
    (output / "checkpoint_engines.md").write_text(text)


if __name__ == "__main__":
    # On a kill by the user, no loop of saves is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
