"""`keras-nfnet bench`: a model in all runtimes of this machine, in turns."""

import contextlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time

from keras_nfnet.bench.turns import Workers, spread
from keras_nfnet.export.command import FORMATS, model_of
from keras_nfnet.utils.arguments import file_to_write
from keras_nfnet.utils.files import write_whole
from keras_nfnet.variants import VARIANTS

# Name → package, kind of export and precision, what the process takes.
ROWS = {
    "Keras predict": ("tensorflow", "keras", None, {}),
    "Keras traced": ("tensorflow", "keras", None, {"call": "traced"}),
    "SavedModel": ("tensorflow", "saved_model", "float32", {}),
    "LiteRT": ("ai_edge_litert", "tflite", "float32", {}),
    "LiteRT dynamic int8": ("ai_edge_litert", "tflite", "dynamic_int8", {}),
    "LiteRT int8": ("ai_edge_litert", "tflite", "int8", {}),
    "ONNX Runtime": ("onnxruntime", "onnx", "float32", {}),
    "ONNX Runtime int8": ("onnxruntime", "onnx", "int8", {}),
    "OpenVINO": ("openvino", "openvino", "float32", {}),
    "OpenVINO bfloat16": ("openvino", "openvino", "float32", {"hint": "bf16"}),
    "OpenVINO int8": ("nncf", "openvino", "int8", {}),
    "timm eager": ("timm", "timm", None, {}),
    "timm compiled": ("timm", "timm", None, {"compiled": {}}),
}
_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}


def add_parser(commands, command):
    """Adds `bench`; the arguments are those of `training.command`."""
    bench = command(
        commands,
        "bench",
        run,
        "time a model in every runtime that is installed here",
    )
    bench.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="F0",
        help="a variant, such as F1, or a .keras file (default: F0)",
    )
    bench.add_argument(
        "--weights",
        help='of a variant: "imagenet" or a file (default: random values, '
        "which take the same time)",
    )
    bench.add_argument(
        "--size", type=int, help="pixels (default: the model's test size)"
    )
    bench.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 8],
        help="images at once (default: 1 8)",
    )
    bench.add_argument(
        "--minutes",
        type=float,
        default=2,
        help="of measuring; one round at least is measured (default: 2)",
    )
    bench.add_argument(
        "--only",
        nargs="+",
        metavar="RUNTIME",
        help="runtimes whose name has one of these in it: " + ", ".join(ROWS),
    )
    bench.add_argument(
        "--int8",
        action="store_true",
        help="those in calibrated int8 too, which take minutes to write",
    )
    bench.add_argument(
        "--json", metavar="FILE", help=".json file to write besides"
    )
    # What else says which model: see `model_of`.
    bench.set_defaults(labels=None, classes=None)


def run(options):
    """Runs the command; returns its exit status.

    Raises:
        ValueError: Saying what to mend.
    """
    for name in ("size", "minutes"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"`--{name}` must be above 0. Received: {value}")
    if min(options.batch) < 1:
        raise ValueError(
            f"`--batch` must be above 0. Received: {min(options.batch)}"
        )
    written = options.json
    if written is not None:
        written = file_to_write("--json", written, ".json")
    rows = _rows(options)
    with tempfile.TemporaryDirectory() as folder:
        specs, reports = _prepared(options, rows, folder)
        rounds, end = [], time.monotonic() + 60 * options.minutes
        with Workers(specs, _say) as workers:
            while not rounds or time.monotonic() < end:
                rounds.append(
                    workers.take_turns(options.batch, 0.5, len(rounds))
                )
    print(_table(options.batch, rounds, reports))
    if written is not None:
        content = {"rounds": rounds, "machine": _machine(), **_versions(rows)}
        write_whole(written, json.dumps(content, indent=1) + "\n")
    return 0


def _rows(options):
    """The rows that were asked for and can be run here."""
    rows = {
        name: row
        for name, row in ROWS.items()
        if (options.int8 or row[2] != "int8")
        and any(part.lower() in name.lower() for part in options.only or [""])
        and importlib.util.find_spec(row[0]) is not None
    }
    if not rows:
        raise ValueError(
            "`--only` must name a runtime that is installed, of "
            f"{', '.join(ROWS)}. Received: {options.only}"
        )
    return rows


