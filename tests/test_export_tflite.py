"""Tests of what a TFLite file says of itself, and of its fixed size."""

import logging
import warnings
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema
from test_family_whole_way import FORMS, small

import keras_nfnet
from keras_nfnet.export import tflite, to_tflite

pytestmark = pytest.mark.tensorflow
CONFIG = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)


def network(**options):
    options = {"classes": 3, "weights": None, **options}
    return keras_nfnet.NFNet(CONFIG, **options)


class Table:
    """A table of a flatbuffer, read by the slots of its fields."""

    def __init__(self, data, place):
        self.table = flatbuffers.table.Table(data, place)

    @classmethod
    def root(cls, data):
        return cls(data, int.from_bytes(data[:4], "little"))

    def place(self, slot):
        offset = self.table.Offset(4 + 2 * slot)
        return offset and self.table.Pos + offset

    def number(self, slot):
        place = self.place(slot)
        return self.table.Bytes[place] if place else 0

    def text(self, slot):
        place = self.place(slot)
        return self.table.String(place).decode() if place else None

    def one(self, slot):
        place = self.place(slot)
        return place and Table(self.table.Bytes, self.table.Indirect(place))

    def all(self, slot):
        offset = self.place(slot) and self.place(slot) - self.table.Pos
        if not offset:
            return []
        start, data = self.table.Vector(offset), self.table.Bytes
        return [
            Table(data, self.table.Indirect(start + 4 * i))
            for i in range(self.table.VectorLen(offset))
        ]

    def floats(self, slot):
        offset = self.place(slot) - self.table.Pos
        count = self.table.VectorLen(offset)
        start = self.table.Vector(offset)
        return np.frombuffer(self.table.Bytes, "<f4", count, start).tolist()


def metadata(path):
    """The one graph's metadata in a file."""
    content = path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    (buffer,) = (
        model.Buffers(model.Metadata(i).Buffer())
        for i in range(model.MetadataLength())
        if model.Metadata(i).Name() == b"TFLITE_METADATA"
    )
    data = buffer.DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    root = Table.root(data)
    assert root.text(7) == "1.0.0"
    (graph,) = root.all(3)
    return graph


