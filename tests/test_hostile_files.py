"""No file runs code, hangs its reader or takes memory without bound."""

import hostile_files
import pytest

# Those of `.keras` files take a minute: `python tests/hostile_files.py`.
KINDS = ("pickle that calls", "pickle", "safetensors", "hdf5")


@pytest.mark.tensorflow
@pytest.mark.slow
def test_files_made_to_harm_are_refused_within_bounds(tmp_path):
    sound = hostile_files.sound_files(tmp_path)
    marker = tmp_path / "ran"
    worker = hostile_files.Worker()
    try:
        counts = hostile_files.inject(
            hostile_files.corpus(sound, marker, KINDS), tmp_path, worker
        )
    finally:
        worker.stop()
    assert not marker.exists()
    assert len(counts) >= 3
    for kind, row in counts.items():
        assert row["injected"] > 10, kind
        assert row["beyond bounds"] == 0, (kind, row)
