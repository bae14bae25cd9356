"""What all tests share."""

import atexit
import gc
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Neither read nor written is what the user's Keras keeps.
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras_home")

import keras
import numpy as np
import pytest

atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)

if keras.backend.backend() == "torch":
    import torch

    # The tests read tensors as arrays; PyTorch wants those that carry a
    # gradient detached first. The package itself must do so.
    to_array = torch.Tensor.__array__
    torch.Tensor.__array__ = lambda self, *args, **kwargs: to_array(
        self.detach(), *args, **kwargs
    )

FIGURES = Path(__file__).parent / "figures"


def pytest_collection_modifyitems(items):
    # What a backend cannot do at all; `make test` runs all on TensorFlow.
    backend = keras.backend.backend()
    missing = {}
    if backend != "tensorflow":
        missing["tensorflow"] = "needs the TensorFlow backend"
    if backend == "openvino":
        missing["training"] = "the OpenVINO backend does not train"
    for item in items:
        for marker, reason in missing.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_state():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
    yield
    keras.backend.clear_session()
    # What lives on, millions of objects by the end, is not searched for
    # garbage again and again: that took more time than some tests.
    gc.freeze()


@pytest.fixture(scope="session")
def figures():
    """Reads a file of reference figures by its name."""

    def read(name):
        return json.loads((FIGURES / name).read_text())

    return read


@pytest.fixture(scope="session")
def variant_rows():
    """What `keras-nfnet info` prints; from models that take 10 s to build."""
    from keras_nfnet.diagnostics import variant_table

    return variant_table()


@pytest.fixture
def tiny_config():
    """The tiny NFNet of the reference trajectory."""
    from keras_nfnet import NFNetConfig

    return NFNetConfig((32, 64, 96, 96), (1, 2, 1, 1), group_width=16)


@pytest.fixture
def tiny(tiny_config):
    """A function that builds the tiny network with random skip gains."""
    from keras_nfnet import NFNet

    def build(**kwargs):
        options = {"weights": None, "classes": 10, "input_shape": (32, 32, 3)}
        model = NFNet(tiny_config, **{**options, **kwargs})
        generator = np.random.default_rng(0)
        for variable in model.trainable_weights:
            if variable.name == "skip_gain":
                variable.assign(generator.uniform(0.3, 0.7))
        return model

    return build
