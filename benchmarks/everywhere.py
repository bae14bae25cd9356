"""How near each backend and runtime comes to the authors' and timm's logits.

    make everywhere

makes an environment with all of them and runs this script there, which has a
process per Keras backend. A row is a network with the parameters and images
of a figure in tests/figures/; a number is the largest difference from its
logits, over the largest logit, in float32. Writes
benchmarks/results/everywhere.json and .md; ends with 1 where a number is
above 1e-5. A process that is killed is run again by the same command, and
what is there already is kept: remove the JSON to begin anew.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "everywhere.json"
LIMIT = 1e-5
BACKENDS = {
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "torch": "PyTorch",
    "openvino": "OpenVINO",
}
# What is written on which backends, and then run by its own runtime.
FILES = {
    "SavedModel": ["tensorflow"],
    "LiteRT": ["tensorflow"],
    "ONNX Runtime": ["tensorflow", "jax", "torch"],
    "OpenVINO file": ["tensorflow", "jax", "torch"],
    "`.pt2`": ["torch"],
}
# One network of each family and form at least.
DEEPMIND = ["F0", "RegNet-B2", "ResNet-50", "ResNet-50, SE"]
TIMM = [
    "nfnet_l0",
    "eca_nfnet_l0",
    "eca_nfnet_l0, 1 channel",
    "nf_regnet_b1",
    "nf_resnet50",
    "nf_seresnet50",
    "nf_ecaresnet50",
]
PACKAGES = (
    "tensorflow keras jax torch openvino ai-edge-litert onnxruntime numpy"
).split()


def figures():
    """`{name: figure}` of the networks that are tried."""
    from test_family import DEEPMIND as deepmind
    from test_family import TIMM_FIGURES, deepmind_name

    outputs = HERE.parent / "tests" / "figures" / "nfnet_outputs.json"
    found = {"F0": json.loads(outputs.read_text())[0]}
    for figure in deepmind:
        name = deepmind_name(figure)
        name += ", SE" * bool(figure["kwargs"].get("use_se"))
        found.setdefault(name, {**figure, "variant": deepmind_name(figure)})
    for figure in TIMM_FIGURES:
        channels = figure["in_chans"]
        name = figure["model"] + f", {channels} channel" * (channels == 1)
        found.setdefault(name, figure)
    return {name: found[name] for name in (*DEEPMIND, *TIMM)}


def built(figure, folder):
    """The network with the figure's values, and the figure's images."""
    import test_family
    import test_reference

    if "model" in figure:
        return test_family.timm_network(figure, folder)
    return test_reference.deepmind_network(
        figure, use_se=figure["kwargs"].get("use_se")
    )


def runs_of_files(model, x, folder):
    """Yields `(runtime, its logits of x)` of the files of this backend."""
    import keras
    import numpy as np

    from keras_nfnet import export
    from keras_nfnet.data.preprocessing import channel_statistics

    backend = keras.backend.backend()
    if backend == "openvino":
        return
    mean, deviation = map(np.array, channel_statistics(x.shape[-1]))
    pixels = (x * deviation + mean).astype("float32")
    from keras_nfnet.export import onnx_file, openvino_file

    export.to_onnx(model, folder / "a.onnx", size=x.shape[1:3])
    yield "ONNX Runtime", onnx_file.runner(folder / "a.onnx")(pixels)
    export.to_openvino(model, folder / "a.xml", size=x.shape[1:3])
    yield "OpenVINO file", openvino_file.runner(folder / "a.xml")(pixels)
    if backend == "tensorflow":
        from keras_nfnet.export import saved_model, tflite

        export.to_tflite(model, folder / "a.tflite", size=x.shape[1:3])
        yield "LiteRT", tflite.runner(folder / "a.tflite")(pixels)
        export.to_saved_model(model, folder / "saved", size=x.shape[1:3])
        run = saved_model.runner(folder / "saved")
        yield "SavedModel", run(pixels)["probabilities"]
    if backend == "torch":
        import torch

        path = str(folder / "a.pt2")
        inputs = keras.Input(x.shape[1:])
        model = keras.Model(inputs, model(inputs))
        batch = torch.export.Dim("batch", min=1, max=64)
        model.export(
            path, format="torch", dynamic_shapes=[{0: batch}], verbose=False
        )
        outputs = torch.export.load(path).module()(torch.tensor(x))
        (outputs,) = torch.utils._pytree.tree_leaves(outputs)
        yield "`.pt2`", outputs.detach().numpy()


def measure(names):
    """Prints a line per number that is found on this process's backend."""
    import keras
    import numpy as np
    from test_reference import relative

    backend = keras.backend.backend()
    for name, figure in figures().items():
        if name not in names:
            continue
        expected = np.asarray(figure["logits_first8"])

        def tell(column, value, name=name):
            row = {"network": name, "column": column, "backend": backend}
            print("FOUND " + json.dumps({**row, "difference": value}))
            sys.stdout.flush()

        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model, x = built(figure, folder)
            # Keras's OpenVINO `predict` computes in bfloat16 where it can.
            run = model if backend == "openvino" else model.predict_on_batch
            logits = np.asarray(run(x))
            scale = np.abs(logits).max()
            tell(BACKENDS[backend], relative(logits[:, :8], expected, scale))
            for column, got in runs_of_files(model, x, folder):
                got, wanted = np.asarray(got, "float64")[:, :8], expected
                if column == "SavedModel":  # Gives probabilities.
                    got = np.log(got)
                    got, wanted = got - got[:, :1], wanted - wanted[:, :1]
                tell(column, relative(got, wanted, scale))
        keras.backend.clear_session()


