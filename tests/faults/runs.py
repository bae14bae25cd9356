"""Runs whose folder, recipe, data, disk or clock changes under them."""

import collections
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np

from faults.scorecard import Row

TITLE = "Runs whose folder, recipe or data change"
PROMISE = (
    "A run is refused in one line and leaves its folder as it was, or ends in "
    "the bits of an\nundisturbed run. Nothing is mixed up, and no half file "
    "stays."
)

STEPS = 6


def images(root):
    """A folder of 24 training and 8 test images of two classes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label in ("dark", "light"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 200, (16, 16, 3), "uint8")
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def recipe(data):
    from keras_nfnet import NFNetConfig, Recipe

    return Recipe(
        "runs",
        NFNetConfig((8,), (1,), group_width=8),
        data=str(data),
        classes=2,
        size=32,
        batch_size=8,
        epochs=2,
        warmup_epochs=0,
        evaluation_margin=0,
        deterministic=True,
    )


def run(recipe, directory, at_step=None, save_every=1):
    """`(what came of a run, message)`: finished, refused, or an error.

    Args:
        recipe: A `Recipe`.
        directory: Of the run.
        at_step: A function called before each step with its number.
        save_every: Steps between checkpoints.
    """
    import keras

    from keras_nfnet import train

    class Before(keras.callbacks.Callback):
        step = 0

        def on_train_batch_begin(self, batch, logs=None):
            if at_step is not None:
                at_step(self.step)
            self.step += 1

    keras.utils.clear_session()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(
                recipe,
                directory,
                verbose=0,
                callbacks=[Before()],
                save_every=save_every,
            )
    except _Stop:
        return "stopped", ""
    except ValueError as error:
        message = str(error)
        # `\n` would be more than a line on a console.
        return ("refused" if "\n" not in message else "many lines"), message
    except Exception as error:
        return type(error).__name__, str(error)
    return "finished", ""


class _Stop(Exception):
    """Ends a run as a kill would, between two steps."""


def stop_at(step):
    def at_step(now):
        if now == step:
            raise _Stop

    return at_step


def last(directory):
    from keras_nfnet.training.checkpoint import Checkpoints

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Checkpoints(directory / "checkpoints").restore()


def same_bits(one, other):
    return (
        one.step == other.step
        and one.arrays.keys() == other.arrays.keys()
        and all(
            np.array_equal(array, other.arrays[name], equal_nan=True)
            for name, array in one.arrays.items()
        )
        and one.metadata["history"] == other.metadata["history"]
    )


def snapshot(folder):
    """What is in a folder, without the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _half_written(folder):
    return [str(path) for path in folder.rglob(".*.tmp*")]


class Cases:
    """Faults on copies of one run that was stopped after four steps."""

    def __init__(self, folder, full, say):
        self.folder = folder
        self.full = full
        self.data = images(folder / "data")
        self.recipe = recipe(self.data)
        self.counts = collections.defaultdict(collections.Counter)
        self.wrong = collections.Counter()
        self._say = say
        self._number = 0
        self.undisturbed = None
        if full:
            came = run(self.recipe, folder / "undisturbed")
            assert came[0] == "finished", came
            self.undisturbed = last(folder / "undisturbed")
        came = run(self.recipe, folder / "stopped", stop_at(4))
        assert came[0] == "stopped", came
        assert last(folder / "stopped").step == 4

    def copy(self):
        self._number += 1
        target = self.folder / f"run{self._number}"
        shutil.copytree(self.folder / "stopped", target)
        return target

    @contextlib.contextmanager
    def other_data(self, change):
        """The data are changed by a function, and changed back."""
        kept = self.folder / "kept"
        shutil.copytree(self.data, kept)
        try:
            change(self.data)
            yield
        finally:
            shutil.rmtree(self.data)
            kept.rename(self.data)

    def refused(self, kind, directory, words, recipe=None, at_step=None):
        """A run that must be refused, with its folder unchanged."""
        before = snapshot(directory) if directory.is_dir() else None
        came, message = run(recipe or self.recipe, directory, at_step)
        right = came == "refused" and words in message
        if at_step is None and before is not None:
            right &= snapshot(directory) == before
        self.note(kind, "refused in one line", right, f"{came}: {message}")

    def survived(self, kind, directory, at_step=None):
        """A run that must end in the bits of the undisturbed one."""
        came, message = run(self.recipe, directory, at_step)
        right = came == "finished" and not _half_written(directory)
        if self.undisturbed is not None and right:
            right = same_bits(last(directory), self.undisturbed)
        elif right:
            right = last(directory).step == STEPS
        self.note(kind, "survived", right, f"{came}: {message}")

    def note(self, kind, outcome, right, why):
        self.counts[kind][outcome if right else "wrong"] += 1
        if not right:
            self.wrong[kind] += 1
            self._say(f"{kind}: not {outcome}: {why}")

    def rows(self):
        for kind, outcomes in self.counts.items():
            wrong = self.wrong[kind]
            yield Row(kind, outcomes, f"{wrong} wrong" if wrong else "")


