"""The scripts of `examples/` do what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.tensorflow
@pytest.mark.slow
def test_a_segmentation_head_learns_on_frozen_features():
    segmentation = example("segmentation")
    _, labels = segmentation.examples(64)
    majority = max(np.mean(labels), 1 - np.mean(labels))
    assert segmentation.main(epochs=8, size=64) > majority
