"""The exported signatures behind a server: load, junk, attacks."""

import base64
import collections
import http.client
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import numpy as np

from faults.scorecard import Row

TITLE = "A served model"
PROMISE = (
    "Every valid request is answered with what the Keras model gives, while\n"
    "others are junk and while a version takes the place of the last. Every\n"
    "other request is refused in words, and the server goes on. None takes\n"
    "more than ten times its size plus 1 GiB.\n\n"
    "The signatures are those of `to_saved_model`, the messages those of\n"
    "`tensorflow-serving-api`. The server is a stand-in of the tests,\n"
    "`tests/model_server.py`, in a process of its own: TensorFlow Serving's\n"
    "program was not run. Times and memory are the stand-in's."
)
CLIENTS = 8
# Of the eight, those that ask over REST.
REST_CLIENTS = 2
MODEL = "nfnet"
SPARE_BYTES = 2**30
TIMES_ITS_SIZE = 10
FORMATS = ("JPEG", "PNG", "WEBP")
# Of a probability.
TOLERANCE = 1e-4
_OF_PYTHON = re.compile(r"\w(Error|Exception)\b|Traceback| object ")


def versions(folder, count):
    """Exports two versions, which are one if `count` is; returns the models."""
    import keras

    import keras_nfnet

    config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    models = {}
    keras.utils.set_random_seed(0)
    for number in range(1, count + 1):
        model = keras_nfnet.NFNet(
            config, weights=None, classes=10, input_shape=(32, 32, 3)
        )
        rng = np.random.default_rng(number)
        kernel = model.get_layer("predictions").kernel
        kernel.assign(rng.normal(0, 0.3, kernel.shape).astype("float32"))
        keras_nfnet.export.to_saved_model(model, folder / f"new{number}")
        models[number] = model
    if count == 1:
        models[2] = model
        shutil.copytree(folder / "new1", folder / "new2")
    return models


def pictures():
    """Encoded pictures, valid ones and junk."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    good = []
    for kind, side, photo in itertools.product(
        FORMATS, (24, 48, 90), load_sample_images().images
    ):
        file = io.BytesIO()
        image = Image.fromarray(photo)
        image.resize((side, side + 7)).save(file, kind)
        good.append(file.getvalue())
    junk = [b"", b"junk", np.random.default_rng(0).bytes(2000)]
    junk += [picture[: len(picture) // 3] for picture in good[:6]]
    return good, junk


def own_answers(models, good):
    """What each model gives for each picture, by version."""
    import keras_nfnet
    from keras_nfnet.data import decode_picture, evaluation_picture

    images = np.stack(
        [evaluation_picture(decode_picture(data), 32) for data in good]
    )
    images = keras_nfnet.preprocess_input(images.astype("float32"))
    return {
        number: np.asarray(model(images, training=False))
        for number, model in models.items()
    }


class Server:
    """The stand-in in a process of its own."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [
                sys.executable,
                pathlib.Path(__file__).parents[1] / "model_server.py",
                folder,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait(self, number):
        """Waits until a version is served."""
        self.grpc, self.rest = self.process.stdout.readline().split()
        url = f"/v1/models/{MODEL}/versions/{number}"
        request = f"GET {url} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        while rest_answer(self.rest, request)[0] != 200:
            time.sleep(0.1)

    def memory(self, field="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s*(\d+)", status)[1]) * 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self):
        self.process.kill()
        self.process.communicate()


def predict_request(inputs=(), signature="", model=MODEL):
    """A `PredictRequest`; inputs are arrays, lists or `TensorProto`s."""
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in dict(inputs).items():
        if not isinstance(value, TensorProto):
            value = tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(value)
    return request


