"""Our networks through every runtime beside timm's through every rival.

    make bench-rivals
    make bench-rivals RIVALS="--minutes 60 --networks F0 eca_nfnet_l0"
    make bench-rivals RIVALS="--prepare"

makes an environment with all of them and runs this script there. First it
writes each network's files, ours and timm's with the same values, into a
folder, where they are kept for the next run (`--prepare` ends then). Then all
runtimes take turns in blocks of runs, one image and eight, each in a process
of its own and warmed up, in another order in every round, until the minutes
are over; at least one round of each network. What was measured is kept by
round: the same command goes on where it was stopped, and `--anew` begins
again. Writes benchmarks/results/rivals.jsonl and .md.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "rivals.jsonl"
# Name → timm's name and the side in pixels.
NETWORKS = {
    "F0": ("dm_nfnet_f0", 256),
    "F1": ("dm_nfnet_f1", 320),
    "eca_nfnet_l0": ("eca_nfnet_l0", 288),
    "nf_resnet50": ("nf_resnet50", 288),
}
BATCHES = (1, 8)
PACKAGES = (
    "tensorflow keras ai-edge-litert onnxruntime openvino nncf torch timm"
).split()


def runtimes(network, folder):
    """`{name: (precision, what worker.py takes)}`; timm's names begin so."""
    timm, size = NETWORKS[network]
    base = {"shape": [size, size, 3], "threads": os.cpu_count()}
    values = str(folder / "values.safetensors")
    theirs = base | {"seen": "normalized channels first"}
    torch = theirs | {"runtime": "timm", "model": timm, "path": values}
    tuned = {"mode": "max-autotune", "frozen": True}

    def file(runtime, name, of=base, **more):
        seen = {} if "seen" in of else {"seen": "pixels"}
        return (
            of
            | seen
            | {
                "runtime": runtime,
                "path": str(folder / name),
                **more,
            }
        )

    def keras(**more):
        return file("keras", "values.safetensors", variant=network) | {
            "seen": "normalized",
            **more,
        }

    return {
        "timm eager": ("float32", torch),
        "timm compiled": ("float32", torch | {"compiled": {}}),
        "timm compiled, max-autotune": ("float32", torch | {"compiled": tuned}),
        "timm eager, autocast": ("bfloat16", torch | {"autocast": True}),
        "timm compiled, autocast": (
            "bfloat16",
            torch | {"compiled": tuned, "autocast": True},
        ),
        "timm, ONNX Runtime": (
            "float32",
            file("onnxruntime", "timm.onnx", theirs),
        ),
        "timm, ONNX Runtime int8": (
            "int8",
            file("onnxruntime", "timm_int8.onnx", theirs),
        ),
        "timm, OpenVINO": ("float32", file("openvino", "timm.onnx", theirs)),
        "timm, OpenVINO bfloat16": (
            "bfloat16",
            file("openvino", "timm.onnx", theirs, hint="bf16"),
        ),
        "timm, OpenVINO int8": (
            "int8",
            file("openvino", "timm_int8.xml", theirs),
        ),
        "Keras predict": ("float32", keras()),
        "Keras traced": ("float32", keras(call="traced")),
        "Keras traced, bfloat16": (
            "bfloat16",
            keras(call="traced", dtype="mixed_bfloat16"),
        ),
        "SavedModel": ("float32", file("saved_model", "saved_model")),
        **{
            f"LiteRT {precision}": (
                "int8" if "int8" in precision else precision,
                file("litert", f"ours_{precision}.tflite"),
            )
            for precision in ("float32", "float16", "dynamic_int8", "int8")
        },
        **{
            f"ONNX Runtime {precision}": (
                precision,
                file("onnxruntime", f"ours_{precision}.onnx"),
            )
            for precision in ("float32", "float16", "int8")
        },
        "OpenVINO float32": ("float32", file("openvino", "ours_float32.xml")),
        "OpenVINO float16": ("float16", file("openvino", "ours_float16.xml")),
        "OpenVINO bfloat16": (
            "bfloat16",
            file("openvino", "ours_float32.xml", hint="bf16"),
        ),
        "OpenVINO int8": ("int8", file("openvino", "ours_int8.xml")),
        "OpenVINO int8, bfloat16 between": (
            "int8",
            file("openvino", "ours_int8.xml", hint="bf16"),
        ),
    }


