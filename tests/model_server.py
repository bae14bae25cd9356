"""A stand-in for TensorFlow Serving's program, which the tests cannot fetch.

    python tests/model_server.py FOLDER

Serves the newest version of a SavedModel, `FOLDER/1`, `FOLDER/2`, …, as
`nfnet`. Clients reach it with the messages of `tensorflow-serving-api` over
gRPC, and over REST. A version runs in a session, as in TensorFlow Serving, and
requests are answered and refused as by its sources (`predict_util.cc`,
`json_tensor.cc`, `http_rest_api_util.cc`, version 2.19).

NOTE: Beyond them it refuses, so as not to run out of memory, tensors that
claim more values than they have, which TensorFlow Serving fills, and what is
larger than `LARGEST_MESSAGE`, `LARGEST_BODY` and `LARGEST_BATCH`. It has no
batching, labels of versions, Classify or Regress.
"""

import base64
import binascii
import contextlib
import http.server
import json
import math
import pathlib
import re
import sys
import threading
import urllib.parse
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

LARGEST_MESSAGE = 64 * 2**20
# Python's lists take 20 times the bytes of the shortest JSON.
LARGEST_BODY = 16 * 2**20
LARGEST_BATCH = 1024
SECONDS_TO_READ = 10
# gRPC's clients take headers of 8 KB.
_LONGEST_WORDS = 1000
_LARGEST_FLOAT = float(np.finfo("float32").max)
_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict")
_STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata)?")
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412}


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, message, code="INVALID_ARGUMENT"):
        super().__init__(message[:_LONGEST_WORDS])
        self.code = grpc.StatusCode[code]


class Version:
    """One version of a SavedModel in a session of its own."""

    def __init__(self, directory):
        self.number = int(directory.name)
        graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta = tf.compat.v1.saved_model.load(
                self.session, ["serve"], str(directory)
            )
        self.signatures = dict(meta.signature_def)
        self.functions = {}
        for name, signature in self.signatures.items():
            if signature.method_name:  # Not the initializer.
                self.functions[name] = self.session.make_callable(
                    {key: info.name for key, info in signature.outputs.items()},
                    [info.name for info in signature.inputs.values()],
                )

    def signature(self, name, code="FAILED_PRECONDITION"):
        if name not in self.functions:
            raise Refused(f'Serving signature key "{name}" not found.', code)
        return self.signatures[name]

    def run(self, name, inputs):
        """The outputs of a signature, `{name: array}`."""
        try:
            return self.functions[name](*inputs)
        except tf.errors.OpError as error:
            code = _CODES[error.error_code].name
            raise Refused(error.message, code) from error
        except ValueError as error:  # The shape is not the signature's.
            raise Refused(str(error)) from error


class Model:
    """The newest version in a folder of versions.

    Args:
        folder: Of the versions.
        name: That clients ask for.
    """

    def __init__(self, folder, name="nfnet"):
        self.folder, self.name, self.newest = pathlib.Path(folder), name, None
        self.poll()

    def poll(self):
        """Takes a newer version, if there is one, in the place of the last.

        Requests that are being answered keep theirs.
        """
        numbers = [
            int(path.parent.name)
            for path in self.folder.glob("*/saved_model.pb")
            if path.parent.name.isdecimal()
        ]
        if numbers and (not self.newest or max(numbers) != self.newest.number):
            self.newest = Version(self.folder / str(max(numbers)))

    def version(self, spec):
        """The version that a `ModelSpec` names."""
        newest, number = self.newest, None
        if spec.HasField("version"):
            number = spec.version.value
        if (
            newest is None
            or spec.name != self.name
            or number not in (None, newest.number)
        ):
            wanted = (
                f"Latest({spec.name})"
                if number is None
                else f"Specific({spec.name}, {number})"
            )
            raise Refused(
                f"Servable not found for request: {wanted}", "NOT_FOUND"
            )
        return newest

    def predict(self, request):
        """Answers a `PredictRequest`."""
        version = self.version(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        signature = version.signature(name)
        expected, sent = set(signature.inputs), set(request.inputs)
        if expected != sent:
            raise Refused(
                f"input size does not match signature: sent {sorted(sent)}, "
                f"required {sorted(expected)}"
            )
        asked = list(request.output_filter) or list(signature.outputs)
        for output in asked:
            if output not in signature.outputs:
                raise Refused(
                    f"output tensor alias not found in signature: {output} "
                    "Outputs expected to be in the set "
                    f"{sorted(signature.outputs)}."
                )
        if len(set(asked)) < len(asked):
            raise Refused(f"duplicate output tensor alias: {asked}")
        outputs = version.run(
            name,
            [
                _array(key, request.inputs[key], info.dtype)
                for key, info in signature.inputs.items()
            ],
        )
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name = self.name
        answer.model_spec.signature_name = name
        answer.model_spec.version.value = version.number
        for key in asked:
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return answer

    def status(self, request):
        """Answers a `GetModelStatusRequest`."""
        version = self.version(request.model_spec)
        answer = get_model_status_pb2.GetModelStatusResponse()
        one = answer.model_version_status.add(version=version.number)
        one.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        one.status.error_message = ""
        return answer

    def metadata(self, request):
        """Answers a `GetModelMetadataRequest`."""
        if list(request.metadata_field) != ["signature_def"]:
            raise Refused(
                "metadata_field must be ['signature_def']: "
                f"{list(request.metadata_field)}"
            )
        version = self.version(request.model_spec)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name = self.name
        answer.model_spec.version.value = version.number
        answer.metadata["signature_def"].Pack(_signature_map(version))
        return answer


def _signature_map(version):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in version.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    return signatures


def _array(name, proto, dtype):
    """The array of a `TensorProto`; nothing is allocated for a mere claim."""
    if proto.dtype != dtype:
        raise Refused(
            f"Expects {name} to be {_kind(dtype)} but "
            f"{_kind(proto.dtype)} is provided"
        )
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
        raise Refused(f"tensor parsing error: {name}")
    if sizes and sizes[0] > LARGEST_BATCH:
        raise Refused(f"a batch of more than {LARGEST_BATCH}: {name}")
    item = max(1, tf.dtypes.as_dtype(dtype).size)
    values = len(proto.tensor_content) // item or sum(
        len(getattr(proto, field.name))
        for field in proto.DESCRIPTOR.fields
        if field.name.endswith("_val")
    )
    if values != math.prod(sizes):
        raise Refused(
            f"tensor parsing error: {name} of the shape {sizes} has {values} "
            "values"
        )
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise Refused(f"tensor parsing error: {name}") from error