def grpc_clients(address):
    """A function that sends one picture; the probabilities, or an error."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    stub = PredictionServiceStub(grpc.insecure_channel(address))

    def ask(picture):
        request = predict_request({"image_bytes": [picture]}, "serve_bytes")
        try:
            answer = stub.Predict(request, timeout=60)
        except grpc.RpcError as error:
            return None, error.code().name
        value = tf.make_ndarray(answer.outputs["probabilities"])[0]
        return value, answer.model_spec.version.value

    return ask


def rest_clients(address):
    """As `grpc_clients`, over REST, which does not say the version."""
    import requests

    session = requests.Session()
    url = f"http://{address}/v1/models/{MODEL}:predict"

    def ask(picture):
        encoded = base64.b64encode(picture).decode()
        body = {
            "signature_name": "serve_bytes",
            "instances": [{"b64": encoded}],
        }
        answer = session.post(url, json=body, timeout=60)
        if answer.status_code != 200:
            code = "INVALID_ARGUMENT" if answer.status_code == 400 else "other"
            return None, code
        return answer.json()["predictions"][0]["probabilities"], None

    return ask


def load(server, count, seconds, good, junk, own, swap):
    """Sends requests from all clients at once.

    Args:
        server: A `Server` of version 1.
        count: How many requests, at most.
        seconds: How long, at most.
        good: Valid pictures, as of `pictures`.
        junk: Others.
        own: As of `own_answers`.
        swap: A function that puts version 2 in the place of version 1. It is
            called when half of the requests, or of the time, is over.

    Returns:
        Counts, delays in seconds, memory in bytes after a tenth and at the
        end, and seconds.
    """
    counts, delays, memory = collections.Counter(), [], []
    numbers, lock = itertools.count(), threading.Lock()
    start, swapped = time.monotonic(), threading.Event()

    def judge(number, value, said):
        if number % 100 == 7:
            refused = value is None and said == "INVALID_ARGUMENT"
            return "junk refused" if refused else "junk answered otherwise"
        if value is None:
            return "failed"
        index = number % len(good)
        for version in [said] if said else own:
            difference = np.abs(own[version][index] - value).max()
            if difference <= TOLERANCE:
                return f"right by version {version}"
        return "wrong"

    def work(client):
        rest = client < REST_CLIENTS
        ask = rest_clients(server.rest) if rest else grpc_clients(server.grpc)
        while True:
            with lock:
                number = next(numbers)
                spent = time.monotonic() - start
                share = max(number / count, spent / seconds)
                if share >= 0.1 and not memory:
                    # What the first requests allocate for good is no growth.
                    memory.append(server.memory())
                if share >= 0.5 and not swapped.is_set():
                    swapped.set()
                    swap()
                # Until the swap is seen, however long it takes to load.
                seen = any("version 2" in outcome for outcome in counts)
            if share >= 1:
                if seen or spent >= 10 * seconds:
                    return
                time.sleep(0.05)  # For the server to load it.
            if number % 100 == 7:
                picture = junk[number // 100 % len(junk)]
            else:
                picture = good[number % len(good)]
            began = time.monotonic()
            try:
                value, said = ask(picture)
            except OSError:  # The connection, or the server, is gone.
                value, said = None, "no answer"
            with lock:
                delays.append(time.monotonic() - began)
                counts[judge(number, value, said)] += 1

    with futures.ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(work, range(CLIENTS)))
    memory.append(server.memory())
    return counts, delays, memory, time.monotonic() - start


def grpc_attacks(full):
    """`(name, method, message bytes)` that no client of the model sends."""
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    predict = "PredictionService/Predict"
    image = np.zeros((1, 32, 32, 3), "float32")

    def proto(dtype=1, dims=(), **values):
        made = TensorProto(dtype=dtype, **values)
        for size in dims:
            made.tensor_shape.dim.add(size=size)
        return made

    def images(value, **options):
        return predict_request({"images": value}, **options)

    def encoded(value):
        return predict_request({"image_bytes": value}, "serve_bytes")

    requests = {
        "nothing": predict_request(model=""),
        "no inputs": predict_request(),
        "another model": images(image, model="other"),
        "another signature": images(image, signature="other"),
        "the initializer": images(image, signature="__saved_model_init_op"),
        "another input": predict_request({"pictures": image}),
        "one input more": predict_request({"images": image, "more": image}),
        "a long name": predict_request({"a" * 2**20: image}),
        "texts as pixels": images([b"a"]),
        "pixels as texts": encoded(image),
        "no value": images(proto()),
        "one value of 10^8": images(proto(1, [10**8], float_val=[1])),
        "no value of 4 GB": images(proto(1, [2**30])),
        "one value of 10^8 pixels": images(
            proto(1, [1, 10**4, 10**4, 3], float_val=[1])
        ),
        "more values than any": images(proto(1, [2**62, 2**62])),
        "a negative size": images(proto(1, [-1, 32, 32, 3], float_val=[1])),
        "300 dimensions": images(proto(1, [1] * 300, float_val=[1])),
        "sizes of nothing": images(proto(1, [1, 0, 32, 3])),
        "bytes that are too few": images(
            proto(1, [1, 32, 32, 3], tensor_content=b"abc")
        ),
        "bytes that are too many": images(
            proto(1, [1, 1, 1, 3], tensor_content=b"a" * 16)
        ),
        "too many values": images(proto(1, [1, 1, 1, 3], float_val=[1] * 9)),
        "another size": images(image[:, :31]),
        "another rank": images(image[0]),
        "one channel": images(image[..., :1]),
        "one text": encoded(b"a"),
        "texts in rows": encoded([[b"a", b"b"]]),
        "one text of 10^8": encoded(proto(7, [10**8], string_val=[b"a"])),
        "texts that are missing": encoded(proto(7, [3], string_val=[b"a"])),
        "2,000 texts": encoded([b"a"] * 2000),
        "an empty text": encoded([b""]),
        "UTF-16": encoded(["no picture".encode("utf-16")]),
        "a text of 10 MB": encoded([bytes(10**7)]),
    }
    unknown = images(proto(1, [1, 32, 32, 3], float_val=[1]))
    unknown.inputs["images"].tensor_shape.unknown_rank = True
    requests["an unknown rank"] = unknown
    for version in (99, -1):
        requests[f"version {version}"] = asked = images(image)
        asked.model_spec.version.value = version
    for outputs in (["other"], ["probabilities"] * 2):
        requests[f"outputs {outputs}"] = asked = images(image)
        asked.output_filter.extend(outputs)
    for dtype in (0, 2, 3, 4, 8, 10, 14, 19, 20, 21, 101, 999):
        requests[f"data type {dtype}"] = images(proto(dtype, [1, 32, 32, 3]))
    for name, request in requests.items():
        yield name, predict, request.SerializeToString()
    if full:
        yield "a message of 65 MiB", predict, bytes(65 * 2**20)
        many = encoded([b""] * 2**20).SerializeToString()
        yield "a million empty texts", predict, many
    yield "no message", predict, b"\xff" * 100
    yield "half a message", predict, images(image).SerializeToString()[:5000]
    yield "Classify", "PredictionService/Classify", b""
    yield "metadata of no field", "PredictionService/GetModelMetadata", b""
    yield "the status of no model", "ModelService/GetModelStatus", b""
    yield "another method", "PredictionService/Other", b""


def post(body, path=f"/v1/models/{MODEL}:predict", length=None, method="POST"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    length = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


def rest_attacks(full):
    """`(name, bytes)` of requests that no client of the model sends."""
    bodies = {
        "an empty body": b"",
        "half a body": b'{"instances": [',
        "deep lists": b"[" * 10**5,
        "deep closed lists": b"[" * 10**5 + b"]" * 10**5,
        "deep objects": b'{"instances":' * 10**5,
        "deep instances": b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}",
        "UTF-16": '{"instances": []}'.encode("utf-16"),
        "UTF-32": '{"instances": []}'.encode("utf-32"),
        "no UTF-8": b'{"instances": ["\xff"]}',
        "a byte-order mark": b"\xef\xbb\xbf",
        "a zero byte": b'{"instances": [1]}\0',
        "no JSON": b"instances=1",
        "a long number": b'{"instances": [[[[' + b"9" * 5000 + b"]]]]}",
        "infinity": b'{"instances": [[[[1e999]]]]}',
        "a number that is none": b'{"instances": [[[[NaN]]]]}',
    }
    for value in (None, 3, "a", [], {}, True):
        bodies[f"a document of {value!r}"] = value
        bodies[f"instances of {value!r}"] = {"instances": value}
        bodies[f"inputs of {value!r}"] = {"inputs": value}
        bodies[f"an instance of {value!r}"] = {"instances": [value]}
        bodies[f"pixels of {value!r}"] = {"instances": [[[[value]]]]}
        bodies[f"named pixels of {value!r}"] = {"inputs": {"images": value}}
        bodies[f"encoded pictures of {value!r}"] = {
            "signature_name": "serve_bytes",
            "instances": [value],
        }
        bodies[f"base64 of {value!r}"] = {
            "signature_name": "serve_bytes",
            "instances": [{"b64": value}],
        }
        if value != "":
            bodies[f"a signature of {value!r}"] = {
                "signature_name": value,
                "instances": [1],
            }
    bodies |= {
        "instances and inputs": {"instances": [1], "inputs": [1]},
        "mixed instances": {"instances": [[1], {"images": [1]}]},
        "rows of different lengths": {"instances": [[[[1], [1, 2]]]]},
        "another size": {"instances": [[[[1, 2, 3]]]]},
        "a number beyond float32": {"instances": [[[[1e300]]]]},
        "another input": {"instances": [{"pictures": [[[1]]]}]},
        "one input more": {"instances": [{"images": [[[1]]], "more": 1}]},
        "a long name": {"instances": [{"a" * 10**6: 1}]},
        "a long signature": {"signature_name": "a" * 10**6},
        "a lone surrogate": {
            "signature_name": "serve_bytes",
            "instances": ["\ud800"],
        },
        "2,000 texts": {
            "signature_name": "serve_bytes",
            "instances": ["a"] * 2000,
        },
        "base64 and more": {
            "signature_name": "serve_bytes",
            "instances": [{"b64": "AAAA", "more": 1}],
        },
    }
    if full:
        bodies["13 MB of empty lists"] = (
            b'{"instances": [' + b"[]," * 2**22 + b"[]]}"
        )
        bodies["13 MB of numbers"] = b'{"instances": [[[[' + (
            b"0.5," * (2**22 - 2**18) + b"1]]]]}"
        )
    for name, body in bodies.items():
        yield name, post(body)
    valid = {"instances": np.zeros((1, 32, 32, 3)).tolist()}
    for path in (
        "/",
        "/v1",
        "/v1/models",
        "/v1/models/other:predict",
        f"/v1/models/{MODEL}",
        f"/v1/models/{MODEL}:classify",
        f"/v1/models/{MODEL}/versions/99:predict",
        f"/v1/models/{MODEL}/versions/{'9' * 30}:predict",
        f"/v1/models/{MODEL}/versions/-1:predict",
        f"/v1/models/{MODEL}%00:predict",
        "/v1/models/../../../etc/passwd:predict",
        "/v1/models/" + "a" * 2**16 + ":predict",
    ):
        yield f"the path {path[:40]}", post(valid, path)
    for method in (
        "GET",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "\1\2",
        "a" * 99,
    ):
        yield f"the method {method!r}", post(valid, method=method)
    for length in ("", "-1", "a", "1e3", "9" * 30, 10**12):
        yield f"a length of {length!r}", post(valid, length=length)
    yield (
        "no length",
        f"POST {'/v1/models/nfnet:predict'} HTTP/1.1\r\n\r\n".encode(),
    )
    yield "a body that ends early", post(valid, length=10**6)
    many = "".join(f"a{i}: b\r\n" for i in range(200))
    yield "200 headers", f"GET / HTTP/1.1\r\n{many}\r\n".encode()
    yield "a long header", b"GET / HTTP/1.1\r\na: " + b"b" * 10**5 + b"\r\n\r\n"
    yield "another version of HTTP", b"GET / HTTP/9.9\r\n\r\n"
    yield "no HTTP", b"\x16\x03\x01\x02\0\x01\0" + bytes(500) + b"\r\n\r\n"


def rest_answer(address, data):
    """The status and body of what a server answers to some bytes."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It was answered before it was read to its end.
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def rest_outcome(server, data):
    try:
        status, body = rest_answer(server.rest, data)
    except (OSError, http.client.HTTPException):
        return "no answer", ""
    if status == 200:
        return "answered", ""
    try:
        return "refused", json.loads(body)["error"]
    except (ValueError, KeyError):
        return "no words", body[:100]