def crops(size, seed, count):
    """Pixels 0–255 of crops of scikit-learn's two photographs."""
    import numpy as np

    from keras_nfnet.data.preprocessing import evaluation_picture
    from keras_nfnet.export.comparison import photographs

    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        photo = photographs()[index % 2]
        side = int(random.uniform(0.4, 1.0) * photo.shape[0])
        top = random.integers(photo.shape[0] - side + 1)
        left = random.integers(photo.shape[1] - side + 1)
        crop = photo[top : top + side, left : left + side]
        view = evaluation_picture(crop[:, :: random.choice((-1, 1))], size)
        found.append(np.clip(view, 0, 255))
    return np.stack(found).astype("float32")


# ---- the files; each function writes `path` in a process of its own ----


def values(network, path):
    """timm's parameters by the rule of the tests' figures, which keeps the
    signal of a network of random values."""
    import timm
    from fill import timm_parameter
    from safetensors.numpy import save_file

    model = timm.create_model(NETWORKS[network][0])
    save_file(
        {
            key: timm_parameter(key, tuple(value.shape), 0)
            for key, value in model.state_dict().items()
        },
        path,
    )


def timm_onnx(network, path):
    import timm
    import torch

    name, size = NETWORKS[network]
    model = timm.create_model(
        name, checkpoint_path=str(path.parent / "values.safetensors")
    ).eval()
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
    )


