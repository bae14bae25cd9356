"""gRPC and REST over the exported signatures, with the stock clients.

The server is a stand-in, `model_server.py`.
"""

import base64
import importlib.util
import io
import pathlib
import shutil

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image
from test_fold import network

import keras_nfnet

pytestmark = pytest.mark.tensorflow

SERVING = pathlib.Path(__file__).parents[1] / "export" / "serving"
LABELS = ["a", "b", "c", "d", "é", "f", "g"]
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))


@pytest.fixture(scope="module")
def client():
    spec = importlib.util.spec_from_file_location(
        "client", SERVING / "client.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(side, kind="JPEG"):
    file = io.BytesIO()
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    photo.resize((side, side + 9)).save(file, kind)
    return file.getvalue()


def base64_of(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def model():
    return network(classes=7, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def versions(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    keras_nfnet.export.to_saved_model(model, folder / "1", labels=LABELS)
    return folder


@pytest.fixture(scope="module")
def server(versions):
    from model_server import Model, serving

    with serving(Model(versions)) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def expected(model):
    images = keras_nfnet.preprocess_input(PIXELS.astype("float32"))
    return np.asarray(model(images, training=False))


def post(server, body, path="/v1/models/nfnet:predict"):
    answer = requests.post(f"http://{server[1]}{path}", json=body, timeout=30)
    return answer.status_code, answer.json()


def predict(address, inputs, model="nfnet", signature="", outputs=()):
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.output_filter.extend(outputs)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address) as channel:
        return PredictionServiceStub(channel).Predict(request, timeout=30)


def test_both_protocols_give_the_top_5_of_pictures(
    client, server, tmp_path, capsys
):
    pictures = [encoded(40), encoded(90, "PNG")]
    answers = client.classify_grpc(pictures, server[0])
    assert [len(answer) for answer in answers] == [5, 5]
    for answer in answers:
        scores = [score for _, score in answer]
        assert scores == sorted(scores, reverse=True) and sum(scores) < 1
        assert {label for label, _ in answer} <= set(LABELS)
    rest = client.classify_rest(pictures, server[1])
    for one, other in zip(answers, rest, strict=True):
        assert [x[0] for x in one] == [x[0] for x in other]
        np.testing.assert_allclose(
            [x[1] for x in one], [x[1] for x in other], rtol=1e-5
        )
    file = tmp_path / "flower.jpg"
    file.write_bytes(pictures[0])
    port = server[1].split(":")[1]
    assert client.main([str(file), "--rest", "--port", port]) == 0
    assert f"%  {rest[0][0][0]}" in capsys.readouterr().out
    assert client.main([str(tmp_path), "--rest", "--port", port]) == 2


def test_pixels_over_grpc_give_what_the_model_gives(server, expected):
    answer = predict(server[0], {"images": PIXELS.astype("float32")})
    assert answer.model_spec.version.value == 1
    assert list(answer.outputs) == ["probabilities"]
    got = tf.make_ndarray(answer.outputs["probabilities"])
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    "key, value, answer",
    [
        ("instances", PIXELS.tolist(), "predictions"),
        ("instances", [{"images": x.tolist()} for x in PIXELS], "predictions"),
        ("inputs", PIXELS.tolist(), "outputs"),
        ("inputs", {"images": PIXELS.tolist()}, "outputs"),
    ],
    ids=["rows", "named rows", "column", "named column"],
)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_pixels_over_rest_in_every_format(
    server, expected, key, value, answer, version
):
    path = f"/v1/models/nfnet{version}:predict"
    status, content = post(server, {key: value}, path)
    assert status == 200 and list(content) == [answer]
    np.testing.assert_allclose(content[answer], expected, atol=1e-5)


def test_encoded_pictures_over_rest_in_every_format(client, server):
    pictures = [encoded(40), encoded(90, "PNG")]
    first = client.classify_rest(pictures, server[1])[0][0]
    shorthand = [base64_of(picture) for picture in pictures]
    named = [{"image_bytes": picture} for picture in shorthand]
    for key, value in (
        ("instances", shorthand),
        ("instances", named),
        ("inputs", shorthand),
        ("inputs", {"image_bytes": shorthand}),
    ):
        status, content = post(
            server, {"signature_name": "serve_bytes", key: value}
        )
        assert status == 200
        if key == "instances":
            classes = [row["classes"] for row in content["predictions"]]
        else:
            classes = content["outputs"]["classes"]
        assert classes[0][0] == first[0]
        assert np.shape(classes) == (2, 5)


def test_status_and_metadata(server):
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
    )
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    url = f"http://{server[1]}/v1/models/nfnet"
    (version,) = requests.get(url, timeout=30).json()["model_version_status"]
    assert version == {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    metadata = requests.get(f"{url}/metadata", timeout=30).json()
    assert metadata["model_spec"]["version"] == "1"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert list(signatures["serve_bytes"]["inputs"]) == ["image_bytes"]
    assert set(signatures["serve_bytes"]["outputs"]) == {
        "probabilities",
        "classes",
        "scores",
    }
    with grpc.insecure_channel(server[0]) as channel:
        asked = get_model_metadata_pb2.GetModelMetadataRequest()
        asked.model_spec.name = "nfnet"
        asked.metadata_field.append("signature_def")
        answer = PredictionServiceStub(channel).GetModelMetadata(
            asked, timeout=30
        )
        found = get_model_metadata_pb2.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(found)
        assert set(found.signature_def) == set(signatures)
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = "nfnet"
        answer = ModelServiceStub(channel).GetModelStatus(asked, timeout=30)
        assert answer.model_version_status[0].version == 1
    assert requests.get(f"{url}s", timeout=30).status_code == 404


@pytest.mark.parametrize(
    "junk", [b"", b"junk", encoded(40)[:60]], ids=["empty", "text", "cut"]
)
def test_a_broken_picture_is_invalid_and_the_server_goes_on(
    client, server, junk
):
    good = encoded(40)
    with pytest.raises(client.RequestError, match="INVALID_ARGUMENT"):
        client.classify_grpc([good, junk], server[0])
    with pytest.raises(client.RequestError, match="400"):
        client.classify_rest([good, junk], server[1])
    assert client.classify_grpc([good], server[0])


IMAGE = np.zeros((1, 32, 32, 3), "float32")


@pytest.mark.parametrize(
    "code, request_of",
    [
        ("NOT_FOUND", {"model": "other"}),
        ("FAILED_PRECONDITION", {"signature": "no"}),
        ("INVALID_ARGUMENT", {"inputs": {"pictures": IMAGE}}),
        ("INVALID_ARGUMENT", {"inputs": {}}),
        ("INVALID_ARGUMENT", {"inputs": {"images": IMAGE[:, 1:]}}),
        ("INVALID_ARGUMENT", {"inputs": {"images": IMAGE[0]}}),
        ("INVALID_ARGUMENT", {"inputs": {"images": IMAGE.astype("uint8")}}),
        ("INVALID_ARGUMENT", {"inputs": {"images": [b"a"]}}),
        ("INVALID_ARGUMENT", {"outputs": ["classes"]}),
        (
            "INVALID_ARGUMENT",
            {"signature": "serve_bytes", "inputs": {"image_bytes": [3.0]}},
        ),
        (
            "INVALID_ARGUMENT",
            {"signature": "serve_bytes", "inputs": {"image_bytes": b"a"}},
        ),
    ],
)
def test_a_wrong_request_over_grpc_is_refused(server, code, request_of):
    with pytest.raises(grpc.RpcError) as caught:
        predict(server[0], **{"inputs": {"images": IMAGE}, **request_of})
    assert caught.value.code().name == code
    assert caught.value.details()


@pytest.mark.parametrize(
    "body, words",
    [
        ([], "not object"),
        ({}, "Missing 'inputs' or 'instances'"),
        ({"instances": []}, "No values in 'instances'"),
        ({"instances": {}}, "to be a list"),
        ({"instances": [[1]], "inputs": [[1]]}, "only one of"),
        ({"instances": [{"pictures": [[[1]]]}]}, "keys must be equal to"),
        ({"instances": [[[[1]]]]}, "shape"),
        ({"instances": [[1]]}, "dimensions"),
        ({"instances": [[[["1"]]]]}, "not of expected type: float"),
        ({"instances": [[[[True]]]]}, "not of expected type: float"),
        ({"instances": [[[[None]]]]}, "not of expected type: float"),
        ({"instances": [[[[1e300]]]]}, "loss of precision"),
        ({"instances": [[[[1], [1, 2]]]]}, "unexpected size"),
        ({"inputs": {"pictures": [1]}}, "Missing named input: images"),
        ({"signature_name": 3, "instances": [1]}, "must be a string"),
        ({"signature_name": "no", "instances": [1]}, "not found"),
        (
            {"signature_name": "serve_bytes", "instances": [{"b64": "#"}]},
            "base64",
        ),
        (
            {"signature_name": "serve_bytes", "instances": [{"b64": 3}]},
            "keys must be equal to",
        ),
    ],
)
def test_a_wrong_request_over_rest_is_refused(server, body, words):
    status, content = post(server, body)
    assert status == 400
    assert list(content) == ["error"] and words in content["error"]


def test_a_newer_version_takes_the_place_of_the_last(versions, tmp_path):
    from model_server import Model, serving

    folder = tmp_path / "served"
    shutil.copytree(versions / "1", folder / "1")
    model = Model(folder)
    with serving(model) as (address, _):
        first = predict(address, {"images": IMAGE})
        shutil.copytree(versions / "1", folder / "12")
        model.poll()
        second = predict(address, {"images": IMAGE})
    assert first.model_spec.version.value == 1
    assert second.model_spec.version.value == 12
    np.testing.assert_allclose(
        *(tf.make_ndarray(x.outputs["probabilities"]) for x in (first, second)),
        rtol=1e-6,
    )


def test_the_model_configuration_parses_as_the_servers_own(client):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    parsed = text_format.Parse(
        (SERVING / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = parsed.model_config_list.config
    assert model.name == client.MODEL == "nfnet"
    compose = (SERVING / "docker-compose.yml").read_text()
    assert f":{model.base_path}:ro" in compose
    for name in ("models", "batching", "monitoring"):
        assert f"/config/{name}.config" in compose
        assert (SERVING / f"{name}.config").exists()