def grpc_outcome(server, method, data):
    import grpc

    with grpc.insecure_channel(
        server.grpc, [("grpc.max_send_message_length", -1)]
    ) as channel:
        call = channel.unary_unary(f"/tensorflow.serving.{method}")
        try:
            call(data, timeout=60)
        except grpc.RpcError as error:
            if error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                return "no answer", ""
            return "refused", error.details()
    return "answered", ""


def attack(server, attacks, outcome, say):
    """Sends each attack; counts what came of it.

    Returns:
        Counts, and the largest seconds and bytes.
    """
    counts, seconds, most = collections.Counter(), 0, 0
    for name, *parts in attacks:
        server.forget_peak()
        before, start = server.memory(), time.monotonic()
        came, words = outcome(server, *parts)
        spent = time.monotonic() - start
        grown = server.memory("VmHWM") - before
        if came == "refused" and (not words or _OF_PYTHON.search(words)):
            came = "no words"
        if server.process.poll() is not None:
            came = "the server ended"
        elif grown > TIMES_ITS_SIZE * len(parts[-1]) + SPARE_BYTES:
            came = "too much memory"
        if came != "refused":
            say(f"{name}: {came}: {str(words)[:200]}")
        counts[came] += 1
        seconds, most = max(seconds, spent), max(most, grown)
        if server.process.poll() is not None:
            break
    return counts, seconds, most


