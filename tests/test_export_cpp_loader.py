"""TensorFlow's C++ loader, the one TensorFlow Serving is built on, runs every
signature of a SavedModel, through the C API and without Python's TensorFlow.
"""

import ctypes
import importlib.util
import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from test_fold import network

import keras_nfnet

pytestmark = pytest.mark.tensorflow

# Numbers of TF_DataType, from tensorflow/c/tf_datatype.h.
FLOAT, STRING = 1, 7
# sizeof(TF_TString).
STRING_SIZE = 24
# Of pixels that a network of 32×32 RGB does not take.
OTHER_SHAPES = [(1, 31, 32, 3), (1, 64, 64, 3), (1, 32, 32, 1), (32, 32, 3)]


class Output(ctypes.Structure):
    """TF_Output of tensorflow/c/c_api.h."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Loader:
    """A session of the C++ loader."""

    def __init__(self, directory):
        folder = os.path.dirname(importlib.util.find_spec("tensorflow").origin)
        self.c = ctypes.CDLL(os.path.join(folder, "libtensorflow_cc.so.2"))
        for name in (
            "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_TensorData "
            "TF_LoadSessionFromSavedModel TF_GraphOperationByName "
            "TF_AllocateTensor"
        ).split():
            getattr(self.c, name).restype = ctypes.c_void_p
        self.c.TF_Message.restype = ctypes.c_char_p
        self.c.TF_Dim.restype = ctypes.c_int64
        self.c.TF_StringGetDataPointer.restype = ctypes.c_void_p
        self.c.TF_StringGetSize.restype = ctypes.c_size_t
        self.status = ctypes.c_void_p(self.c.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.c.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.c.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(self.c.TF_NewSessionOptions()),
                None,
                directory.encode(),
                tags,
                1,
                self.graph,
                None,
                self.status,
            )
        )
        self.check()

    def check(self):
        code = self.c.TF_GetCode(self.status)
        if code:
            raise RuntimeError(code, self.c.TF_Message(self.status).decode())

    def tensor(self, value):
        dims = (ctypes.c_int64 * value.ndim)(*value.shape)
        text = value.dtype == object
        size = value.size * STRING_SIZE if text else value.nbytes
        tensor = ctypes.c_void_p(
            self.c.TF_AllocateTensor(
                STRING if text else FLOAT,
                dims,
                value.ndim,
                ctypes.c_size_t(size),
            )
        )
        data = self.c.TF_TensorData(tensor)
        if not text:
            ctypes.memmove(data, value.tobytes(), size)
        for index, item in enumerate(value if text else ()):
            place = ctypes.c_void_p(data + index * STRING_SIZE)
            self.c.TF_StringInit(place)
            self.c.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
        return tensor

    def array(self, tensor):
        shape = [
            self.c.TF_Dim(tensor, index)
            for index in range(self.c.TF_NumDims(tensor))
        ]
        data = self.c.TF_TensorData(tensor)
        count = int(np.prod(shape))
        if self.c.TF_TensorType(tensor) == FLOAT:
            values = (ctypes.c_float * count).from_address(data)
            return np.array(values).reshape(shape)
        items = []
        for index in range(count):
            place = ctypes.c_void_p(data + index * STRING_SIZE)
            items.append(
                ctypes.string_at(
                    self.c.TF_StringGetDataPointer(place),
                    self.c.TF_StringGetSize(place),
                ).decode()
            )
        return np.array(items).reshape(shape)

    def output(self, name):
        operation, index = name.split(":")
        found = self.c.TF_GraphOperationByName(self.graph, operation.encode())
        assert found, name
        return Output(found, int(index))

    def run(self, signature, value):
        names = list(signature["outputs"])
        results = (ctypes.c_void_p * len(names))()
        self.c.TF_SessionRun(
            self.session,
            None,
            (Output * 1)(self.output(signature["input"])),
            (ctypes.c_void_p * 1)(self.tensor(value).value),
            1,
            (Output * len(names))(
                *(self.output(signature["outputs"][name]) for name in names)
            ),
            results,
            len(names),
            None,
            0,
            None,
            self.status,
        )
        self.check()
        return {
            name: self.array(ctypes.c_void_p(result)).tolist()
            for name, result in zip(names, results, strict=True)
        }


def run_by_cpp(folder):
    """What the child process does: no TensorFlow but the C++ library."""
    task = json.loads((folder / "task.json").read_text())
    loader = Loader(task["directory"])
    pictures = [(folder / name).read_bytes() for name in ("a", "b")]
    serve, by_bytes = (
        task["signatures"][name] for name in ("serving_default", "serve_bytes")
    )
    answers = {
        "pixels": loader.run(serve, np.load(folder / "pixels.npy")),
        "bytes": loader.run(by_bytes, np.array(pictures, object)),
    }
    try:
        loader.run(by_bytes, np.array([pictures[0], b"junk"], object))
    except RuntimeError as error:
        answers["code of junk"] = error.args[0]
    for shape in OTHER_SHAPES:
        try:
            loader.run(serve, np.zeros(shape, "float32"))
        except RuntimeError as error:
            answers[f"code of {shape}"] = error.args[0]
    answers["after junk"] = loader.run(by_bytes, np.array(pictures, object))
    answers["python's tensorflow"] = "tensorflow" in sys.modules
    (folder / "answers.json").write_text(json.dumps(answers))


def test_the_cpp_loader_runs_every_signature(tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    model = network(input_shape=(32, 32, 3))
    directory = tmp_path / "1"
    keras_nfnet.export.to_saved_model(model, directory)
    content = saved_model_pb2.SavedModel.FromString(
        (directory / "saved_model.pb").read_bytes()
    )
    (meta_graph,) = content.meta_graphs
    signatures = {
        name: {
            "input": next(iter(meta.inputs.values())).name,
            "outputs": {key: value.name for key, value in meta.outputs.items()},
        }
        for name, meta in meta_graph.signature_def.items()
        if not name.startswith("__")
    }
    assert set(signatures) == {"serving_default", "serve_bytes"}
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    for name, kind in (("a", "JPEG"), ("b", "PNG")):
        file = io.BytesIO()
        photo.save(file, kind)
        (tmp_path / name).write_bytes(file.getvalue())
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    np.save(tmp_path / "pixels.npy", pixels.astype("float32"))
    (tmp_path / "task.json").write_text(
        json.dumps({"directory": str(directory), "signatures": signatures})
    )
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import pathlib, sys; sys.path[:0] = sys.argv[2:]; "
            "import test_export_cpp_loader as test; "
            "test.run_by_cpp(pathlib.Path(sys.argv[1]))",
            str(tmp_path),
            os.path.dirname(__file__),
        ],
        check=True,
        # So that nothing imports TensorFlow in Python.
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers["python's tensorflow"] is False
    images = keras_nfnet.preprocess_input(pixels.astype("float32"))
    np.testing.assert_allclose(
        answers["pixels"]["probabilities"],
        keras.ops.convert_to_numpy(model(images, training=False)),
        atol=1e-5,
    )
    # TensorFlow's INVALID_ARGUMENT; the same session goes on after it.
    assert answers["code of junk"] == 3
    for shape in OTHER_SHAPES:
        assert answers.get(f"code of {shape}") == 3, shape
    assert answers["after junk"] == answers["bytes"]
    by_bytes = answers["bytes"]
    assert np.shape(by_bytes["classes"]) == (2, 5)
    order = np.argsort(-np.array(by_bytes["probabilities"]), axis=-1)[:, :5]
    np.testing.assert_array_equal(by_bytes["classes"], order.astype(str))