def _kind(dtype):
    try:
        return tf.dtypes.as_dtype(dtype).name
    except TypeError:
        return f"type {dtype}"


class _Service(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        return self.answered(self.model.predict, request, context)

    def GetModelMetadata(self, request, context):
        return self.answered(self.model.metadata, request, context)

    def GetModelStatus(self, request, context):
        return self.answered(self.model.status, request, context)

    def answered(self, answer, request, context):
        try:
            return answer(request)
        except Refused as error:
            context.abort(error.code, str(error))


def _request(message, name, version):
    message.model_spec.name = urllib.parse.unquote(name)
    if version:
        if len(version) > 18:
            raise Refused(f"Failed to convert version: {version} to numeric.")
        message.model_spec.version.value = int(version)
    return message


def rest_predict(model, name, version, body):
    """Answers the body of a `:predict`, in the format that it has."""
    request = _request(predict_pb2.PredictRequest(), name, version)
    document = _json(body)
    if not isinstance(document, dict):
        raise Refused("JSON Value: Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise Refused("'signature_name' key must be a string value.")
    request.model_spec.signature_name = _text(signature_name).decode()
    infos = (
        model.version(request.model_spec)
        .signature(signature_name or "serving_default", "INVALID_ARGUMENT")
        .inputs
    )
    if {"instances", "inputs"} <= document.keys():
        raise Refused("expecting only one of 'inputs' or 'instances'")
    if "instances" in document:
        columns = _columns(document["instances"], infos)
    elif "inputs" in document:
        columns = _named(document["inputs"], infos)
    else:
        raise Refused("Missing 'inputs' or 'instances' key")
    for key, column in columns.items():
        request.inputs[key].CopyFrom(_proto(key, column, infos[key]))
    outputs = {
        key: _plain(key, tf.make_ndarray(proto))
        for key, proto in model.predict(request).outputs.items()
    }
    one = next(iter(outputs.values())) if len(outputs) == 1 else None
    if "inputs" in document:
        return {"outputs": outputs if one is None else one}
    if one is not None:
        return {"predictions": one}
    return {
        "predictions": [
            dict(zip(outputs, row, strict=True))
            for row in zip(*outputs.values(), strict=True)
        ]
    }


def _json(body):
    try:
        return json.loads(body.decode("utf-8-sig"))
    except RecursionError as error:
        raise Refused("JSON Parse error: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Refused("JSON Parse error: not UTF-8") from error
    except ValueError as error:
        raise Refused(f"JSON Parse error: {error}") from error


def _is_base64(value):
    return (
        isinstance(value, dict)
        and list(value) == ["b64"]
        and isinstance(value["b64"], str)
    )


def _is_object(value):
    return isinstance(value, dict) and not _is_base64(value)


def _columns(rows, infos):
    """The inputs by name of a list of instances."""
    if not isinstance(rows, list):
        raise Refused("Expecting 'instances' to be a list/array")
    if not rows:
        raise Refused("No values in 'instances' array")
    if len({_is_object(row) for row in rows}) > 1:
        raise Refused("'instances' mixes objects and values/lists")
    if not _is_object(rows[0]):
        return _named(rows, infos)
    for index, row in enumerate(rows):
        if set(row) != set(infos):
            raise Refused(
                f"Failed to process element: {index} of 'instances' list. "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
    return {name: [row[name] for row in rows] for name in infos}


def _named(value, infos):
    """The inputs by name of a column; one alone needs no name."""
    if _is_object(value):
        for name in infos:
            if name not in value:
                raise Refused(
                    f"Missing named input: {name} in 'inputs' object."
                )
        return {name: value[name] for name in infos}
    if len(infos) > 1:
        raise Refused("expecting an object, as there are several inputs")
    return {next(iter(infos)): value}


def _proto(name, value, info):
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) != len(info.tensor_shape.dim):
        raise Refused(
            f"JSON Value of {name} has {len(shape)} dimensions, expected "
            f"{len(info.tensor_shape.dim)}"
        )
    dtype = tf.dtypes.as_dtype(info.dtype)
    convert = _bytes if dtype == tf.string else _number
    values = np.empty(math.prod(shape), dtype.as_numpy_dtype)
    for index, item in enumerate(_leaves(value, shape)):
        values[index] = convert(item)
    return tf.make_tensor_proto(values.reshape(shape), dtype, shape)


def _leaves(value, shape):
    if not shape:
        if isinstance(value, list):
            raise Refused("Encountered list at unexpected level")
        yield value
    elif not isinstance(value, list) or len(value) != shape[0]:
        raise Refused(f"Encountered list at unexpected size, not {shape[0]}")
    else:
        for item in value:
            yield from _leaves(item, shape[1:])


def _number(value):
    if type(value) not in (int, float):
        raise Refused("JSON Value is not of expected type: float")
    largest = 2**24 - 1 if type(value) is int else _LARGEST_FLOAT
    if abs(value) > largest and abs(value) != math.inf:
        raise Refused(
            "Cannot convert JSON value to float without loss of precision."
        )
    return value


def _bytes(value):
    if _is_base64(value):
        try:
            text = value["b64"].rstrip("=")
            return base64.b64decode(text + -len(text) % 4 * "=", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused("Unable to base64 decode") from error
    if not isinstance(value, str):
        raise Refused("JSON Value is not of expected type: string")
    return _text(value)


def _text(value):
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise Refused("JSON Parse error: a lone surrogate") from error


def _plain(name, array):
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        texts = [{"b64": base64.b64encode(x).decode()} for x in array.flat]
    else:
        texts = [x.decode() for x in array.flat]
    return np.array(texts, object).reshape(array.shape).tolist()


def rest_read(model, path):
    """Answers a GET: the status of the model, or its metadata."""
    match = _STATUS.fullmatch(path)
    if not match:
        raise Refused(f"Malformed request: GET {path}")
    name, version, metadata = match.groups()
    if metadata:
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        found = model.version(_request(request, name, version).model_spec)
        signatures = json_format.MessageToDict(
            _signature_map(found), preserving_proto_field_name=True
        )
        return {
            "model_spec": {"name": model.name, "version": str(found.number)},
            "metadata": {"signature_def": signatures},
        }
    request = get_model_status_pb2.GetModelStatusRequest()
    return json_format.MessageToDict(
        model.status(_request(request, name, version)),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _handler(model):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS_TO_READ

        def do_GET(self):
            self.respond(lambda: rest_read(model, self.path))

        def do_POST(self):
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch(r"\d{1,18}", length):
                return self.fail(411, "Content-Length must be a number")
            if int(length) > LARGEST_BODY:
                return self.fail(413, f"more than {LARGEST_BODY} bytes")
            match = _PREDICT.fullmatch(self.path)
            try:
                body = self.rfile.read(int(length))
            except TimeoutError:
                body = b""
            if len(body) < int(length):
                return self.fail(400, "the body is shorter than its length")
            if not match:
                return self.fail(400, f"Malformed request: POST {self.path}")
            self.respond(lambda: rest_predict(model, *match.groups(), body))

        def respond(self, answer):
            try:
                status, content = 200, answer()
            except Refused as error:
                status = _HTTP.get(error.code.name, 500)
                content = {"error": str(error)}
            self.send(status, content)

        def fail(self, status, message):
            # What is left of the request is not read.
            self.close_connection = True
            self.send(status, {"error": message})

        def send(self, status, content):
            content = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def send_error(self, code, message=None, explain=None):
            """What is no HTTP, or another method, is answered in JSON too."""
            self.request_version = self.protocol_version
            self.fail(code, message or http.HTTPStatus(code).phrase)

        def log_message(self, *arguments):
            """Says nothing of each request."""

    return Handler


@contextlib.contextmanager
def serving(model, workers=8):
    """Serves a `Model` on this machine alone.

    Yields:
        The addresses of gRPC and of REST.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(workers),
        options=[("grpc.max_receive_message_length", LARGEST_MESSAGE)],
    )
    service = _Service(model)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        service, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(model))
    server.start()
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{port}", f"127.0.0.1:{rest.server_port}"
    finally:
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()


def main():
    model = Model(sys.argv[1])
    ended = threading.Event()

    def wait_for_parent():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    with serving(model) as addresses:
        print(*addresses, flush=True)
        while not ended.wait(0.5):
            model.poll()


if __name__ == "__main__":
    main()
