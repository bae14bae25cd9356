"""gRPC and REST over the exported signatures, with the stock client stubs."""

import importlib.util
import io
import pathlib
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from test_fold import network

import keras_nfnet

pytestmark = pytest.mark.tensorflow

SERVING = pathlib.Path(__file__).parents[1] / "export" / "serving"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SERVING / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(side, kind="JPEG"):
    file = io.BytesIO()
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    photo.resize((side, side + 9)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "1"
    model = network(classes=7, input_shape=(32, 32, 3))
    keras_nfnet.export.to_saved_model(
        model, directory, labels=["a", "b", "c", "d", "é", "f", "g"]
    )
    return directory


@pytest.fixture(scope="module")
def server(saved_model):
    stop, port, rest = script("local_server").serve(saved_model)
    yield f"127.0.0.1:{port}", f"127.0.0.1:{rest}"
    stop()


def test_both_protocols_give_the_top_5_of_pictures(server, tmp_path, capsys):
    client = script("client")
    pictures = [encoded(40), encoded(90, "PNG")]
    answers = client.classify_grpc(pictures, server[0])
    assert [len(answer) for answer in answers] == [5, 5]
    for answer in answers:
        scores = [score for _, score in answer]
        assert scores == sorted(scores, reverse=True) and sum(scores) < 1
        assert {label for label, _ in answer} <= set("abcdéfg")
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


@pytest.mark.parametrize(
    "junk", [b"", b"junk", encoded(40)[:60]], ids=["empty", "text", "cut"]
)
def test_a_broken_picture_is_invalid_and_the_server_goes_on(server, junk):
    client = script("client")
    good = encoded(40)
    with pytest.raises(client.RequestError, match="INVALID_ARGUMENT"):
        client.classify_grpc([good, junk], server[0])
    with pytest.raises(client.RequestError, match="400"):
        client.classify_rest([good, junk], server[1])
    assert client.classify_grpc([good], server[0])


def test_a_wrong_request_is_refused(server):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    with grpc.insecure_channel(server[0]) as channel:
        predict = PredictionServiceStub(channel).Predict
        for model, signature, name, value, code in (
            ("other", "", "images", np.zeros((1, 32, 32, 3)), "NOT_FOUND"),
            ("nfnet", "no", "images", np.zeros((1, 32, 32, 3)), "INVALID"),
            ("nfnet", "", "pictures", np.zeros((1, 32, 32, 3)), "INVALID"),
            ("nfnet", "", "images", np.zeros((1, 31, 32, 3)), "INVALID"),
            ("nfnet", "serve_bytes", "image_bytes", 3.0, "INVALID"),
        ):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(
                tf.make_tensor_proto(np.asarray(value, "float32"))
            )
            with pytest.raises(grpc.RpcError) as caught:
                predict(request, timeout=30)
            assert caught.value.code().name.startswith(code)


def test_eight_clients_with_junk_among_their_requests(server):
    # The small form of benchmarks/export_serving.py.
    client = script("client")
    good, wrong = encoded(40), []
    expected = client.classify_grpc([good], server[0])

    def ask(worker):
        for index in range(12):
            is_junk = index == worker
            try:
                answer = client.classify_grpc(
                    [b"junk" if is_junk else good], server[0]
                )
                if is_junk or answer != expected:
                    wrong.append(answer)
            except client.RequestError as error:
                if not is_junk or "INVALID_ARGUMENT" not in str(error):
                    wrong.append(error)

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_server_says_its_port_and_ends_with_its_parent(saved_model):
    command = [sys.executable, str(SERVING / "local_server.py")]
    command += [str(saved_model), "--port", "0", "--rest-port", "0"]
    process = subprocess.Popen(
        [*command, "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = line.split()[2].rstrip(",")
        assert script("client").classify_grpc([encoded(40)], address)
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("taken", ["--port", "--rest-port"])
def test_a_port_that_is_taken_is_one_line(server, saved_model, taken, capsys):
    # Of the server that the other tests ask.
    ports = dict(zip(("--port", "--rest-port"), server, strict=True))
    arguments = [str(saved_model), "--port", "0", "--rest-port", "0"]
    arguments += [taken, ports[taken].split(":")[1]]
    assert script("local_server").main(arguments) == 2
    assert capsys.readouterr().err.startswith("local_server.py: error: ")


def test_a_folder_without_a_saved_model_is_one_line(tmp_path, capsys):
    assert script("local_server").main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("local_server.py: error: ")
    assert error.count("\n") == 1


def test_the_model_configuration_parses_as_the_servers_own():
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    parsed = text_format.Parse(
        (SERVING / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = parsed.model_config_list.config
    assert model.name == script("client").MODEL == "nfnet"
    compose = (SERVING / "docker-compose.yml").read_text()
    assert f":{model.base_path}:ro" in compose
    for name in ("models", "batching", "monitoring"):
        assert f"/config/{name}.config" in compose
        assert (SERVING / f"{name}.config").exists()
