"""Checkpoints under kills, full disks and flipped bits; state and back."""

import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_nfnet import SGDAGC, NFNet, NFNetConfig
from keras_nfnet.training import checkpoint_file
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.training.state import restore_state, state_of
from keras_nfnet.weights.check import WeightsFileError

PACKAGE = Path(checkpoint_file.__file__).parents[1]

# Saves for ever, after what is there; without the seconds and the memory of
# a backend, since it is started some 50 times.
TRAINER = """
import sys, types
import numpy as np
for name in ("keras_nfnet", "keras_nfnet.weights", "keras_nfnet.training"):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = ["/".join([{package!r}, *name.split(".")[1:]])]
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.weights import check
assert "keras" not in sys.modules
def state(step):
    generator = np.random.default_rng(step)
    return {{"w": generator.random({size}, np.float32), "s": np.int64(step)}}
def say(line):  # In one piece, whatever the buffering.
    sys.stdout.write(line)
    sys.stdout.flush()
with Checkpoints(sys.argv[1]) as checkpoints:
    found = checkpoints.restore()
    step = found.step if found else 0
    while True:
        step += 1
        arrays = state(step)
        say(f"saving {{step}}\\n")
        checkpoints.save(step, arrays)
        say(f"saved {{step}}\\n")
"""
SIZE = 1_000_000


def state(step, size=SIZE):
    generator = np.random.default_rng(step)
    return {"w": generator.random(size, np.float32), "s": np.int64(step)}


def assert_same(arrays, expected):
    assert set(arrays) == set(expected)
    for name, value in expected.items():
        value = np.asarray(value)
        assert arrays[name].dtype == value.dtype, name
        assert arrays[name].shape == value.shape, name
        assert arrays[name].tobytes() == value.tobytes(), name