def table(found, versions):
    """The Markdown page of what was found."""
    columns = [*BACKENDS.values(), *FILES]
    lines = [
        "# Every backend and runtime",
        "",
        "Written by `make everywhere`. Largest difference from the logits of "
        "the authors' or timm's own code, over the largest logit, in float32, "
        "for the same parameters and images. The first four are Keras's "
        "backends; the rest are files, run by their own runtimes: SavedModel "
        "and LiteRT (TFLite) files written on TensorFlow, `.pt2` on PyTorch, "
        "ONNX and OpenVINO files on TensorFlow, JAX and PyTorch each, of which "
        "the largest is shown. A SavedModel gives probabilities, of which the "
        "logarithms' distances are compared. On the OpenVINO backend the model "
        "is called: `predict` there computes in bfloat16 on a CPU that has it "
        "(0.002 for RegNet-B2), and Keras has no setting for that. The runtime "
        'of OpenVINO files is told `{"INFERENCE_PRECISION_HINT": "f32"}`.',
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for name in (*DEEPMIND, *TIMM):
        cells = []
        for column in columns:
            values = [
                row["difference"]
                for row in found
                if (row["network"], row["column"]) == (name, column)
            ]
            asked = FILES.get(column, [column])
            whole = len(values) == len(asked)
            cells.append(f"{max(values):.1e}" if whole else "not run")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]
    return "\n".join(lines) + "\n"


def versions():
    from importlib.metadata import version

    found = {"Python": platform.python_version()}
    return {**found, **{name: version(name) for name in PACKAGES}}


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=list(BACKENDS),
        help="Keras backends to run; all by default",
    )
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    if options.one:
        measure(options.one)
        return 0
    found = json.loads(RESULTS.read_text())["found"] if RESULTS.exists() else []
    for backend in options.backends:
        columns = {c for c, where in FILES.items() if backend in where}
        columns.add(BACKENDS[backend])
        missing = [
            name
            for name in (*DEEPMIND, *TIMM)
            if columns
            - {
                row["column"]
                for row in found
                if (row["network"], row["backend"]) == (name, backend)
            }
        ]
        if not missing:
            continue
        kept = [
            row
            for row in found
            if row["backend"] != backend or row["network"] not in missing
        ]
        process = subprocess.Popen(
            [sys.executable, __file__, "--one", *missing],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
        )
        found = kept
        for line in process.stdout:
            if not line.startswith("FOUND "):
                continue
            found.append(json.loads(line[6:]))
            print("{network} | {column} | {difference:.1e}".format(**found[-1]))
            content = {"versions": versions(), "found": found}
            RESULTS.with_suffix(".new").write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            )
            RESULTS.with_suffix(".new").replace(RESULTS)
        if process.wait():
            return process.returncode
    content = json.loads(RESULTS.read_text())
    text = table(content["found"], content["versions"])
    RESULTS.with_suffix(".md").write_text(text)
    print(text)
    return int(any(row["difference"] > LIMIT for row in content["found"]))


if __name__ == "__main__":
    sys.exit(main())