def _worst_last(outcome):
    return not outcome[0].startswith("right"), outcome[0]


def rows(full, folder, say):
    """The rows of the scorecard."""
    served = folder / "served"
    served.mkdir()
    server = Server(served)  # Starts while the models are exported.
    try:
        models = versions(folder, 2 if full else 1)
        good, junk = pictures()
        own = own_answers(models, good)
        os.rename(folder / "new1", served / "1")
        server.wait(1)
        count, seconds = (50_000, 240) if full else (300, 5)
        counts, delays, memory, spent = load(
            server,
            count,
            seconds,
            good,
            junk,
            own,
            lambda: os.rename(folder / "new2", served / "2"),
        )
        growth = memory[1] / memory[0] - 1
        bad = counts.total() - sum(
            times
            for outcome, times in counts.items()
            if outcome.startswith("right") or outcome == "junk refused"
        )
        short = f"{bad} not as promised" if bad else ""
        if not any("version 2" in outcome for outcome in counts):
            short = short or "the version was not swapped"
        yield Row(
            f"requests of {CLIENTS} clients, {CLIENTS - REST_CLIENTS} over "
            f"gRPC and {REST_CLIENTS} over REST; 1% junk; version 1 swapped "
            "for 2 half-way",
            dict(sorted(counts.items(), key=_worst_last)),
            short,
            f"{counts.total() / spent:.0f} a second, median "
            f"{1e3 * np.median(delays):.0f} ms, 99th percentile "
            f"{1e3 * np.percentile(delays, 99):.0f} ms, memory {growth:+.1%}",
        )
        for name, attacks, outcome in (
            ("REST", rest_attacks, rest_outcome),
            ("gRPC", grpc_attacks, grpc_outcome),
        ):
            counts, seconds, most = attack(server, attacks(full), outcome, say)
            bad = counts.total() - counts["refused"]
            yield Row(
                f"attacks over {name}",
                dict(counts),
                f"{bad} not refused in words" if bad else "",
                f"at most {seconds:.1f} s, {most >> 20} MB",
            )
        ask, right = grpc_clients(server.grpc), 0
        for index, picture in enumerate(good):
            value, _ = ask(picture)
            if value is not None:
                difference = np.abs(own[2][index] - value).max()
                right += int(difference <= TOLERANCE)
        yield Row(
            "valid requests after the attacks",
            {"right": right, "wrong": len(good) - right},
            "" if right == len(good) else "wrong answers",
        )
    finally:
        server.stop()
