"""Classifies pictures on a server: JPEG in, top 5 out.

python export/serving/client.py cat.jpg dog.png
python export/serving/client.py cat.jpg --rest --port 8501
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request

MODEL = "nfnet"
SIGNATURE = "serve_bytes"
# Of all pictures of a request together.
LARGEST_MESSAGE = 64 * 1024 * 1024


class RequestError(Exception):
    """What the server answered instead of classes."""


def classify_grpc(pictures, address="127.0.0.1:8500", timeout=30):
    """Asks over gRPC.

    Args:
        pictures: Encoded pictures as bytes, of any size.
        address: Host and port.
        timeout: Seconds.

    Returns:
        A list per picture of `(label, probability)`, best first.

    Raises:
        RequestError: If the server refuses, or is not there.
    """
    import grpc
    from tensorflow import make_ndarray
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = SIGNATURE
    images = request.inputs["image_bytes"]
    images.dtype = 7  # DT_STRING
    images.string_val.extend(pictures)
    images.tensor_shape.dim.add(size=len(pictures))
    # Large probabilities of all classes stay on the server.
    request.output_filter.extend(["classes", "scores"])
    options = [("grpc.max_send_message_length", LARGEST_MESSAGE)]
    try:
        with grpc.insecure_channel(address, options) as channel:
            answer = PredictionServiceStub(channel).Predict(
                request, timeout=timeout
            )
    except grpc.RpcError as error:
        raise RequestError(f"{error.code().name}: {error.details()}") from error
    classes, scores = (
        make_ndarray(answer.outputs[name]) for name in ("classes", "scores")
    )
    return [
        [
            (label.decode(), float(score))
            for label, score in zip(*row, strict=True)
        ]
        for row in zip(classes, scores, strict=True)
    ]


def classify_rest(pictures, address="127.0.0.1:8501", timeout=30):
    """Asks over REST; as `classify_grpc`."""
    body = {
        "signature_name": SIGNATURE,
        "instances": [
            {"image_bytes": {"b64": base64.b64encode(picture).decode()}}
            for picture in pictures
        ],
    }
    request = urllib.request.Request(
        f"http://{address}/v1/models/{MODEL}:predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            rows = json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise RequestError(f"{error.code}: {text}") from error
    except OSError as error:
        raise RequestError(str(error)) from error
    return [
        list(zip(row["classes"], row["scores"], strict=True)) for row in rows
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="default: 8500, REST 8501")
    parser.add_argument("--rest", action="store_true", help="REST, not gRPC")
    options = parser.parse_args(arguments)
    port = options.port or (8501 if options.rest else 8500)
    classify = classify_rest if options.rest else classify_grpc
    try:
        encoded = []
        for name in options.pictures:
            with open(name, "rb") as file:
                encoded.append(file.read())
        answers = classify(encoded, f"{options.host}:{port}")
    except (OSError, RequestError) as error:
        print(f"client.py: error: {error}", file=sys.stderr)
        return 2
    for name, answer in zip(options.pictures, answers, strict=True):
        print(name)
        for label, score in answer:
            print(f"  {100 * score:5.1f}%  {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
