"""Kernels over a mesh of devices: one device's training, in less memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_nfnet
from keras_nfnet.layers.sharding import sharded_axis

SCRIPT = Path(__file__).with_name("sharded_run.py")


def runs(folder):
    """Trained there, and the example of `layout_map` run."""
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(out.read_text())
    failed, attempted = results["example"]
    assert attempted and not failed, done.stdout[-4000:]
    return {(run["network"], *run["mesh"]): run for run in results["runs"]}


# One test: its processes of tests would each make the runs again.
@pytest.mark.long
def test_a_mesh_trains_as_one_device_and_shares_the_memory(
    tmp_path, monkeypatch
):
    found = runs(tmp_path)
    for name in (("NFNet", 2, 4), ("RegNet", 2, 4), ("own", 1, 8)):
        check(found[name], devices=name[2])
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1] / "benchmarks"))
    import sharded_memory

    config = keras_nfnet.NFNetConfig((32,), (1,), group_width=8)
    model = keras_nfnet.NFNet(config, weights=None, classes=10)
    computed = sharded_memory.parameters_per_device(model, devices=4)
    assert set(found["NFNet", 2, 4]["parameters"]) == {computed}


def check(run, devices):
    differences = run["differences"]
    assert {"log loss", "log clipped", *run["layouts"]} <= differences.keys()
    assert max(differences.values()) < 1e-5
    assert all(0 < fraction < 1 for fraction in run["clipped"])
    # Every kernel of the package whose channels can be spread is, and its
    # momentum and average with it.
    expected = {}
    for path, shape in run["shapes"].items():
        axis = len(shape) - 1
        if "depthwise" in path or "transpose" in path:
            axis -= 1
        if (
            "kernel" in path
            and shape[axis] % devices == 0
            and not path.startswith(("conv2d/", "dense/"))
        ):
            layout = [None] * axis + ["model"]
            slots = path.replace("/", "_")
            for key in (
                path,
                f"sgd_agc/{slots}_momentum",
                f"sgd_agc/{slots}_ema",
            ):
                expected[key] = layout
    found = {
        path: axes[: axes.index("model") + 1]
        for path, axes in run["layouts"].items()
    }
    assert found == expected
    assert len(set(run["held"])) == 1 and len(run["held"]) == 8
    assert run["held"][0] < run["alone"][0]


def test_the_last_axis_of_whole_units_that_divides_is_sharded():
    assert sharded_axis((3, 3, 8, 16), (0, 1, 2), 4) == 3
    assert sharded_axis((3, 3, 8, 78), (0, 1, 2), 4) is None
    # Depthwise: (height, width, channels, multiplier).
    assert sharded_axis((3, 3, 24, 1), (0, 1), 4) == 2
    # Transposed: (height, width, filters, channels).
    assert sharded_axis((3, 3, 16, 24), (0, 1, 3), 4) == 2


def test_what_is_no_mesh_or_cannot_shard_is_refused():
    mesh = keras.distribution.DeviceMesh((1,), ("model",), ["cpu:0"])
    with pytest.raises(ValueError, match="`mesh` must be"):
        keras_nfnet.layout_map((1, 8))
    with pytest.raises(ValueError, match="`model_axis` must be one of"):
        keras_nfnet.layout_map(mesh, "models")
    if keras.backend.backend() == "jax":
        assert len(keras_nfnet.layout_map(mesh)) == 0
    else:
        with pytest.raises(ValueError, match="JAX backend"):
            keras_nfnet.layout_map(mesh)