def timm_onnx_int8(network, path):
    """ONNX Runtime's quantization of timm's graph, with its own advice."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    pictures = calibration(network)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(pictures)

        def get_next(self):
            picture = next(self.left, None)
            return None if picture is None else {"images": picture[None]}

    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(str(path.parent / "timm.onnx"), str(ready))
    quantization.quantize_static(
        str(ready),
        str(path),
        Pictures(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    ready.unlink()


def timm_openvino_int8(network, path):
    """As NNCF's documents advise for other activations than ReLU."""
    import nncf
    import openvino

    # Not `read_model`: it leaves the standardized kernels uncomputed, and
    # NNCF would leave them in float.
    model = openvino.convert_model(path.parent / "timm.onnx")
    pictures = [picture[None] for picture in calibration(network)]
    openvino.save_model(
        nncf.quantize(
            model,
            nncf.Dataset(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
        ),
        path,
        compress_to_fp16=False,
    )


def calibration(network):
    from keras_nfnet.bench.worker import seen

    pixels = crops(NETWORKS[network][1], 1, 32)
    return seen(pixels, "normalized channels first")


def ours(network, path, form="", precision=None):
    import keras_nfnet

    _, size = NETWORKS[network]
    model = keras_nfnet.NFNet(
        network,
        weights=str(path.parent / "values.safetensors"),
        classifier_activation=None,
    )
    write = getattr(keras_nfnet.export, f"to_{form}")
    options = {"size": size, "overwrite": True}
    if precision:
        options["precision"] = precision
    if precision == "int8":
        options["calibration"] = crops(size, 1, 32)
    print(write(model, str(path), **options))


FILES = {
    "values.safetensors": values,
    "timm.onnx": timm_onnx,
    "timm_int8.onnx": timm_onnx_int8,
    "timm_int8.xml": timm_openvino_int8,
    "saved_model": functools.partial(ours, form="saved_model"),
    **{
        f"ours_{precision}{ending}": functools.partial(
            ours, form=form, precision=precision
        )
        for form, ending, precisions in (
            ("tflite", ".tflite", "float32 float16 dynamic_int8 int8"),
            ("onnx", ".onnx", "float32 float16 int8"),
            ("openvino", ".xml", "float32 float16 int8"),
        )
        for precision in precisions.split()
    },
}


def sources(name):
    """What a file of ours is written by; it is written again if it changes."""
    if not name.startswith(("ours", "saved_model")):
        return ""
    forms = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
    others = tuple(x for x, end in forms.items() if not name.endswith(end))
    package = HERE.parent / "keras_nfnet"
    digest = hashlib.sha256()
    for part in ("export", "layers"):
        for path in sorted((package / part).glob("*.py")):
            if not path.name.startswith(others):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare(network, folder, skip, as_is):
    """Writes the files that are missing; a file that cannot be is told."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "made.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    for name in FILES:
        if name in skip or (as_is and name in made):
            continue
        if made.get(name, {}).get("sources") == sources(name):
            continue
        print(f"{network}: writing {name}", flush=True)
        began = time.perf_counter()
        process = subprocess.run(
            [sys.executable, __file__, "--write", network, name]
            + ["--work", str(folder.parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines = process.stdout.strip().splitlines()
        made[name] = {
            "sources": sources(name),
            "seconds": time.perf_counter() - began,
            "said": lines[-1] if lines else "",
            "failed": process.returncode != 0,
        }
        print(f"  {made[name]['seconds']:.0f} s: {made[name]['said']}")
        record.write_text(json.dumps(made, indent=1) + "\n")


def judge(network, folder, images):
    """Cosine and top-1 of each runtime with its side's float32, once."""
    from keras_nfnet.bench.turns import Failed, Worker, agreement

    record = folder / "agreement.json"
    found = json.loads(record.read_text()) if record.exists() else {}
    pixels = crops(NETWORKS[network][1], 2, images)
    outputs = {}

    def logits(name):
        if name not in outputs:
            print(f"{network}: outputs of {name}", flush=True)
            worker = Worker(table[name][1])
            outputs[name] = worker.outputs(pixels)
            worker.close()
        return outputs[name]

    table = runtimes(network, folder)
    for name, (_, spec) in table.items():
        is_timm = name.startswith("timm")
        file = pathlib.Path(spec["path"])
        stamp = f"{file.stat().st_mtime_ns if file.exists() else 0} {images}"
        if found.get(name, {}).get("stamp") == stamp:
            continue
        reference = "timm eager" if is_timm else "Keras predict"
        try:
            cosine, top1 = agreement(logits(name), logits(reference))
            row = {"cosine": cosine, "top-1": top1}
            if name == "Keras predict":
                row["with timm"], _ = agreement(
                    logits(name), logits("timm eager")
                )
        except Failed as error:
            row, stamp = {"failed": str(error)}, None  # To be tried again.
        found[name] = {"stamp": stamp, **row}
        record.write_text(json.dumps(found, indent=1) + "\n")
    return found


# ---- measuring and the page ----


def measure(network, folder, minutes, seconds, least, rounds):
    """Adds rounds to the results until the minutes are over."""
    from keras_nfnet.bench.turns import Workers

    agreements = judge_file(folder)
    specs = {
        name: spec
        for name, (_, spec) in runtimes(network, folder).items()
        if "failed" not in agreements.get(name, {"failed": ""})
    }
    began = time.monotonic()
    with Workers(specs, functools.partial(print, flush=True)) as workers:
        longest = 0
        for count in range(rounds):
            left = 60 * minutes - (time.monotonic() - began)
            if count >= least and left < longest:
                break
            started = time.monotonic()
            found = workers.take_turns(
                BATCHES, seconds, len(read(network)["rounds"])
            )
            found |= {"network": network, "versions": versions()}
            found |= {"machine": machine(), "agreements": agreements}
            with open(RESULTS, "a") as file:
                file.write(json.dumps(found) + "\n")
            # The first has the starts in it.
            longest = 0 if not count else time.monotonic() - started
            RESULTS.with_suffix(".md").write_text(page())


def judge_file(folder):
    record = folder / "agreement.json"
    return json.loads(record.read_text()) if record.exists() else {}


def read(network):
    """What was measured of a network, all rounds together."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rounds = [
        found for found in map(json.loads, lines) if found["network"] == network
    ]
    return {"rounds": rounds}


def versions():
    from importlib.metadata import version

    found = {"Python": platform.python_version()}
    return {**found, **{name: version(name) for name in PACKAGES}}


def machine():
    name = platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x for x in lines if x.startswith("model name"))
        name = name.partition(":")[2].strip()
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


# Precision → the most that ours may take of the best rival's time.
GOALS = {"float32": 1.03, "bfloat16": 0.9, "int8": 0.85}
# At a cosine of at least so much, with one's own float32.
COSINE = 0.999


def page():
    """The Markdown page of all that was measured."""
    rounds = {
        name: found for name in NETWORKS if (found := read(name)["rounds"])
    }
    newest = [found[-1] for found in rounds.values()]
    lines = [
        "# Beside what a user would run instead",
        "",
        "Written by `make bench-rivals`. Each runtime runs in a process of its "
        "own, with all cores. They take turns in blocks of runs, warmed up, in "
        "another order in every round; a time is the median of the blocks' "
        "medians, with the lowest and highest. The ratios are of two blocks of "
        "the same round, to the fastest of timm's runtimes of that precision "
        f"with a cosine of at least {COSINE}, or of all where none has it "
        "(float16: of float32). Cosine "
        "(of logits less their mean) and top-1 are with the float32 of the "
        "same network, timm's with timm's and ours with ours. Both have the "
        "same random values, which keep the signal; two photographs' crops "
        "are the images, others of them the calibration of int8. Ours "
        "normalizes pixels inside; timm's gets them normalized. Start: "
        "seconds from the process to the first answer, imports in it, and "
        "those of the imports; memory: the largest until that answer. What "
        "`torch.compile` compiled before comes from its cache.",
    ]
    for name, found in rounds.items():
        _, size = NETWORKS[name]
        lines += ["", f"## {name}, {size} px", "", *network_lines(name, found)]
    lines += why()
    lines += ["", *sorted({found["machine"] for found in newest})]
    texts = {
        ", ".join(f"{k} {v}" for k, v in found["versions"].items()) + "."
        for found in newest
    }
    return "\n".join([*lines, "", *sorted(texts)]) + "\n"


def why():
    """What the runtimes' profiles say of the goals that are missed."""
    path = RESULTS.with_name("runtime_profile.json")
    if not path.exists():
        return []
    profile = json.loads(path.read_text())
    body = []
    for network, found in profile["networks"].items():
        for batch in BATCHES:
            cells = [f"{network}, batch {batch}"]
            for name in ("timm, OpenVINO bfloat16", "OpenVINO bfloat16"):
                parts = list(found["rows"][name][str(batch)]["parts"].values())
                speed = batch * found["macs"] / parts[0] / 1e9
                cells += [f"{parts[0] / sum(parts):.0%}", f"{speed:.0f}"]
            body.append(cells)
    speed = profile["fastest"]["bf16"] / 1e9
    return [
        "",
        "## Why",
        "",
        "By the [runtimes' own profiles](runtime_profile.md), taken apart from "
        "the times above. In bfloat16 convolutions take nearly all of the time "
        "of OpenVINO's graph of F0 and NF-ResNet50, timm's and ours. They run "
        "near what a large product of matrices reaches on the same cores, "
        f"{speed:.0f} billion multiply-accumulates a second, so neither can "
        "be ahead of the other by a tenth. TensorFlow (Keras, SavedModel) "
        "runs an operation after the other: its convolutions alone take about "
        "as long as all of OpenVINO's run, and F0's GELU, sums and products "
        "there, comes on top. ONNX Runtime's int8 spends a third to a half "
        "outside of the convolutions, where values are float; its weights have "
        "7 bits.",
        "",
        *markdown(
            ["bfloat16", "timm's: convolutions", "G/s"]
            + ["ours: convolutions", "G/s"],
            body,
        ),
    ]


def network_lines(network, rounds):
    """The table of one network, and how it stands with the goals."""
    from keras_nfnet.bench.turns import ratios, spread

    agreements = rounds[-1]["agreements"]
    table = runtimes(network, pathlib.Path())
    precisions = {name: precision for name, (precision, _) in table.items()}

    def times(name, batch):
        return [
            found["times"][name][str(batch)]
            for found in rounds
            if name in found["times"]
        ]

    def best(precision, batch, is_timm):
        """The fastest of timm's or ours, if possible a near enough one."""
        names = [
            name
            for name in table
            if precisions[name] == precision
            and name.startswith("timm") == is_timm
            and times(name, batch)
        ]
        near = [
            name
            for name in names
            if agreements[name].get("cosine", 0) >= COSINE
        ]
        if not is_timm:
            names = near
        return min(
            near or names, key=lambda x: spread(times(x, batch))[0], default=""
        )

    def against(name, batch):
        precision = precisions[name].replace("float16", "float32")
        precision = precision.replace("bfloat32", "bfloat16")
        rival = best(precision, batch, True)
        return spread(ratios(rounds, name, rival, batch)) if rival else None

    def cell(found, form, scale=1):
        if found is None:
            return "–"
        middle, low, high = (f"{scale * value:{form}}" for value in found)
        return f"{middle} ({low}–{high})"

    others = [x["other"] for x in rounds if x["other"] is not None]
    lines = [
        f"{len(rounds)} rounds; other work used "
        f"{max(others):.2f} cores at most."
        if others
        else f"{len(rounds)} rounds.",
    ]
    heads = ["", "precision"]
    for batch in BATCHES:
        what = "one image" if batch == 1 else f"batch {batch}"
        heads += [f"{what}, ms", "ratio"]
    heads += ["cosine", "top-1", "start, s", "imports", "MB"]
    body = []
    for name in table:
        row = agreements.get(name, {"failed": "not run"})
        if "failed" in row or not times(name, BATCHES[0]):
            why = row.get("failed") or rounds[-1]["failed"].get(name, "")
            # Without the folders of this machine.
            why = re.sub(r"\S*/", "", why)
            body.append([name, precisions[name], f"not run: {why}"[:90]])
            body[-1] += [""] * (len(heads) - 3)
            continue
        cells = [name, precisions[name]]
        for batch in BATCHES:
            cells.append(cell(spread(times(name, batch)), ".1f", 1e3))
            cells.append(cell(against(name, batch), ".2f"))
        cells += [f"{row['cosine']:.6f}", f"{row['top-1']:.0%}"]
        starts = [x["starts"][name] for x in rounds if name in x["starts"]]
        for key, form in (
            ("answered", ".1f"),
            ("imported", ".1f"),
            ("megabytes", ".0f"),
        ):
            values = [start[key] for start in starts]
            cells.append(f"{spread(values)[0]:{form}}")
        body.append(cells)
    lines += ["", *markdown(heads, body), ""]
    goals = []
    for precision, goal in GOALS.items():
        for batch in BATCHES:
            name, rival = (best(precision, batch, x) for x in (False, True))
            if not (name and rival):
                continue
            ratio = spread(ratios(rounds, name, rival, batch))
            goals.append(
                [f"{precision}, batch {batch}", name, rival]
                + [cell(ratio, ".2f"), f"{goal}"]
                + ["yes" if ratio[0] <= goal else "no"]
            )
    heads = ["", "fastest of ours", "of timm's", "ratio", "goal", "reached"]
    lines += markdown(heads, goals)
    own = [
        name for name in table if name[:4] != "timm" and times(name, BATCHES[0])
    ]
    for batch in BATCHES:
        everyone = [
            name
            for name in table
            if precisions[name] == "float32" and times(name, batch)
        ]
        best_of_all = min(everyone, key=lambda x: spread(times(x, batch))[0])
        over = {
            name: spread(ratios(rounds, name, best_of_all, batch))[0]
            for name in own
            if name in everyone
        }
        lines += [
            "",
            f"float32, batch {batch}, over the fastest of anyone "
            f"({best_of_all}): "
            + ", ".join(f"{name} {ratio:.2f}" for name, ratio in over.items())
            + ".",
        ]

    def start(name, key):
        return spread(
            [x["starts"][name][key] for x in rounds if name in x["starts"]]
        )[0]

    if times("timm eager", BATCHES[0]):
        lines += [
            "",
            "Start and memory over those of timm eager: "
            + ", ".join(
                f"{name} "
                + " and ".join(
                    f"{start(name, key) / start('timm eager', key):.2f}"
                    for key in ("answered", "megabytes")
                )
                for name in own
            )
            + ".",
        ]
    near = agreements["Keras predict"].get("with timm")
    if near is not None:
        lines += ["", f"Cosine of our float32 with timm's: {near:.7f}."]
    return lines


def markdown(heads, body):
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *body]
    return ["| " + " | ".join(row) + " |" for row in rows]


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument(
        "--minutes", type=float, default=60, help="of measuring (default: 60)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="at most, of each network"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.8, help="of a block (default: 0.8)"
    )
    parser.add_argument(
        "--images", type=int, default=16, help="to compare (default: 16)"
    )
    parser.add_argument(
        "--work", type=pathlib.Path, default=HERE.parent / "build" / "rivals"
    )
    parser.add_argument(
        "--skip", nargs="+", choices=FILES, default=(), help="to write later"
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="take the files of ours that are there, though the code that "
        "wrote them has changed",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="write the files and end"
    )
    parser.add_argument(
        "--anew", action="store_true", help="forget what was measured"
    )
    parser.add_argument("--page", action="store_true", help="write it again")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    if options.write:
        network, name = options.write
        FILES[name](network, options.work / network / name)
        return
    networks = options.networks or list(NETWORKS)
    if options.page:
        RESULTS.with_suffix(".md").write_text(page())
        return
    for network in networks:
        prepare(network, options.work / network, options.skip, options.as_is)
        if not options.skip:
            judge(network, options.work / network, options.images)
    if options.prepare:
        return
    if options.anew:
        RESULTS.unlink(missing_ok=True)
    end = time.monotonic() + 60 * options.minutes
    for index, network in enumerate(networks):
        left = (end - time.monotonic()) / 60 / (len(networks) - index)
        measure(
            network,
            options.work / network,
            left,
            options.seconds,
            1,
            options.rounds,
        )
    print(page())


if __name__ == "__main__":
    main()
