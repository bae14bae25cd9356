"""A killed run goes on to the same bits: real processes, `kill -9`."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_nfnet.training.checkpoint import Checkpoints

SCRIPT = Path(__file__).with_name("train_for_kill.py")
STEPS = 60


def start(directory, data_dir, save_every=1):
    return subprocess.Popen(
        [
            sys.executable,
            str(SCRIPT),
            str(directory),
            data_dir,
            str(save_every),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_seen(process, count):
    """Waits for so many steps; the text so far."""
    text = []
    for line in process.stdout:
        text.append(line)
        count -= line == "step\n"
        if count <= 0:
            break
    return "".join(text)


def state(directory):
    checkpoint = Checkpoints(directory / "checkpoints").restore()
    assert checkpoint.step == STEPS
    return checkpoint


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The final checkpoint of a run that nobody stopped, and its data."""
    directory = tmp_path_factory.mktemp("undisturbed")
    data_dir = str(tmp_path_factory.mktemp("data"))
    process = start(directory, data_dir, save_every=1000)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text[-4000:]
    return state(directory), directory, data_dir


def test_kills_and_a_signal_change_no_bit(undisturbed, tmp_path):
    expected, directory, data_dir = undisturbed
    generator = random.Random(0)
    # Mid-epoch, just after a step begins to save, and anywhere.
    for steps in (13, generator.randint(1, 9)):
        process = start(tmp_path, data_dir)
        text = steps_seen(process, steps)
        assert process.poll() is None, text[-4000:]
        time.sleep(generator.uniform(0, 0.05))
        process.kill()
        process.wait()
    process = start(tmp_path, data_dir, save_every=1000)
    text = steps_seen(process, 7)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "TrainingStopped: Stopped at step" in text
    stopped = Checkpoints(tmp_path / "checkpoints").restore().step
    assert 20 < stopped < STEPS and stopped % 20

    # The newest checkpoint is damaged: the one before it must do.
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    process = start(tmp_path, data_dir, save_every=1000)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text[-4000:]
    assert "is passed over" in text
    assert text.count("step\n") > STEPS - stopped

    found = state(tmp_path)
    assert set(found.arrays) == set(expected.arrays)
    assert len([n for n in found.arrays if "ema" in n]) > 20
    assert [n for n in found.arrays if "seed" in n]
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, name)
    assert found.metadata["history"] == expected.metadata["history"]
    assert (tmp_path / "log.csv").read_bytes() == (
        directory / "log.csv"
    ).read_bytes()