def restore_quietly(directory):
    """Restores; a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Checkpoints(directory).restore()


class Trainer:
    """A real process that saves for ever."""

    def __init__(self, directory):
        code = TRAINER.format(package=str(PACKAGE), size=SIZE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def line(self):
        word, step = self.process.stdout.readline().split()
        return word, int(step)

    def kill(self):
        """Kills it; returns the words it still said."""
        self.process.send_signal(signal.SIGKILL)
        rest = [line.split() for line in self.process.stdout.read().split("\n")]
        self.process.wait()
        self.process.stdout.close()
        return [(word, int(step)) for word, step in filter(None, rest)]


@pytest.fixture
def trainer(tmp_path):
    started = []

    def start():
        started.append(Trainer(tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("during_a_save", [False, True])
def test_twenty_kills_lose_nothing_acknowledged(
    trainer, tmp_path, during_a_save
):
    generator = random.Random(int(during_a_save))
    acknowledged, hits, durations = 0, 0, []
    for _ in range(80):
        if hits == 20:
            break
        process = trainer()
        if during_a_save:
            for _ in range(3):
                assert process.line()[0] == "saving"
                began = time.perf_counter()
                acknowledged = process.line()[1]
                durations.append(time.perf_counter() - began)
            assert process.line()[0] == "saving"
            time.sleep(generator.random() * statistics.median(durations))
        else:
            # From the first save on: before, nothing can be lost.
            assert process.line()[0] == "saving"
            time.sleep(generator.uniform(0, 0.3))
        said = process.kill()
        saved = [step for word, step in said if word == "saved"]
        acknowledged = max([acknowledged, *saved])
        hits += not (during_a_save and saved)
        found = restore_quietly(tmp_path)
        if found is None:
            assert acknowledged == 0
            continue
        # One more may be there: on the disk, but not said any more.
        assert found.step in (acknowledged, acknowledged + 1)
        assert_same(found.arrays, state(found.step))
        acknowledged = found.step
    assert hits == 20
    assert acknowledged > 5
    # What the kills left is cleaned by the next save.
    Checkpoints(tmp_path).save(acknowledged + 1, state(0, 4))
    assert len([n for n in os.listdir(tmp_path) if n != ".lock"]) == 2


@pytest.mark.parametrize("how", ["flipped bit", "truncated"])
def test_every_single_damage_is_seen(tmp_path, how):
    checkpoints = Checkpoints(tmp_path)
    arrays = {"w": np.arange(5, dtype="float32"), "s": np.int64(3)}
    path = Path(checkpoints.save(3, arrays, {"epoch": 1}))
    sound = path.read_bytes()
    if how == "truncated":
        damaged = [sound[:length] for length in range(len(sound))]
    else:
        damaged = []
        for place in range(len(sound)):
            for bit in range(8):
                data = bytearray(sound)
                data[place] ^= 1 << bit
                damaged.append(bytes(data))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError):
            checkpoint_file.read(path, 3)
    path.write_bytes(sound)
    assert_same(checkpoint_file.read(path, 3)[0], arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"0"),
        lambda path: path.write_bytes(b""),
        # One that is sound, but another step's.
        lambda path: path.write_bytes(
            path.with_name("step-0000000001.safetensors").read_bytes()
        ),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_the_one_before_a_damaged_one_is_used_with_a_warning(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1, 9), {"epoch": 0})
        newest = Path(checkpoints.save(2, state(2, 9)))
        damage(newest)
        with pytest.warns(UserWarning, match=newest.name):
            found = checkpoints.restore()
        assert (found.step, found.metadata) == (1, {"epoch": 0})
        assert_same(found.arrays, state(1, 9))
        # Training goes on below the damaged one, and past it.
        checkpoints.save(1, state(1, 9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a directory, moved aside.
            checkpoints.save(2, state(2, 9))
        assert checkpoints.restore().step == 2
        checkpoints.save(3, state(3, 9))
    assert restore_quietly(tmp_path).step == 3


def test_with_nothing_intact_it_does_not_start_anew(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore() is None
    assert checkpoints.latest is None
    path = Path(checkpoints.save(7, state(7, 9)))
    assert checkpoints.latest == 7
    path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(ValueError, match="None of the checkpoints"),
    ):
        checkpoints.restore()


def test_a_full_disk_leaves_what_was_there(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(step))
    before = sorted(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    earlier = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, limits[1]))
    try:
        with pytest.raises(WeightsFileError, match="was not written"):
            checkpoints.save(3, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, earlier)
    assert sorted(os.listdir(tmp_path)) == before
    assert_same(restore_quietly(tmp_path).arrays, state(2))


def test_only_one_process_saves(trainer, tmp_path):
    process = trainer()
    process.line()
    with pytest.raises(ValueError, match="Another trainer"):
        Checkpoints(tmp_path).save(10**6, state(0, 9))
    process.kill()
    Checkpoints(tmp_path).save(10**6, state(0, 9))


def test_a_forked_worker_does_not_hold_the_lock(tmp_path):
    # A process of its own: this one has the threads of a backend.
    code = TRAINER.format(package=str(PACKAGE), size=9).split("with ")[0]
    code += """
import os, time
trainer = Checkpoints(sys.argv[1])
trainer.acquire()
worker = os.fork()
if worker == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
os._exit(0)  # The trainer ends, its worker lives on.
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    )
    worker = int(process.stdout.readline())
    process.wait()
    try:
        Checkpoints(tmp_path).save(1, state(1, 9))
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


def test_the_newest_are_kept_and_others_files_left_alone(tmp_path):
    other = tmp_path / "step-notes.safetensors"
    other.write_bytes(b"mine")
    left = tmp_path / ".step-0000000001.safetensors.0123456789ab.tmp"
    left.write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(0, 60, 10):
        checkpoints.save(step, state(step, 9))
    assert sorted(os.listdir(tmp_path)) == [
        ".lock",
        "step-0000000030.safetensors",
        "step-0000000040.safetensors",
        "step-0000000050.safetensors",
        other.name,
    ]
    with pytest.raises(ValueError, match="must not be below"):
        checkpoints.save(40, state(40, 9))


