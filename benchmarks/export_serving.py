"""Requests from eight clients, some of them junk, over real gRPC.

    python benchmarks/export_serving.py

A tiny NFNet is exported and served by `export/serving/local_server.py` in a
process of its own; the stock `PredictionServiceStub` sends 10,000 requests
from 8 clients, 1% of them junk. No valid request may fail, every junk one
must be INVALID_ARGUMENT, and the server's memory may grow by less than 5%
after the first tenth. Writes benchmarks/results/export_serving.md. The
TensorFlow Serving binary itself is not run.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np

HERE = pathlib.Path(__file__).parent
SERVING = HERE.parent / "export" / "serving"
CLIENTS = 8
SERVE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from local_server import serve
stop, port, _ = serve(sys.argv[2])
print(port, flush=True)
threading.Event().wait()
"""


def export(directory):
    import keras_nfnet

    config = keras_nfnet.NFNetConfig((32, 64), (1, 2), group_width=16)
    model = keras_nfnet.NFNet(
        config, weights=None, classes=10, input_shape=(32, 32, 3)
    )
    keras_nfnet.export.to_saved_model(model, directory)


def pictures():
    """Valid and broken encoded pictures."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(p) for p in load_sample_images().images]
    good = []
    for kind in ("JPEG", "PNG", "WEBP"):
        for side in (24, 48, 90):
            for photo in photos:
                file = io.BytesIO()
                photo.resize((side, side + 7)).save(file, kind)
                good.append(file.getvalue())
    rng = np.random.default_rng(0)
    junk = [b"", b"junk", rng.bytes(2000)]
    junk += [picture[: len(picture) // 3] for picture in good[:6]]
    return good, junk


def resident(process):
    """Resident memory of a process in bytes."""
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    (line,) = (x for x in text.splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def ask(port, numbers, good, junk, counts, latencies):
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict = PredictionServiceStub(channel).Predict
        for number in numbers:
            is_junk = number % 100 == 7
            source = junk if is_junk else good
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "nfnet"
            request.model_spec.signature_name = "serve_bytes"
            images = request.inputs["image_bytes"]
            images.dtype = 7  # DT_STRING
            images.string_val.append(source[number % len(source)])
            images.tensor_shape.dim.add(size=1)
            started = time.perf_counter()
            try:
                predict(request, timeout=60)
                answer = "OK"
            except grpc.RpcError as error:
                answer = error.code().name
            latencies.append(time.perf_counter() - started)
            key = ("junk" if is_junk else "valid", answer)
            counts[key] = counts.get(key, 0) + 1


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    good, junk = pictures()
    with tempfile.TemporaryDirectory() as folder:
        directory = os.path.join(folder, "1")
        export(directory)
        with subprocess.Popen(
            [sys.executable, "-c", SERVE, str(SERVING), directory],
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                counts, latencies, memory, seconds = load(
                    server, options.requests, good, junk
                )
            finally:
                server.terminate()
    result = {
        "requests": options.requests,
        "answers": [
            [kind, answer, count]
            for (kind, answer), count in sorted(counts.items(), reverse=True)
        ],
        "memory": memory,
        "growth": memory[1] / memory[0] - 1,
        "seconds": seconds,
        "median delay": float(np.median(latencies)),
        "99th percentile": float(np.percentile(latencies, 99)),
    }
    text = table(result)
    results = HERE / "results"
    (results / "export_serving.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    (results / "export_serving.md").write_text(text)
    print(text)
    expected = {("valid", "OK"), ("junk", "INVALID_ARGUMENT")}
    return 0 if set(counts) == expected and result["growth"] < 0.05 else 1


def table(result):
    first, last = result["memory"]
    requests = result["requests"]
    lines = [
        "# gRPC requests over the exported signatures",
        "",
        f"{requests:,} requests of one picture (JPEG, PNG, WebP) from "
        f"{CLIENTS} clients by the stock stub; the server is "
        "`export/serving/local_server.py`, not TensorFlow Serving's binary.",
        "",
        "| | |",
        "|---|---|",
        *(
            f"| {kind} requests answered {answer} | {count:,} |"
            for kind, answer, count in result["answers"]
        ),
        f"| memory after the first tenth | {first / 1e6:.0f} MB |",
        f"| memory at the end | {last / 1e6:.0f} MB "
        f"({result['growth']:+.1%}) |",
        f"| requests a second | {requests / result['seconds']:.0f} |",
        f"| median delay | {1e3 * result['median delay']:.1f} ms |",
        f"| 99th percentile | {1e3 * result['99th percentile']:.1f} ms |",
    ]
    return "\n".join(lines) + "\n"


def load(server, requests, good, junk):
    """Sends all requests; counts, delays, memory before and after, seconds."""
    port = int(server.stdout.readline())
    counts, latencies, memory = {}, [], []
    started = time.perf_counter()
    # What the first requests allocate for good is no growth.
    for start, end in ((0, requests // 10), (requests // 10, requests)):
        # A dictionary of its own for each client, then one sum.
        parts = [{} for _ in range(CLIENTS)]
        clients = [
            threading.Thread(
                target=ask,
                args=(
                    port,
                    range(start + index, end, CLIENTS),
                    good,
                    junk,
                    parts[index],
                    latencies,
                ),
            )
            for index in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        for part in parts:
            for key, count in part.items():
                counts[key] = counts.get(key, 0) + count
        memory.append(resident(server.pid))
    return counts, latencies, memory, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
