"""Peak memory of building, a training step and each export, beside timm's.

    .venv-rivals/bin/python benchmarks/memory.py
    .venv-rivals/bin/python benchmarks/memory.py --rounds 3 --network F1

in the environment of `make bench-rivals`. Each row is the largest resident
memory of a process of its own that does one thing, less what the process had
after its imports. An export's process builds the network first. What a
served request takes is in results/rivals.md. Writes results/memory.json
and results/memory.md.
"""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Name → timm's name and the side in pixels.
NETWORKS = {
    "F0": ("dm_nfnet_f0", 256),
    "F1": ("dm_nfnet_f1", 320),
    "eca_nfnet_l0": ("eca_nfnet_l0", 288),
}
BATCH = 4
PRECISIONS = {
    "saved_model": (None,),
    "tflite": ("float32", "float16", "dynamic_int8", "int8"),
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "int8"),
}


def rows():
    """`{(whose, what): what a process does, as words}`."""
    found = {}
    for whose in ("ours", "timm"):
        found[whose, "build"] = [whose, "build"]
        found[whose, f"training step of {BATCH}"] = [whose, "train"]
    for target, precisions in PRECISIONS.items():
        for precision in precisions:
            name = f"to_{target}" + (f", {precision}" if precision else "")
            words = ["ours", "export", target, precision or ""]
            found["ours", name] = words
    found["timm", "ONNX (torch.onnx)"] = ["timm", "export", "onnx"]
    found["timm", "OpenVINO, float16"] = ["timm", "export", "openvino"]
    return found


# ---- in a process of its own ----


def megabytes(what):
    with open("/proc/self/status") as file:
        (line,) = (row for row in file if row.startswith(what))
    return int(line.split()[1]) / 1000


def load(names):
    for name in names:
        importlib.import_module(name)


def ours(network, task, target=None, precision=None):
    import numpy as np

    import keras_nfnet
    from keras_nfnet import export

    load(NEEDED.get(target, ()))
    if precision == "int8" and target == "openvino":
        load(["nncf"])
    _, size = NETWORKS[network]
    before = megabytes("VmRSS")
    model = keras_nfnet.NFNet(
        network, weights=None, input_shape=(size, size, 3)
    )
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        # A new network's branches are 0, and `fold` would leave them out.
        if variable.path.endswith("skip_gain"):
            variable.assign(1.0)
        if variable.path.endswith("predictions/kernel"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    variables = sum(np.prod(v.shape) for v in model.trainable_variables)
    if task == "train":
        model.compile(
            keras_nfnet.SGDAGC(0.1), "sparse_categorical_crossentropy"
        )
        x = np.random.normal(size=(BATCH, size, size, 3)).astype("float32")
        for _ in range(2):
            model.train_on_batch(x, np.arange(BATCH))
    elif task == "export":
        write = getattr(export, f"to_{target}")
        options = {"precision": precision} if precision else {}
        if precision == "int8":
            from keras_nfnet.export.comparison import images

            options["calibration"] = np.float32(images((size, size)))
        with tempfile.TemporaryDirectory() as folder:
            write(model, os.path.join(folder, ENDINGS[target]), **options)
    return before, 4 * variables / 1e6


# What each kind of file needs, which counts as imports.
NEEDED = {
    "tflite": ["ai_edge_litert.interpreter", "tensorflow.lite.python.lite"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "openvino": ["openvino"],
}
ENDINGS = {
    "saved_model": "model",
    "tflite": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
}


def timm(network, task, target=None):
    import timm
    import torch

    load(NEEDED.get(target, ()))
    name, size = NETWORKS[network]
    before = megabytes("VmRSS")
    model = timm.create_model(name).to(memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.parameters())
    if task == "train":
        from timm.utils.agc import adaptive_clip_grad

        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True)
        for _ in range(2):
            optimizer.zero_grad()
            logits = model(torch.randn(BATCH, 3, size, size))
            loss = torch.nn.functional.cross_entropy
            loss(logits, torch.arange(BATCH)).backward()
            adaptive_clip_grad(model.parameters(), 0.01)
            optimizer.step()
    elif task == "export":
        model.eval()
        x = torch.randn(1, 3, size, size)
        with tempfile.TemporaryDirectory() as folder:
            if target == "onnx":
                path = os.path.join(folder, "model.onnx")
                torch.onnx.export(model, (x,), path, dynamo=True)
            else:
                import openvino

                with torch.no_grad():
                    converted = openvino.convert_model(model, example_input=x)
                path = os.path.join(folder, "model.xml")
                openvino.save_model(converted, path)
    return before, 4 * parameters / 1e6


# ---- measuring and the page ----


def peak(network, words):
    """`(megabytes of the peak less those before, of the parameters)`."""
    done = subprocess.run(
        [sys.executable, __file__, "--do", network, *words],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print((done.stderr.strip().splitlines() or ["?"])[-1])
        return None
    return [float(x) for x in done.stdout.split()[-2:]]


def table(result):
    from pages import spread

    parameters = result["parameters"]
    lines = [
        "# Memory",
        "",
        f"{result['network']}, {parameters:.0f} MB of parameters in float32. "
        "The largest resident memory of a process that does one thing, less "
        "what it had after its imports: median (lowest–highest), rounds: "
        f"{result['rounds']}. Of each the network itself is 1.0. The exports "
        "run their files and the network and compare them; timm's do not. "
        "TensorFlow's converter for TFLite holds its constants twice, of the "
        "weights' size, though their values are written later. LiteRT and "
        "OpenVINO pack the kernels of a file once more when they run it, "
        "beside the file and the network. The quantizers of ONNX Runtime and "
        "NNCF hold several copies. The calibrated int8 file of random values "
        "is refused, since the answers differ too much. Written by "
        "`python benchmarks/memory.py`. What a served request takes stands "
        "[beside the times](rivals.md).",
        "",
        f"{result['machine']}.",
        "",
        "| | | MB | times the parameters |",
        "|---|---|---:|---:|",
    ]
    for whose, what, values in result["rows"]:
        values = [value for value in values if value is not None]
        if not values:
            lines.append(f"| {whose} | {what} | not measured | |")
            continue
        ratios = [value / parameters for value in values]
        lines.append(
            f"| {whose} | {what} | {spread(values, '.0f')} | "
            f"{spread(ratios, '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="F0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        network, whose, *words = options.do
        do = {"ours": ours, "timm": timm}[whose]
        before, parameters = do(network, *filter(None, words))
        print(megabytes("VmHWM") - before, parameters)
        return
    from pages import machine, write

    found = rows()
    values, parameters = {name: [] for name in found}, 0
    for turn in range(options.rounds):
        for name, words in found.items():
            result = peak(options.network, words)
            values[name].append(result and result[0])
            if result and name == ("ours", "build"):
                parameters = result[1]
            print(f"round {turn + 1}: {', '.join(name)}", result, flush=True)
    write(
        "memory",
        {
            "network": options.network,
            "machine": machine(),
            "rounds": options.rounds,
            "parameters": parameters,
            "rows": [[*name, column] for name, column in values.items()],
        },
        table,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    main()
