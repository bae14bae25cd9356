"""N replicas are one: every engine, in real processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import values

SCRIPT = Path(__file__).with_name("distributed_run.py")

pytestmark = pytest.mark.long


def start(backend, out, strategy, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), strategy, *arguments],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        text, _ = process.communicate(timeout=900)
        assert process.returncode == 0, text[-4000:]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run on one device, by backend."""
    found = {}

    def of(backend):
        if backend not in found:
            out = tmp_path_factory.mktemp(backend) / "one.npz"
            finish(start(backend, out, "one"))
            found[backend] = np.load(out)
        return found[backend]

    return of


@pytest.fixture(scope="module")
def clipped_by_parts(tmp_path_factory):
    """The mistake on JAX, where the gradients of a batch come summed."""
    out = tmp_path_factory.mktemp("jax") / "wrong.npz"
    finish(start("jax", out, "one", "--clip-before-sum"))
    return np.load(out)


def distance(run, expected):
    """Largest difference over all arrays, relative to each one's largest."""
    names = [n for n in expected if n.startswith(("weight", "optimizer"))]
    assert len(names) > 30
    worst = 0.0
    for name in names:
        scale = np.abs(expected[name]).max() or 1.0
        worst = max(worst, np.abs(run[name] - expected[name]).max() / scale)
    return worst


def check(run, mistaken, expected, replicas, workers=1):
    assert run["replicas"] == replicas and run["workers"] == workers
    assert distance(run, expected) < 1e-5
    assert distance(mistaken, expected) > 1e-2
    assert run["loss"] == pytest.approx(float(expected["loss"]), rel=1e-4)
    np.testing.assert_allclose(
        run["evaluated"], expected["evaluated"], rtol=1e-4
    )


def test_mirrored_strategy_is_one_device(one, tmp_path):
    out, wrong = tmp_path / "two.npz", tmp_path / "wrong.npz"
    finish(
        start("tensorflow", out, "mirrored", "--devices=2", "--refusals"),
        start(
            "tensorflow", wrong, "mirrored", "--devices=2", "--clip-before-sum"
        ),
    )
    run = np.load(out)
    check(run, np.load(wrong), one("tensorflow"), replicas=2)
    messages = dict(text.split("\n", 1) for text in run["messages"])
    for name, advice in {
        "accumulate": "more replicas",
        "float16": "mixed_bfloat16",
        "several steps": "steps_per_execution=1",
        "XLA": "jit_compile=False",
        "batch": "multiple",
    }.items():
        assert advice in messages[name], name


@pytest.mark.parametrize("sam", ["--sam=1", "--sam=0.25"])
def test_sam_under_mirrored_strategy_is_sam_on_one_device(sam, one, tmp_path):
    alone, two = tmp_path / "one.npz", tmp_path / "two.npz"
    finish(
        start("tensorflow", alone, "one", sam),
        start("tensorflow", two, "mirrored", "--devices=2", sam),
    )
    expected = np.load(alone)
    assert distance(np.load(two), expected) < 1e-5
    # And SAM is another step than the plain one.
    assert distance(one("tensorflow"), expected) > 1e-3


def test_workers_on_tensorflow_are_one_device(one, tmp_path):
    def run(name, *arguments):
        workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        out = tmp_path / f"{name}.npz"
        return out, [
            start(
                "tensorflow",
                out,
                "multi_worker",
                *arguments,
                TF_CONFIG=json.dumps(
                    {
                        "cluster": {"worker": workers},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            )
            for index in range(2)
        ]

    out, processes = run("workers")
    finish(*processes)
    wrong, processes = run("wrong", "--clip-before-sum")
    finish(*processes)
    run = np.load(out)
    check(run, np.load(wrong), one("tensorflow"), replicas=2, workers=2)
    other = np.load(f"{out}.1.npz")
    for name in run:
        if name.startswith(("weight", "optimizer")):
            np.testing.assert_array_equal(run[name], other[name])


def test_eight_devices_on_jax_are_one(one, clipped_by_parts, tmp_path):
    out = tmp_path / "eight.npz"
    finish(start("jax", out, "auto", "--devices=8"))
    check(np.load(out), clipped_by_parts, one("jax"), replicas=8)


def test_sam_on_a_fraction_over_eight_devices_on_jax_is_one(one, tmp_path):
    alone, eight = tmp_path / "one.npz", tmp_path / "eight.npz"
    finish(start("jax", alone, "one", "--sam=0.5"))
    finish(start("jax", eight, "auto", "--devices=8", "--sam=0.5"))
    expected = np.load(alone)
    assert distance(np.load(eight), expected) < 1e-5
    assert distance(one("jax"), expected) > 1e-3


def test_two_processes_on_jax_are_one_device(one, clipped_by_parts, tmp_path):
    out, address = tmp_path / "two.npz", f"127.0.0.1:{free_port()}"
    processes = [
        start(
            "jax",
            out,
            "multi_worker",
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    finish(*processes)
    check(np.load(out), clipped_by_parts, one("jax"), replicas=2, workers=2)


def test_a_gradient_that_overflows_in_the_sum_is_skipped_everywhere():
    injected = ("float32", 2, "SGDAGC")
    ((counts, wrong),) = values.in_process("tensorflow", 2, [injected])
    assert sum(counts.values()) == 288 and not wrong