def other_recipes(cases):
    changes = {
        "seed": 1,
        "learning_rate": 0.2,
        "label_smoothing": 0.0,
        "weight_decay": 1e-4,
        "deterministic": False,
    }
    if not cases.full:
        changes = {"seed": 1}
    for field, value in changes.items():
        other = cases.recipe.replace(**{field: value})
        cases.refused("another recipe", cases.copy(), field, other)
        directory = cases.copy()
        (directory / "recipe.toml").unlink()
        kind = "another recipe, recipe.toml removed"
        cases.refused(kind, directory, field, other)
        from keras_nfnet.training.recipe import write_recipe

        directory = cases.copy()
        write_recipe(other, directory / "recipe.toml")
        kind = "checkpoints of another recipe of the same shapes"
        cases.refused(kind, directory, field, other)


def _first(data, split):
    return sorted((data / split).rglob("*.png"))[0]


def other_data(cases):
    def same_size(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    changes = {
        "shrank": lambda path: path.unlink(),
        "grew": lambda path: shutil.copy(path, path.with_name("new.png")),
        "were renamed": lambda path: path.rename(path.with_name("new.png")),
        "have another class": lambda path: path.rename(
            path.parents[1] / "light" / "new.png"
        ),
        "have another size": lambda path: path.write_bytes(
            path.read_bytes() + b"\0"
        ),
        "have other bytes": same_size,
    }
    for name, change in changes.items():
        splits = {"train": "training", "test": "evaluation"}
        if not cases.full:  # One of them each.
            splits.pop("test" if len(name) % 2 else "train")
        for split, told in splits.items():
            with cases.other_data(lambda d, s=split, c=change: c(_first(d, s))):
                cases.refused(
                    f"data that {name} between stop and resume",
                    cases.copy(),
                    f"The {told} data",
                )
    with cases.other_data(
        lambda data: [
            (data / split / "dark").rename(data / split / "night")
            for split in ("train", "test")
        ]
    ):
        cases.refused(
            "data whose class was renamed", cases.copy(), "other classes"
        )


def places(cases):
    from keras_nfnet.training.checkpoint import Checkpoints

    directory = cases.copy()
    with Checkpoints(directory / "checkpoints"):
        cases.refused("a second run in the folder", directory, "nother trainer")
    file = cases.folder / "file"
    file.write_text("")
    cases.refused("a file in the place of the folder", file, "is a file")
    for place in ("/proc/run", "/sys/run", "/dev/null/run"):
        cases.refused("a read-only place", pathlib.Path(place), "")


def directory_for_checkpoint(cases):
    directory = cases.copy()
    newest = sorted((directory / "checkpoints").glob("step-*"))[-1]
    newest.unlink()
    newest.mkdir()
    (newest / "theirs").write_text("")
    cases.survived("a directory in the place of the newest one", directory)
    kept = list((directory / "checkpoints").glob("step-*/theirs"))
    cases.note("a directory in the place of the newest one", "kept", kept, "")


def removed(cases):
    for step in range(2):
        directory = cases.copy()

        def remove(now, directory=directory, step=step):
            if now == step:
                shutil.rmtree(directory)

        kind = "the folder removed while training"
        cases.refused(kind, directory, "folder", at_step=remove)
        # Not made anew, where another run may begin.
        gone = not (directory / "checkpoints").exists()
        cases.note(kind, "not made anew", gone, "made anew")


def clock(cases):
    """The time of day and of the files jumps by up to ten years."""
    generator = random.Random(0)
    true = time.time

    def jump(now, directory):
        offset = generator.uniform(-1, 1) * 3e8
        time.time = lambda: true() + offset
        for path in (directory / "checkpoints").iterdir():
            os.utime(path, (true() + generator.uniform(-3e8, 3e8),) * 2)

    for _ in range(3):
        directory = cases.copy()
        try:
            cases.survived(
                "a clock that jumps by years",
                directory,
                lambda now, directory=directory: jump(now, directory),
            )
        finally:
            time.time = true


def two_at_once(cases):
    """Two processes start at the same moment in the same folder."""
    directory = cases.copy()
    each = [_child("train", directory, cases.data) for _ in range(2)]
    came = [json.loads(p.communicate()[0].splitlines()[-1])[0] for p in each]
    right = "finished" in came and set(came) <= {"finished", "refused"}
    right &= same_bits(last(directory), cases.undisturbed)
    cases.note(
        "two processes that start at once",
        "one went on, one was refused or found it finished",
        right,
        came,
    )


def full_disk(cases):
    """Files may not grow beyond a limit; then they may again."""
    size = max(
        path.stat().st_size
        for path in (cases.folder / "stopped" / "checkpoints").glob("step-*")
    )
    for limit in (0, 100, size // 2, size - 1, size + 100, size * 2):
        directory = cases.copy()
        process = _child("train", directory, cases.data, limit)
        text = process.communicate()[0]
        kind = "a full disk while training"
        came = json.loads(text.splitlines()[-1]) if text.strip() else ["died"]
        right = process.returncode == 0 and came[0] in ("refused", "finished")
        right &= not _half_written(directory)
        cases.note(kind, "refused in one line, or fits", right, came)
        cases.survived("the same run, with space again", directory)


def full_disk_for_weights(cases):
    """Every kind of file of weights under limits of every size."""
    folder = cases.folder / "weights"
    folder.mkdir()
    for ending in ("safetensors", "weights.h5", "npz", "keras"):
        process = _child("weights", folder, ending)
        came = process.communicate()[0].splitlines()
        kind = f"a full disk while .{ending} is written"
        for line in came:
            outcome, message = json.loads(line)
            right = outcome in ("refused", "written")
            cases.note(kind, "refused in one line, or fits", right, message)
        right = process.returncode == 0 and not _half_written(folder)
        cases.note(
            kind,
            "no half file, no signal",
            right,
            f"status {process.returncode}, {_half_written(folder)}",
        )


def _child(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "faults.runs", *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def limit_files(size):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def rows(full, folder, say):
    """The rows of the scorecard."""
    cases = Cases(folder, full, say)
    other_recipes(cases)
    other_data(cases)
    places(cases)
    directory_for_checkpoint(cases)
    if full:
        removed(cases)
        clock(cases)
        two_at_once(cases)
        full_disk(cases)
        full_disk_for_weights(cases)
    yield from cases.rows()


def _write_weights(folder, ending):
    from keras_nfnet import NFNet, NFNetConfig
    from keras_nfnet.training.directory import save_model
    from keras_nfnet.weights import save

    model = NFNet(
        NFNetConfig((64,), (1,), group_width=8), weights=None, classes=9
    )
    write = save_model if ending == "keras" else save
    path = folder / f"w.{ending}"
    write(model, path)
    size = path.stat().st_size
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999, 1, 1.5):
        path.unlink()
        limit_files(int(size * share))
        try:
            write(model, path)
            came = ["written", ""]
        except ValueError as error:
            one_line = "\n" not in str(error)
            came = ["refused" if one_line else "many lines", str(error)]
        limit_files(resource.RLIM_INFINITY)
        if came[0] == "refused" and path.exists():
            came = ["half", str(path)]
        print(json.dumps(came), flush=True)
        path.touch()


def _main():
    what, place, *arguments = sys.argv[1:]
    if what == "weights":
        return _write_weights(pathlib.Path(place), *arguments)
    data, *limit = arguments
    wanted = recipe(data)
    if limit:
        limit_files(int(limit[0]))
    came = run(wanted, pathlib.Path(place))
    limit_files(resource.RLIM_INFINITY)
    print(json.dumps(came))


if __name__ == "__main__":
    _main()