def _prepared(options, rows, folder):
    """What each process takes, and the reports of what was written."""
    import keras

    from keras_nfnet import weights
    from keras_nfnet.weights.published import REPOSITORIES

    _say(f"building {options.model}")
    model = model_of(options, weights=None)
    size = options.size or model.input_shape[1]
    if options.model in VARIANTS:
        size = options.size or VARIANTS[options.model].test_size
    if size is None:
        raise ValueError("`--size` must say the pixels of this model.")
    repository = REPOSITORIES.get(options.model, "/").split("/")[1]
    specs, reports, paths = {}, {}, {}
    for name, (_, kind, precision, more) in rows.items():
        if kind == "timm" and not repository:
            continue
        if (kind, precision) not in paths:
            _say(f"writing the {kind} {precision or ''}")
            path, report = os.path.join(folder, f"{kind}_{precision}"), None
            if kind == "keras":
                path += ".keras"
                model.save(path)
            elif kind == "timm":
                path += ".safetensors"
                weights.save(model, path, layout="timm")
            else:
                form = FORMATS[kind]
                path += form.ENDING
                # A SavedModel has one precision.
                precisions = [precision] if len(form.PRECISIONS) > 1 else []
                write = getattr(form, f"to_{kind}")
                report = write(model, path, *precisions, size=size)
            paths[kind, precision] = path, report
        path, reports[name] = paths[kind, precision]
        specs[name] = {
            "runtime": _RUNTIMES.get(kind, kind),
            "path": path,
            "threads": os.cpu_count(),
            "shape": [size, size, model.input_shape[-1]],
            "seen": "pixels",
            **more,
        }
        if kind == "timm":
            specs[name]["model"] = repository.split(".")[0]
            specs[name]["seen"] = "normalized channels first"
    keras.backend.clear_session()
    return specs, reports


def _table(batches, rounds, reports):
    """Lines of text: the runtimes, the fastest first."""

    def times(name, batch):
        return [
            found["times"][name][str(batch)]
            for found in rounds
            if name in found["times"]
        ]

    lines = [
        f"{_machine()}; {len(rounds)} rounds; milliseconds: the median and "
        "(lowest–highest); start: seconds to the first answer",
        "",
        f"{'':20s}"
        + "".join(f"{f'batch {batch}':>26s}" for batch in batches)
        + f"{'start':>8s}{'MB':>7s}{'cosine':>11s}{'top-1':>7s}",
    ]
    measured = [name for name in reports if times(name, batches[0])]
    for name in sorted(measured, key=lambda x: spread(times(x, batches[0]))):
        line = f"{name:20s}"
        for batch in batches:
            middle, low, high = (1e3 * x for x in spread(times(name, batch)))
            line += f"{f'{middle:.1f} ({low:.1f}–{high:.1f})':>26s}"
        starts = [x["starts"][name] for x in rounds if name in x["starts"]]
        line += f"{spread([x['answered'] for x in starts])[0]:8.1f}"
        line += f"{spread([x['megabytes'] or 0 for x in starts])[0]:7.0f}"
        if reports[name]:
            line += f"{reports[name].cosine:11.6f}"
            line += f"{reports[name].top1_agreement:7.0%}"
        lines.append(line)
    for name, why in rounds[-1]["failed"].items():
        lines.append(f"{name}: failed, {why}")
    others = [x["other"] for x in rounds if x["other"] is not None]
    if others and max(others) > 0.1:
        lines.append(
            f"Other programs used up to {max(others):.1f} cores beside: the "
            "times are too long."
        )
    return "\n".join(lines)


def _machine():
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _versions(rows):
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version()}
    for package in sorted({row[0] for row in rows.values()}):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package.replace("_", "-"))
    return {"versions": found}


def _say(text):
    print(f"{text} …", file=sys.stderr, flush=True)