def test_every_type_comes_back_bit_for_bit(tmp_path):
    import ml_dtypes

    generator = np.random.default_rng(0)
    arrays = {
        name: generator.integers(0, 2, (3, 0 if name == "int8" else 2)).astype(
            ml_dtypes.bfloat16 if name == "bfloat16" else name
        )
        for name in checkpoint_file._DTYPES
    }
    arrays["scalar"] = np.float32("nan")
    arrays["strided"] = np.arange(12.0).reshape(3, 4).T
    metadata = {"epoch": 1, "_sha256": '"quotes"', "nested": {"a": [None]}}
    Checkpoints(tmp_path).save(1, arrays, metadata)
    found = restore_quietly(tmp_path)
    assert_same(found.arrays, arrays)
    assert found.metadata == metadata
    big = {"w": np.arange(3, dtype=">f4")}
    Checkpoints(tmp_path).save(2, big)
    assert_same(
        restore_quietly(tmp_path).arrays, {"w": np.arange(3, dtype="<f4")}
    )


@pytest.mark.parametrize(
    "step, arrays, metadata, message",
    [
        (-1, {}, None, "`step`"),
        (1.0, {}, None, "`step`"),
        (True, {}, None, "`step`"),
        (1, {"w": np.array(["text"])}, None, "'w' of type"),
        (1, {"": np.zeros(1)}, None, "`arrays` must have names"),
        (1, {}, {"a": np.zeros(1)}, "`metadata`"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    tmp_path, step, arrays, metadata, message
):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path).save(step, arrays, metadata)
    assert os.listdir(tmp_path) == []


def test_bad_directories_are_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="must be a directory"):
        Checkpoints(file)
    with pytest.raises(ValueError, match="`directory`"):
        Checkpoints(None)
    with pytest.raises(ValueError, match="`keep`"):
        Checkpoints(tmp_path, keep=1)
    with pytest.raises(WeightsFileError, match="cannot be written"):
        Checkpoints(file / "below").acquire()


# The state of a model ------------------------------------------------------

CONFIG = NFNetConfig((8,), (1,), group_width=8, drop_rate=0.2)


def compiled(run_eagerly=False):
    model = NFNet(CONFIG, weights=None, classes=3, input_shape=(32, 32, 3))
    model.compile(
        SGDAGC(0.1, ema_decay=0.99),
        "categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
    )
    return model


def data(size=8):
    generator = np.random.default_rng(0)
    images = generator.standard_normal((size, 32, 32, 3)).astype("float32")
    return images, np.eye(3, dtype="float32")[np.arange(size) % 3]


@pytest.fixture(scope="module")
def trained():
    """A trained model and its state."""
    model = compiled(run_eagerly=True)
    model.train_on_batch(*data())
    return model, state_of(model)


@pytest.fixture(scope="module")
def another():
    """Another trained model."""
    model = compiled(run_eagerly=True)
    model.train_on_batch(*data())
    return model


def test_the_state_is_all_there_is(trained):
    model, arrays = trained
    names = list(arrays)
    for part in (
        "stem_conv0/kernel",
        "seed_generator_state",
        "iteration",
        "momentum",
        "ema",
        "clipped_units",
        "accuracy/count",
        "loss/total",
    ):
        assert any(part in name for name in names), part
    assert len(names) == len(model.variables) + len(
        model.optimizer.variables
    ) + len(model.metrics_variables)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.parametrize("fresh", [True, False])
def test_restored_into_another_model_it_is_the_same(trained, another, fresh):
    _, arrays = trained
    model = compiled() if fresh else another
    # Metrics are made by the first batch.
    batch = data() if fresh else None
    assert restore_state(model, arrays, batch) == []
    assert_same(state_of(model), arrays)


def test_values_that_are_not_finite_are_restored_and_named(trained):
    _, arrays = trained
    name = next(name for name in arrays if "clipped_units" in name)
    arrays = {**arrays, name: np.float32("nan")}
    model = compiled()
    assert restore_state(model, arrays, data()) == [name]
    assert_same(state_of(model), arrays)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.popitem(), r"1 missing \(metrics/"),
        (lambda a: a.update(more=np.zeros(1)), r"1 unexpected \(more\)"),
        (
            lambda a: a.update({next(iter(a)): np.zeros((1, 2), "float32")}),
            r"1 of another shape or type \(model/0000/.*\(1, 2\) float32",
        ),
        (
            lambda a: a.update(
                {next(iter(a)): next(iter(a.values())).astype("float64")}
            ),
            r"another shape or type \(model/0000/.*float32, .*float64",
        ),
    ],
)
def test_another_state_is_refused_and_nothing_changes(
    trained, another, change, message
):
    arrays = dict(trained[1])
    change(arrays)
    before = state_of(another)
    with pytest.raises(ValueError, match=message):
        restore_state(another, arrays)
    assert_same(state_of(another), before)