@pytest.mark.parametrize(
    "precision", ["float32", "float16", "dynamic_int8", "int8"]
)
def test_metadata_say_what_an_image_classifier_needs(precision, tmp_path):
    model = network(input_shape=(32, 32, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    path = tmp_path / "a.tflite"
    names = ["cat", "dög", "two words"]
    to_tflite(model, path, precision, pixels, labels=names)
    graph = metadata(path)
    ((images,), (output,)) = graph.all(2), graph.all(3)
    assert (images.text(0), output.text(0)) == ("images", "output")
    # An image (2) of RGB (1).
    assert images.one(3).number(0) == 2
    assert images.one(3).one(1).number(0) == 1
    (unit,) = images.all(4)
    assert unit.number(0) == 1  # Normalization, which changes nothing.
    assert (unit.one(1).floats(0), unit.one(1).floats(1)) == ([0.0], [1.0])
    assert (images.one(5).floats(0), images.one(5).floats(1)) == ([255], [0])
    (labels,) = output.all(6)
    assert (labels.text(0), labels.number(2)) == ("labels.txt", 2)
    assert (output.one(5).floats(0), output.one(5).floats(1)) == ([1], [0])
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("labels.txt").compress_type == 0
        assert archive.read("labels.txt").decode().splitlines() == names


def test_metadata_claim_no_more_than_holds(tmp_path):
    path = tmp_path / "a.tflite"
    gray = network(input_shape=(32, 32, 1), classifier_activation=None)
    to_tflite(gray, path)
    images, output = metadata(path).all(2)[0], metadata(path).all(3)[0]
    assert images.one(3).one(1).number(0) == 2 and output.one(5) == 0
    five = network(input_shape=(32, 32, 5), include_top=False)
    to_tflite(five, path, overwrite=True)
    images, output = metadata(path).all(2)[0], metadata(path).all(3)[0]
    assert images.one(3) == 0 and not output.all(6)
    one = network(
        classes=1, classifier_activation="sigmoid", input_shape=(32, 32, 3)
    )
    to_tflite(one, path, overwrite=True)
    (output,) = metadata(path).all(3)
    assert not output.all(6) and output.one(5).floats(0) == [1]
    features = keras_nfnet.features(network(input_shape=(32, 32, 3)))
    to_tflite(features, path, overwrite=True)
    names = [output.text(0) for output in metadata(path).all(3)]
    assert names == sorted(features.output)


def test_a_file_of_any_size_is_for_no_image_classifier(tmp_path):
    # MediaPipe 1.2.3 brings images to one pixel and classifies that.
    to_tflite(network(), tmp_path / "a.tflite")
    (images,) = metadata(tmp_path / "a.tflite").all(2)
    assert not images.all(4)


def test_input_and_outputs_are_named_in_the_signature(tmp_path):
    model = network(input_shape=(32, 32, 3))
    to_tflite(model, tmp_path / "a.tflite")
    interpreter = Interpreter(str(tmp_path / "a.tflite"))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["output"]}
    }
    (images,), (output,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert (images["name"], output["name"]) == ("images", "output")
    serve = interpreter.get_signature_runner()
    assert serve(images=np.zeros((1, 32, 32, 3), "float32"))["output"].shape


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("size", [64, (48, 80)])
def test_a_size_fixes_the_input(precision, size, tmp_path):
    model = network()
    sides = (size, size) if isinstance(size, int) else size
    pixels = np.random.default_rng(0).uniform(0, 255, (4, *sides, 3))
    path = tmp_path / "a.tflite"
    report = to_tflite(model, path, precision, pixels, size=size)
    assert report.input_size == sides
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (images,) = interpreter.get_input_details()
    assert images["shape"].tolist() == [1, *sides, 3]
    assert images["shape_signature"].tolist() == [-1, *sides, 3]
    interpreter.set_tensor(images["index"], np.float32(pixels[:1]))
    interpreter.invoke()
    # The batch is still open.
    got = tflite.runner(path)(pixels)
    wanted = model(keras_nfnet.preprocess_input(np.float32(pixels)))
    np.testing.assert_allclose(
        got, wanted, atol=1e-5 if "f" in precision else 0.05
    )


def test_a_size_that_is_not_given_stays_open(tmp_path):
    to_tflite(network(), tmp_path / "a.tflite")
    (images,) = Interpreter(str(tmp_path / "a.tflite")).get_input_details()
    assert images["shape_signature"].tolist() == [-1, -1, -1, 3]
    with pytest.raises(ValueError, match="`size`.*fixed at"):
        to_tflite(network(input_shape=(32, 32, 3)), tmp_path / "b", size=64)


def test_a_conversion_leaves_loggers_and_warnings_as_they_were(tmp_path):
    logger = logging.getLogger("absl")

    def state():
        return (
            *(logger.level, list(logger.filters), list(logger.handlers)),
            *(logging.root.level, list(logging.root.handlers)),
            list(warnings.filters),
        )

    before = state()
    for name in ("a", "b"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            to_tflite(network(input_shape=(32, 32, 3)), tmp_path / name)
    assert state() == before


def operations(path):
    """Each operation in a file: `MUL`, or with its activation `MUL+RELU`."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)

    def name(kind, number):
        (found,) = (x for x, y in vars(kind).items() if y == number)
        return found

    found = []
    for operation in model.subgraphs[0].operators:
        code = model.operatorCodes[operation.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        joined = getattr(operation.builtinOptions, "fusedActivationFunction", 0)
        kind = name(schema.BuiltinOperator, number)
        if joined:
            kind += "+" + name(schema.ActivationFunctionType, joined)
        found.append(kind)
    return found


def pixels_of(*sides):
    return np.random.default_rng(0).uniform(0, 255, (4, *sides, 3))


# What LiteRT's CPU delegate does not take in 8 bits, and LiteRT's own kernels
# compute slowly.
SLOW = {"RELU", "RELU6", "MIRROR_PAD"}
RECTIFIED = [form for form in FORMS if FORMS[form].get("activation") == "relu"]


@pytest.mark.parametrize(
    ("form", "activation"),
    [*((form, "relu") for form in RECTIFIED), ("timm NF-ResNet", "relu6")],
)
def test_no_relu_of_8_bits_is_an_operation_of_its_own(
    form, activation, tmp_path
):
    model = small(form, activation=activation, input_shape=(64, 64, 3))
    path = tmp_path / "a.tflite"
    to_tflite(model, path, "int8", pixels_of(64, 64))
    found, kind = operations(path), activation.upper()
    assert not SLOW.intersection(found)
    # One block adds to the sum that it activates. The two other sums are
    # activated alone, and stay one operation with it.
    assert found.count(f"MUL+{kind}") == 1
    assert found.count(f"ADD+{kind}") == 2


def test_a_sum_that_is_an_output_is_not_activated_alone(tmp_path):
    features = keras_nfnet.features(
        small("timm NF-ResNet", input_shape=(64, 64, 3))
    )
    path = tmp_path / "a.tflite"
    to_tflite(features, path, "int8", pixels_of(64, 64))
    found = operations(path)
    assert not SLOW.intersection(found) and found.count("MUL+RELU") == 2


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic_int8"])
def test_a_relu_of_floats_is_multiplied_by_nothing(precision, tmp_path):
    model = small("timm NF-ResNet", input_shape=(64, 64, 3))
    path = tmp_path / "a.tflite"
    to_tflite(model, path, precision)
    found = operations(path)
    assert found.count("RELU") == 1 and found.count("ADD+RELU") == 2
    assert "MUL+RELU" not in found and "MIRROR_PAD" not in found


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_maxima_at_the_edges_are_the_models(precision, tmp_path):
    model = small("timm NF-ResNet")
    path = tmp_path / "a.tflite"
    to_tflite(model, path, precision, pixels_of(64, 64))
    for sides in ((64, 64), (33, 47), (50, 31)):
        pixels = pixels_of(*sides)
        wanted = model(keras_nfnet.preprocess_input(np.float32(pixels)))
        np.testing.assert_allclose(
            tflite.runner(path)(pixels),
            wanted,
            atol=1e-5 if precision == "float32" else 0.1,
        )
