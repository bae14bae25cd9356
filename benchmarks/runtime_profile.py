"""Where the runtimes spend the time of a network, by their own profiles.

    .venv-rivals/bin/python benchmarks/runtime_profile.py
    .venv-rivals/bin/python benchmarks/runtime_profile.py --networks F0

in the environment of `make bench-rivals` and on the files that it left. Each
row is a process of its own, which sums the time of the operations by what
they are. Beside it stands how fast a large product of matrices is, in the
same precision: what the convolutions could reach. Writes
results/runtime_profile.json and results/runtime_profile.md.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RUNS = 5
BATCHES = (1, 8)
# Name → the file in a network's folder, the runtime and the precision.
ROWS = {
    "timm, OpenVINO": ("timm.onnx", "openvino", "f32"),
    "OpenVINO float32": ("ours_float32.xml", "openvino", "f32"),
    "timm, OpenVINO bfloat16": ("timm.onnx", "openvino", "bf16"),
    "OpenVINO bfloat16": ("ours_float32.xml", "openvino", "bf16"),
    "OpenVINO int8": ("ours_int8.xml", "openvino", "f32"),
    "timm, ONNX Runtime": ("timm.onnx", "onnxruntime", "f32"),
    "ONNX Runtime float32": ("ours_float32.onnx", "onnxruntime", "f32"),
    "ONNX Runtime int8": ("ours_int8.onnx", "onnxruntime", "f32"),
    "SavedModel": ("saved_model", "tensorflow", "f32"),
}
# What an operation is → a pattern of its kind. The first that is found counts.
PARTS = {
    "convolutions, matrices": r"conv|gemm|matmul|fullyconnected",
    "activations": r"gelu|silu|swish|relu|sigmoid|tanh|erf|elu|pow",
    "layouts, types": r"reorder|transpose|convert|cast|quantize|reshape|pad|"
    r"split|concat|slice",
    "sums, products, pooling": r"add|sum|mul|sub|div|eltwise|subgraph|pool|"
    r"reduce|mean|rsqrt|maximum|squared",
    "rest": r"",
}
SIDES = {"F0": 256, "F1": 320, "eca_nfnet_l0": 288, "nf_resnet50": 288}


def by_part(operations):
    """`{part: seconds}` of `(kind, seconds)` of operations."""
    parts = dict.fromkeys(PARTS, 0.0)
    for kind, seconds in operations:
        part = next(p for p, x in PARTS.items() if re.search(x, kind.lower()))
        parts[part] += seconds
    return parts


def openvino(path, hint, shape):
    """A function that runs once, and the operations of the last run."""
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": True}
    compiled = ov.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    x = images(path, shape)

    def operations():
        return [
            (each.node_type, each.real_time.total_seconds())
            for each in request.profiling_info
        ]

    return lambda: request.infer([x]), operations


def onnxruntime(path, hint, shape):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    options.log_severity_level = 3
    x = images(path, shape)
    plain = ort.InferenceSession(path, options)
    run = {plain.get_inputs()[0].name: x}

    def operations():
        with tempfile.TemporaryDirectory() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = ort.InferenceSession(path, options)
            # The first runs are not like the others.
            for _ in range(2 + RUNS):
                session.run(None, run)
            events = json.loads(
                pathlib.Path(session.end_profiling()).read_text()
            )
        found = collections.defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_time"):
                key = event["name"], event["args"]["op_name"]
                found[key].append(event["dur"] / 1e6)
        return [
            (kind, statistics.mean(seconds[2:]))
            for (_, kind), seconds in found.items()
        ]

    return lambda: plain.run(None, run), operations


def tensorflow(path, hint, shape):
    import tensorflow as tf

    # As in the comparison: one operation after the other.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    x = tf.constant(images(path, shape))

    def run():
        return serve(images=x)

    def operations():
        from pages import profiled

        return [(kind, seconds) for _, kind, seconds in profiled(run, RUNS)]

    return run, operations


def images(path, shape):
    import numpy as np

    batch, size = shape
    x = np.random.default_rng(0).uniform(0, 255, (batch, size, size, 3))
    if os.path.basename(path).startswith("timm"):
        # timm's takes normalized images, channels first.
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2) / 58 - 2)
    return x.astype("float32")


def profile(path, runtime, hint, batch, size):
    """`{"whole": seconds, "parts": {part: seconds}}` of one batch."""
    load = {"openvino": openvino, "onnxruntime": onnxruntime}
    load["tensorflow"] = tensorflow
    run, operations = load[runtime](path, hint, (batch, size))
    for _ in range(3):
        run()
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return {"whole": statistics.median(seconds), "parts": by_part(operations())}


def fastest():
    """Multiply-accumulates a second of a large product, by precision."""
    import torch

    found = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.ones(3072, 3072, dtype=dtype)
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            x @ x
            seconds.append(time.perf_counter() - began)
        found[name] = 3072**3 / min(seconds)
    return found


def macs(network):
    import keras_nfnet

    model = keras_nfnet.NFNet(network, weights=None)
    size = SIDES[network]
    return keras_nfnet.diagnostics.count_macs(model, size, size)


def table(result):
    best = {
        hint: f"{value / 1e9:.0f}" for hint, value in result["fastest"].items()
    }
    lines = [
        "# Where the runtimes spend their time",
        "",
        "By each runtime's own profile, on the files of "
        "[the comparison](rivals.md): milliseconds of the operations of one "
        "run, and the share of each kind. Where a runtime joins an operation "
        "with a convolution, it counts there. The last column is of the "
        "convolutions and matrices, billions of multiply-accumulates a "
        "second; a product of matrices of 3072 reaches "
        f"{best['f32']} in float32 and {best['bf16']} in bfloat16 here. "
        "Written by `benchmarks/runtime_profile.py`.",
        "",
        f"{result['machine']}.",
    ]
    for network, found in result["networks"].items():
        for batch in BATCHES:
            lines += [
                "",
                f"## {network}, {SIDES[network]} px, batch {batch}",
                "",
                f"| | a run, ms | {' | '.join(PARTS)} | G/s |",
                "|---" + "|---:" * (len(PARTS) + 2) + "|",
            ]
            for name, row in found["rows"].items():
                whole, parts = row[str(batch)].values()
                total = sum(parts.values())
                cells = [f"{x / total:.0%}" for x in parts.values()]
                # An int8 run has them in another precision.
                speed = batch * found["macs"] / next(iter(parts.values())) / 1e9
                lines.append(
                    f"| {name} | {1e3 * whole:.1f} | {' | '.join(cells)} | "
                    f"{speed:.0f} |"
                )
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser, machine, write

    parser = argument_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=SIDES)
    parser.add_argument(
        "--work",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent.parent / "build" / "rivals",
    )
    parser.add_argument("--do", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        path, runtime, hint, *numbers = options.do
        print(json.dumps(profile(path, runtime, hint, *map(int, numbers))))
        return
    result = {"machine": machine(), "fastest": fastest(), "networks": {}}
    for network in options.networks or SIDES:
        folder, rows = options.work / network, {}
        for name, (file, runtime, hint) in ROWS.items():
            if not (folder / file).exists():
                print(f"{network}: no {file}; `make bench-rivals` writes it")
                continue
            for batch in BATCHES:
                words = [str(folder / file), runtime, hint, str(batch)]
                done = subprocess.run(
                    [sys.executable, __file__, "--do", *words]
                    + [str(SIDES[network])],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                found = json.loads(done.stdout.splitlines()[-1])
                rows.setdefault(name, {})[str(batch)] = found
                print(f"{network}, {name}, batch {batch}:", found, flush=True)
        if rows:
            result["networks"][network] = {
                "macs": macs(network),
                "rows": rows,
            }
    write("runtime_profile", result, table)


if __name__ == "__main__":
    main()
