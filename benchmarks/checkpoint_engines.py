"""Which checkpoint engine survives kills, flipped bits and truncations?

    python benchmarks/checkpoint_engines.py

compares Orbax (`pip install orbax-checkpoint`), TensorFlow's
`CheckpointManager` and this package's `Checkpoints`, as far as they are
installed, in about 5 minutes, and writes
`benchmarks/results/checkpoint_engines.json` and `.md`. With `--engines` it
measures some of them; what the file tells of the others stays.

Each engine keeps two checkpoints and saves synchronously; a restore takes
the newest that the engine does not refuse, and what it returns is compared
bit for bit.
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
KILL_OUTCOMES = {
    "newest": "restored the newest acknowledged, or a newer, exactly",
    "older": "restored an older one exactly",
    "lost": "restored nothing, or wrong values",
    "megabytes left": "MB left after it",
}
KILLED = 20  # MB of a checkpoint in the loops that are killed.


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
    # In one piece: a kill must not leave half a line.
    sys.stdout.write(f"={json.dumps(value)}\n")
    sys.stdout.flush()


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
        arrays = state(step, megabytes)
        answer({"saving": step})
        target.save(step, arrays)
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
    template = state(0, megabytes)
    # What is slow only once.
    engine(f"{directory}-first").save(0, state(0, 1))
    target = engine(directory)
    for step in (1, 2, 3):
        arrays = state(step, megabytes)
        os.sync()
        start = time.perf_counter()
        target.save(step, arrays)
        figures["save"].append(time.perf_counter() - start)
        start = time.perf_counter()
        restored = engine(directory).restore(template)
        figures["restore"].append(time.perf_counter() - start)
        if step_of(restored, megabytes) != step:
            raise RuntimeError("the restored arrays are not those saved")
    answer(figures)


def save_seconds(engine, directory, megabytes):
    target = engine(directory)
    figures = []
    for step in range(5):
        arrays = state(step, megabytes)
        start = time.perf_counter()
        target.save(step, arrays)
        figures.append(time.perf_counter() - start)
    answer(statistics.median(figures))


JOBS = {
    job.__name__: job
    for job in (save_loop, prepare, outcome, speed, save_seconds)
}


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

    def run(
        self, job, directory, megabytes, kill_after=None, start=1, limit=60
    ):
        """All answers of a job, killed after some seconds if need be.

        The seconds count from the answer number `start`.
        """
        request = json.dumps([job, str(directory), megabytes])
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        child = self._answer()["process"]
        answers = []
        while kill_after is not None and len(answers) < start:
            answers.append(self._answer())
            if answers[-1] == "ended":
                return answers
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


def kills(server, folder, generator, count, megabytes, seconds=None):
    """Kills a loop of saves many times, and looks what is left.

    Args:
        server: The engine's.
        folder: Scratch.
        generator: Of the moments.
        count: How many kills; if `seconds` is given, how many during a save.
        megabytes: Of a checkpoint.
        seconds: That a save takes, to kill during the third of each start;
            `None` to kill at any moment of the loop.
    """
    directory = folder / f"kills-{seconds}"
    directory.mkdir()
    result = dict.fromkeys(("newest", "older", "lost"), 0)
    acknowledged, killed, during = 0, 0, 0
    while True:  # Each start looks at what the kill before it left.
        if seconds is None:
            moment, start = generator.uniform(0.05, 0.8), 1
        else:  # "restored", then "saving" and "saved" in turn.
            moment, start = generator.random() * seconds, 6
        answers = server.run("save_loop", directory, megabytes, moment, start)
        restored = answers[0].get("restored") if answers[0] else None
        if killed:
            if restored is None or restored == 0:
                result["lost"] += 1
                shutil.rmtree(directory)
                directory.mkdir()
                acknowledged = 0
            elif restored < acknowledged:
                result["older"] += 1
            else:
                result["newest"] += 1
        done = during if seconds else killed
        if done == count or killed == 3 * count:
            break
        killed += 1
        said = [got for got in answers[1:] if isinstance(got, dict)]
        saved = [got["saved"] for got in said if "saved" in got]
        acknowledged = max([restored or 0, *saved])
        during += bool(said) and "saving" in said[-1]
    left = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
    return {
        "kills": killed,
        "during a save": during,
        **result,
        "megabytes left": round(left / 1e6, 1),
    }


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
        known = isinstance(got, str) and got in OUTCOMES
        result[got if known else "crash"] += 1
        shutil.rmtree(copy)
    return result


def _is_newest(path):
    """Whether a file belongs to step 2, or to all, with any engine."""
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
    start, load = time.perf_counter(), os.getloadavg()[0]
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
            "random kills": kills(
                server, folder, generator, arguments.kills, KILLED
            ),
            "kills in saves": kills(
                server,
                folder,
                generator,
                arguments.kills,
                KILLED,
                server.run("save_seconds", folder / "one", KILLED)[0],
            ),
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
    # Timings mean little on a machine that was busy with other work.
    result["load"] = [round(load, 1), round(os.getloadavg()[0], 1)]
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
    for kind in ("random kills", "kills in saves"):
        row(
            f"{kind}: `kill -9`s, of which during a save of {KILLED} MB",
            lambda e, kind=kind: (
                f"{e[kind]['kills']}, {e[kind]['during a save']}"
            ),
        )
        for key, text in KILL_OUTCOMES.items():
            row(
                f"{kind}: {text}",
                lambda e, kind=kind, key=key: e[kind][key],
            )
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
    row(
        f"load average of {report['cores']} cores, before and after",
        lambda e: " and ".join(map(str, e["load"])),
    )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=286)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", help="a folder on the disk to measure")
    parser.add_argument("--output", default=str(RESULTS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    report = {
        "cores": os.cpu_count(),
        "machine": f"{platform.system()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "kills": arguments.kills,
        "flips": arguments.flips,
        # As F0's weights: 71.5 million of 4 bytes.
        "megabytes": arguments.megabytes,
        "seed": arguments.seed,
        "engines": {},
    }
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "checkpoint_engines.json"
    if file.exists():
        earlier = json.loads(file.read_text())
        engines = earlier.pop("engines")
        if earlier == {k: v for k, v in report.items() if k != "engines"}:
            report["engines"] = engines  # Others measured alike stay.
    for name in arguments.engines:
        if version(ENGINES[name].package) is None:
            print(f"{name}: not installed", flush=True)
            continue
        report["engines"][name] = measure(name, arguments)
        print(f"{name}: {json.dumps(report['engines'][name])}", flush=True)
    text = table(report)
    print("\n" + text)
    file.write_text(json.dumps(report, indent=1) + "\n")
    (output / "checkpoint_engines.md").write_text(text)


if __name__ == "__main__":
    # On a kill by the user, no loop of saves is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
