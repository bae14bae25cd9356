"""F0 at 256 px in every format and precision: size, cosine, time.

    python benchmarks/export_speed.py --work build/export_speed
    python benchmarks/export_speed.py --work build/export_speed \
        --timm /path/to/an/environment/with/timm/bin/python

The parameters are those of the tests' reference figures (tests/fill.py), the
pictures eight crops of the two photographs of scikit-learn, other than the
views that int8 is calibrated with. Artifacts in the work folder are used
again. All runtimes take turns, with as many threads as there are cores; the
time is the median over all turns, the spread that of the middle half.
Writes benchmarks/results/export_speed.md and .json.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
SIZE = 256
JOBS = [
    ("saved_model", "float32"),
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("onnx", "int8"),
    ("tflite", "float32"),
    ("tflite", "float16"),
    ("tflite", "dynamic_int8"),
    ("tflite", "int8"),
]
# Runs timm's F0 in another environment: a line in, seconds out.
TIMM = """
import sys, time, timm, torch
torch.set_num_threads(int(sys.argv[1]))
model = timm.create_model("dm_nfnet_f0", pretrained=False).eval()
x = torch.randn(1, 3, 256, 256)
with torch.inference_mode():
    run = torch.compile(model) if sys.argv[2] == "compiled" else model
    for _ in range(3):
        run(x)
    print("ready", timm.__version__, torch.__version__, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(x)
        print(time.perf_counter() - started, flush=True)
"""


def build():
    sys.path.insert(0, str(HERE.parent / "tests"))
    from test_reference import filled

    from keras_nfnet import NFNetF0

    return filled(NFNetF0(weights=None, classifier_activation=None), 0)


def pictures():
    from keras_nfnet.data.preprocessing import evaluation_picture
    from keras_nfnet.export.comparison import photographs

    views = [
        evaluation_picture(photo[top : top + 280, left : left + 280], SIZE)
        for photo in photographs()
        for top, left in ((0, 0), (140, 0), (0, 350), (140, 350))
    ]
    return np.clip(np.stack(views), 0, 255).astype("float32")


def place(work, form, precision):
    return str(work / f"f0_{form}_{precision}")


def export(work):
    """Writes what is missing; returns seconds of conversion by job."""
    from keras_nfnet import export

    file = work / "conversions.json"
    seconds = json.loads(file.read_text()) if file.exists() else {}
    model = build()
    x = pictures()
    from keras_nfnet.export.comparison import expected

    np.save(work / "expected.npy", expected(model, x))
    for form, precision in JOBS:
        path = place(work, form, precision)
        if os.path.exists(path):
            continue
        started, cpu = time.perf_counter(), time.process_time()
        if form == "saved_model":
            report = export.to_saved_model(model, path, size=SIZE)
        elif form == "tflite":
            report = export.to_tflite(model, path, precision)
        else:
            report = export.to_onnx(model, path, precision)
        seconds[f"{form} {precision}"] = [
            time.perf_counter() - started,
            time.process_time() - cpu,
        ]
        print(report, seconds[f"{form} {precision}"], flush=True)
        file.write_text(json.dumps(seconds))
    return seconds


def runner(work, form, precision, threads):
    from keras_nfnet.export import onnx_file, saved_model, tflite

    path = place(work, form, precision)
    if form == "saved_model":
        return saved_model.runner(path)
    module = {"tflite": tflite, "onnx": onnx_file}[form]
    return module.runner(path, threads)


def timm_worker(python, threads, kind):
    process = subprocess.Popen(
        [python, "-c", TIMM, str(threads), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    versions = process.stdout.readline().split()[1:]

    def run():
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return run, versions


def measure(work, rounds, timm):
    load = os.getloadavg()[0]
    threads = os.cpu_count()
    x, wanted = pictures(), np.load(work / "expected.npy")
    timers, rows, versions = {}, {}, []
    for form, precision in JOBS:
        run = runner(work, form, precision, threads)
        got = np.concatenate([run(x[i : i + 1]) for i in range(len(x))])
        name = f"{form} {precision}"
        if form == "saved_model":
            # It has a softmax more.
            got = np.log(np.maximum(got, 1e-30))
            got = got - got.mean(-1, keepdims=True)
            target = wanted - wanted.mean(-1, keepdims=True)
        else:
            target = wanted
        from keras_nfnet.export.comparison import size_of

        rows[name] = {
            "bytes": size_of(place(work, form, precision)),
            "largest difference": float(np.abs(got - target).max()),
            "cosine": float(
                np.vdot(got, target)
                / (np.linalg.norm(got) * np.linalg.norm(target))
            ),
            "top-1 agreement": float(
                np.mean(got.argmax(-1) == target.argmax(-1))
            ),
        }

        def timed(run=run):
            started = time.perf_counter()
            run(x[:1])
            return time.perf_counter() - started

        timers[name] = timed
    for kind in ("eager", "compiled") if timm else ():
        timers[f"timm {kind}"], versions = timm_worker(timm, threads, kind)
        rows[f"timm {kind}"] = {}
    seconds = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timed in timers.items():
            timed()  # Its data comes back into the caches.
            seconds[name] += [timed(), timed()]
    for name, values in seconds.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        rows[name] |= {"seconds": middle, "low": low, "high": high}
    return rows, versions, load


def table(rows, conversions, versions, rounds, load):
    base = rows["tflite float32"]
    lines = [
        "# F0 at 256 px by format and precision",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, one "
        f"picture at a time, {2 * rounds} runs each, in turns. The ratios are "
        "to TFLite float32. Conversion: wall clock and processor seconds, "
        "comparison included. Differences, cosine and agreement are of the "
        "logits of eight pictures, with the parameters of the tests' "
        "reference figures, which are random: agreement of top-1 means "
        "little there.",
        "",
        f"Load average before the run: {load:.1f}. Above 1 other work ran "
        "beside it: times are then too long, most for runtimes whose threads "
        "wait for each other (PyTorch), and only the ratios between the "
        "others mean something.",
        "",
        "| | MB | ratio | ms per picture (middle half) | ratio | cosine | "
        "largest difference | top-1 | conversion s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        if "bytes" in row:
            cells += [
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['bytes'] / base['bytes']:.3f}",
            ]
        else:
            cells += ["", ""]
        cells += [
            f"{1e3 * row['seconds']:.1f} ({1e3 * row['low']:.1f}–"
            f"{1e3 * row['high']:.1f})",
            f"{row['seconds'] / base['seconds']:.2f}",
        ]
        if "cosine" in row:
            cells += [
                f"{row['cosine']:.6f}",
                f"{row['largest difference']:.1e}",
                f"{row['top-1 agreement']:.0%}",
                " / ".join(f"{s:.0f}" for s in conversions.get(name, [])),
            ]
        else:
            cells += ["", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    if versions:
        lines += ["", f"timm {versions[0]}, PyTorch {versions[1]}."]
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--timm", help="Python of an environment with timm")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--export-only", action="store_true", help="do not measure"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "conversions.json"
    if options.export_only or not file.exists():
        export(options.work)
    if options.export_only:
        return
    conversions = json.loads(file.read_text())
    rows, versions, load = measure(options.work, options.rounds, options.timm)
    RESULTS.mkdir(exist_ok=True)
    text = table(rows, conversions, versions, options.rounds, load)
    (RESULTS / "export_speed.md").write_text(text)
    (RESULTS / "export_speed.json").write_text(
        json.dumps(
            {"rows": rows, "conversions": conversions, "load": load}, indent=1
        )
        + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