def test_a_fresh_model_with_metrics_asks_for_a_batch(trained):
    with pytest.raises(ValueError, match="pass a `batch`"):
        restore_state(compiled(), trained[1])
    with pytest.raises(ValueError, match="must be compiled"):
        state_of(keras.Sequential([keras.layers.Dense(1)]))


def test_the_state_of_mixed_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(run_eagerly=True)
    model.train_on_batch(*data())
    arrays = state_of(model)
    assert any("dynamic_scale" in name for name in arrays)
    Checkpoints(tmp_path).save(1, arrays)
    other = compiled()
    restore_state(other, restore_quietly(tmp_path).arrays, data())
    assert_same(state_of(other), arrays)


# Trains 6 steps and saves after 3 and 6, or restores and trains the last 3;
# in the middle of an epoch, within `fit`.
RUN = """
import sys
sys.path.insert(0, {here!r})
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed({seed})
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.training.state import restore_state, state_of
from test_training_checkpoint import compiled, data
images, labels = data(48)
resumed = {resumed}
class Save(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if resumed:
            arrays = Checkpoints(sys.argv[1]).restore().arrays
            restore_state(self.model, arrays, (images[:8], labels[:8]))
    def on_train_batch_end(self, batch, logs=None):
        if not resumed and batch == 2:
            Checkpoints(sys.argv[1]).save(3, state_of(self.model))
model = compiled()
start = 24 * resumed
model.fit(images[start:], labels[start:], batch_size=8, shuffle=False,
          verbose=0, callbacks=[Save()])
Checkpoints(sys.argv[2]).save(6, state_of(model))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_new_process_goes_on_to_the_same_bits(tmp_path, backend):
    for resumed in (False, True):
        code = RUN.format(
            here=str(Path(__file__).parent), resumed=resumed, seed=int(resumed)
        )
        subprocess.run(
            [
                sys.executable,
                "-c",
                code,
                str(tmp_path / "middle"),
                str(tmp_path / str(resumed)),
            ],
            check=True,
            env={**os.environ, "KERAS_BACKEND": backend},
        )
    whole = restore_quietly(tmp_path / "False").arrays
    assert_same(restore_quietly(tmp_path / "True").arrays, whole)
    middle = restore_quietly(tmp_path / "middle").arrays
    assert any(
        (middle[name] != whole[name]).any()
        for name in whole
        if "seed_generator" in name
    )


MIRRORED = """
import sys
sys.path.insert(0, {here!r})
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
import keras
from keras_nfnet import SGDAGC
from keras_nfnet.training.state import restore_state, state_of
from test_training_checkpoint import assert_same, data
def compiled():
    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3, activation="softmax"),
    ])
    model.compile(SGDAGC(0.1, ema_decay=0.99), "categorical_crossentropy",
                  metrics=["accuracy"])
    return model
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model, other = compiled(), compiled()
model.fit(*data(), batch_size=8, verbose=0)
arrays = state_of(model)
restore_state(other, arrays, data())
assert_same(state_of(other), arrays)
# Each replica has the values, not the first alone.
variables = model.variables + model.optimizer.variables
others = other.variables + other.optimizer.variables
for one, two in zip(variables, others, strict=True):
    pairs = zip(
        strategy.experimental_local_results(one.value),
        strategy.experimental_local_results(two.value),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a.numpy(), b.numpy(), one.path)
print("same")
"""


@pytest.mark.tensorflow
def test_every_replica_gets_the_state():
    # A process of its own, since the devices are set before TensorFlow runs.
    code = MIRRORED.format(here=str(Path(__file__).parent))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert ran.stdout.endswith("same\n")
