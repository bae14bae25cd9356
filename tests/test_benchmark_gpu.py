"""The benchmark of GPUs in its small form, on this backend and a CPU."""

from pathlib import Path

import keras
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu

        yield gpu


def test_each_part_runs_and_the_page_has_its_row(gpu):
    backend = keras.backend.backend()
    rows = []
    for kind in gpu.KINDS:
        found = gpu.one(backend, kind, "small", 2, 1)
        assert found["seconds"] > 0
        case = {"side": backend, "kind": kind, "network": "small", "batch": 2}
        rows.append({**case, "round": 0, **found, "device": "CPU"})
    text = gpu.page(rows)
    assert "**Not run on a GPU**" in text
    assert all(
        f"| small {kind} | 2 | {backend} |" in text for kind in gpu.KINDS
    )


def test_ratios_are_of_the_same_round_and_failures_are_told(gpu):
    case = {"kind": "training", "network": "F0", "batch": 32}
    case["device"] = "NVIDIA A100-SXM4"
    rows = [
        case | {"side": "jax", "round": 0, "seconds": 0.1},
        case | {"side": "timm", "round": 0, "seconds": 0.2},
        case | {"side": "jax", "round": 1, "seconds": 0.1},
        case | {"side": "timm", "round": 1, "seconds": 0.4},
        case | {"side": "torch", "round": 0, "failed": "out of memory"},
    ]
    ours, _, torch = gpu.page(rows).splitlines()[-3:]
    # 32 / 0.1 s images, 6.98 GMACs, six operations each, of 312 TFLOP/s.
    assert "| 320 | 4% | 0.38 (0.25–0.50) |" in ours
    assert "out of memory" in torch
