"""Serves a SavedModel as TensorFlow Serving does, for trials and tests.

    python export/serving/local_server.py serving/nfnet/1

It speaks the same gRPC (`PredictionService.Predict`) and REST (`:predict`)
over the exported signatures, so that clients and exports can be tried
without the server's binary. It is not for production: no batching, no
versions, no monitoring.
"""

import argparse
import base64
import contextlib
import http.server
import json
import sys
import threading
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

LARGEST_MESSAGE = 64 * 1024 * 1024


class Signatures:
    """The signatures of a SavedModel, with the server's errors.

    Args:
        directory: Of the SavedModel.
        model: Name that clients ask for.
    """

    def __init__(self, directory, model="nfnet"):
        self.model = model
        self.loaded = tf.saved_model.load(str(directory))

    def run(self, model, name, inputs):
        """Returns the outputs of a signature by name.

        Raises:
            tf.errors.OpError: `NotFoundError` for another model,
                `InvalidArgumentError` for what the signature refuses.
        """
        if model != self.model:
            raise tf.errors.NotFoundError(None, None, f"no model {model!r}")
        name = name or "serving_default"
        if name not in self.loaded.signatures:
            raise _invalid(f"no signature {name!r}")
        signature = self.loaded.signatures[name]
        specs = signature.structured_input_signature[1]
        if set(inputs) != set(specs):
            raise _invalid(f"inputs must be {sorted(specs)}")
        try:
            values = {
                key: tf.convert_to_tensor(inputs[key], spec.dtype)
                for key, spec in specs.items()
            }
        except (TypeError, ValueError) as error:
            raise _invalid(str(error)) from error
        for key, spec in specs.items():
            if not spec.shape.is_compatible_with(values[key].shape):
                raise _invalid(f"{key!r} must have the shape {spec.shape}")
        return signature(**values)


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """gRPC over `Signatures`."""

    def __init__(self, signatures):
        self.signatures = signatures

    def Predict(self, request, context):
        spec = request.model_spec
        try:
            inputs = {
                name: _array(proto) for name, proto in request.inputs.items()
            }
            outputs = self.signatures.run(
                spec.name, spec.signature_name, inputs
            )
        except tf.errors.NotFoundError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, error.message)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        answer = predict_pb2.PredictResponse(model_spec=spec)
        for name, value in outputs.items():
            if not request.output_filter or name in request.output_filter:
                answer.outputs[name].CopyFrom(
                    tf.make_tensor_proto(value.numpy())
                )
        return answer


def serve(directory, port=0, rest_port=0, workers=8, model="nfnet"):
    """Starts both servers on this machine alone.

    Args:
        directory: Of the SavedModel.
        port: Of gRPC; 0 for any that is free.
        rest_port: Of REST; likewise.
        workers: gRPC requests at a time.
        model: Name that clients ask for.

    Returns:
        `(stop, port, rest_port)`: a function that ends both, and the ports.

    Raises:
        OSError: If the directory is no SavedModel, or REST's port is taken.
        RuntimeError: If the port of gRPC is taken.
    """
    signatures = Signatures(directory, model)
    server = grpc.server(
        futures.ThreadPoolExecutor(workers),
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            # A port that another server has is refused, not shared with it.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Servicer(signatures), server
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    rest = http.server.ThreadingHTTPServer(
        ("127.0.0.1", rest_port), _handler(signatures)
    )
    server.start()
    threading.Thread(target=rest.serve_forever, daemon=True).start()

    def stop():
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()

    return stop, port, rest.server_port


def _handler(signatures):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            start, end = "/v1/models/", ":predict"
            if not (self.path.startswith(start) and self.path.endswith(end)):
                return self.answer(404, {"error": f"no {self.path}"})
            model = self.path[len(start) : -len(end)]
            try:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length))
                outputs = signatures.run(
                    model, body.get("signature_name"), _columns(body)
                )
            except tf.errors.NotFoundError as error:
                return self.answer(404, {"error": error.message})
            except tf.errors.InvalidArgumentError as error:
                return self.answer(400, {"error": error.message})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return self.answer(400, {"error": repr(error)})
            return self.answer(200, {"predictions": _rows(outputs)})

        def answer(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            """Says nothing of each request."""

    return Handler


def _array(proto):
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise _invalid(str(error)) from error


def _columns(body):
    """Inputs by name of REST's rows, base64 decoded."""
    rows = body["instances"]
    return {
        name: [
            base64.b64decode(row[name]["b64"])
            if isinstance(row[name], dict)
            else row[name]
            for row in rows
        ]
        for name in rows[0]
    }


def _rows(outputs):
    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.decode() if isinstance(value, bytes) else value

    columns = {k: plain(v.numpy().tolist()) for k, v in outputs.items()}
    count = len(next(iter(columns.values())))
    return [{k: v[i] for k, v in columns.items()} for i in range(count)]


def _invalid(message):
    return tf.errors.InvalidArgumentError(None, None, message)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", help="a SavedModel, such as serving/nfnet/1"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8500,
        help="of gRPC; 0 for any that is free (default: 8500)",
    )
    parser.add_argument(
        "--rest-port",
        type=int,
        default=8501,
        help="of REST; likewise (default: 8501)",
    )
    parser.add_argument(
        "--with-parent",
        action="store_true",
        help="end when standard input closes, as it does when the program "
        "that holds its other end is gone",
    )
    options = parser.parse_args(arguments)
    try:
        stop, port, rest_port = serve(
            options.directory, options.port, options.rest_port
        )
    except (OSError, RuntimeError) as error:
        print(f"local_server.py: error: {error}", file=sys.stderr)
        return 2
    # At once, for a program that waits for it at the end of a pipe.
    print(
        f"gRPC on 127.0.0.1:{port}, REST on 127.0.0.1:{rest_port}", flush=True
    )
    with contextlib.suppress(KeyboardInterrupt):
        if options.with_parent:
            sys.stdin.read()
        else:
            threading.Event().wait()
    stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
