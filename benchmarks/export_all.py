"""Exports variants to all three formats in float32, and compares.

    python benchmarks/export_all.py --work build/export_all F0 F1 F2
    python benchmarks/export_all.py --work build/export_all   # F0 … F6

Each variant and format in a process of its own, at the variant's training
size, with the parameters of the tests' reference figures (tests/fill.py),
which give logits of about 1. Each artifact is removed after its row is
written; rows that are there are not made again. F6 needs about 11 GB of
memory. Writes benchmarks/results/export_all.md and .jsonl.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
FORMATS = ("saved_model", "tflite", "onnx")


def export(variant, form, path):
    """One export, in this process; prints its row as JSON."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from test_reference import filled

    import keras_nfnet

    model = filled(
        keras_nfnet.NFNet(variant, weights=None, classifier_activation=None), 0
    )
    size = keras_nfnet.VARIANTS[variant].train_size
    write = getattr(keras_nfnet.export, f"to_{form}")
    started, cpu = time.perf_counter(), time.process_time()
    report = write(model, path, size=size, overwrite=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row = {
        "variant": variant,
        "format": form,
        "parameters": model.count_params(),
        "size": size,
        "bytes": report.size,
        "largest difference": report.largest_difference,
        "top-1 agreement": report.top1_agreement,
        "seconds": time.perf_counter() - started,
        "processor seconds": time.process_time() - cpu,
        "peak bytes": usage.ru_maxrss * 1024,
    }
    print("ROW " + json.dumps(row), flush=True)


def table(rows):
    lines = [
        "# Every variant in every format, float32",
        "",
        "Four pictures, two real and two made, at batch 1 and 3, at the "
        "variant's training size, by each format's own runtime against the "
        "Keras model. SavedModel: of probabilities; the others: of logits of "
        "about 1. Seconds of folding, conversion and comparison on "
        f"{os.cpu_count()} cores: wall clock / processor.",
        "",
        "| | format | px | MB | of the parameters | largest difference | "
        "top-1 | s | peak GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row["bytes"] / (4 * row["parameters"])
        lines.append(
            f"| {row['variant']} | {row['format']} | {row['size']} | "
            f"{row['bytes'] / 1e6:.1f} | {share:.3f} | "
            f"{row['largest difference']:.1e} | "
            f"{row['top-1 agreement']:.0%} | {row['seconds']:.0f} / "
            f"{row['processor seconds']:.0f} | {row['peak bytes'] / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return export(*options.variants, options.one, str(options.work))
    options.work.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "export_all.jsonl"
    rows = []
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    for variant in options.variants or [f"F{n}" for n in range(7)]:
        for form in options.formats:
            key = (variant, form)
            if key in {(row["variant"], row["format"]) for row in rows}:
                continue
            place = options.work / f"{variant}_{form}"
            command = [sys.executable, __file__, variant, "--one", form]
            done = subprocess.run(
                [*command, "--work", str(place)],
                stdout=subprocess.PIPE,
                text=True,
            )
            found = [x for x in done.stdout.splitlines() if x[:4] == "ROW "]
            if done.returncode or not found:
                print(f"{variant} {form} failed: {done.returncode}")
                continue
            print(found[0], flush=True)
            rows.append(json.loads(found[0][4:]))
            rows.sort(key=lambda row: (row["variant"], row["format"]))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            (RESULTS / "export_all.md").write_text(table(rows))
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
