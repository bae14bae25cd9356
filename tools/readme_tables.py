"""Fills the tables of the README and of the site's page of results.

    python tools/readme_tables.py            writes them
    python tools/readme_tables.py --check    exit status 1 if one would change

A table stands between `<!-- table NAME -->` and `<!-- end -->`; what it says
comes from the function of that name below, and from nowhere else.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Links in the tables are the README's; what they are elsewhere.
FILES = {
    ROOT / "README.md": {},
    ROOT / "docs" / "results" / "index.md": {
        "](benchmarks/results/": "](",
        "](docs/": "](../",
    },
}
RESULTS = ROOT / "benchmarks" / "results"
_TABLE = re.compile(
    r"(<!-- table (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def read(name):
    text = (RESULTS / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def link(text, name):
    return f"[{text}](benchmarks/results/{name}.md)"


def spread(values, form=".2f"):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def rows(heads, body):
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    return lines + ["| " + " | ".join(row) + " |" for row in body]


def models():
    from keras_nfnet.diagnostics import variant_table

    return rows(
        ("", "parameters", "test px", "GMACs", "top-1 of the publisher"),
        [
            (
                f"[{row['variant']}](docs/models/{row['variant'].lower()}.md)",
                f"{row['parameters']:,}",
                f"{row['test_size']}",
                f"{row['test_gmacs']:.2f}",
                f"{row['top1']:g}",
            )
            for row in variant_table()
            if row["weights"]
        ],
    )


def exactness():
    result = read("exactness.json")

    def largest(*cases, of=None):
        return [
            "{:.1e}".format(
                max(
                    error
                    for case in cases
                    for what, error in found[case].items()
                    if of is None or what in of
                )
            )
            for found in result["backends"].values()
        ]

    networks = [name for name in result["backends"]["jax"] if "px" in name]
    signal = ("avg_sq_mean", "avg_var", "res_avg_var")
    features = ("norm of the logits", "norm of the pooled features")
    return rows(
        ("largest relative difference from the authors' code", *("TF", "JAX")),
        [
            *(
                (f"{name}: logits", *largest(name, of=("logits",)))
                for name in networks
            ),
            ("norms of logits and features", *largest(*networks, of=features)),
            ("signal after every block", *largest(*networks, of=signal)),
            (
                "20 training steps: losses, rates, final weights and logits",
                *largest("20 training steps"),
            ),
        ],
    )


def others():
    result = read("exactness.json")
    changes = dict(result["deviations"])
    ours = changes.pop("none")
    return rows(
        ("F0's logits, relative difference from the authors'", ""),
        [
            ("this package", f"{ours:.0e}"),
            ("timm's arithmetic with the same values", f"{result['timm']:.1%}"),
            *(
                (f"ours, with {name}", f"{change:.2%}")
                for name, change in changes.items()
            ),
        ],
    )


def speed():
    exports = read("export_speed.json")["rows"]
    timm = exports["timm compiled"]["seconds"]
    base, int8 = exports["tflite float32"], exports["tflite dynamic_int8"]

    def export(name):
        return f"{1e3 * exports[name]['seconds']:.0f}"

    data, cost, build = (
        read(f"{name}.json") for name in ("data_speed", "agc_cost", "build")
    )
    digits = read("export_digits.json")["exports"].values()
    agreements = [row["agreement"] for row in digits]
    ours, alone, theirs = (
        [turn[0] for turn in data["turns"][name] if turn]
        for name in ("keras_nfnet", "keras_nfnet, not mixed", "timm")
    )
    steps = cost["seconds"]
    imports = [ours / keras for keras, ours in build["imports"]]
    builds = build["builds"]
    body = [
        (
            link("F0 at 256 px, one image, ms", "export_speed"),
            f"LiteRT {export('tflite float32')}, "
            f"ONNX Runtime {export('onnx float32')}, "
            f"SavedModel {export('saved_model float32')}",
            f"timm compiled {1e3 * timm:.0f}, eager {export('timm eager')}",
        ),
        (
            "the same in int8, ms",
            f"LiteRT dynamic {export('tflite dynamic_int8')}, "
            f"calibrated {export('tflite int8')}, "
            f"ONNX Runtime {export('onnx int8')}",
            f"float32 LiteRT {export('tflite float32')}",
        ),
        (
            "dynamic int8 in LiteRT over float32: size; cosine of the logits",
            f"{int8['bytes'] / base['bytes']:.3f}; {int8['cosine']:.4f}",
            "",
        ),
        (
            link("the digits network's top-1 in its exports", "export_digits"),
            f"{min(agreements):.1%}–{max(agreements):.1%} the model's",
            "",
        ),
        (
            link("training images decoded a second, 192 px", "data_speed"),
            f"mixed of two {2 * statistics.median(ours):.0f}, not mixed "
            f"{statistics.median(alone):.0f}",
            f"timm {statistics.median(theirs):.0f}",
        ),
        (
            link("a step of F0 with AGC, s", "agc_cost"),
            spread(steps["with"]),
            f"without {spread(steps['without'])}",
        ),
        (
            link("`import keras_nfnet` over `import keras`", "build"),
            spread(imports),
            "",
        ),
        *(
            (
                f"build of {name}, s; memory over the parameters",
                f"{spread([s for s, _ in builds[name]])}; "
                f"{statistics.median(m for _, m in builds[name]) - 1:.0%}",
                "",
            )
            for name in builds
        ),
    ]
    return rows(("", "this package", "beside"), body)


def exports():
    made = read("export_all.jsonl")
    formats = {"saved_model": "SavedModel", "tflite": "TFLite", "onnx": "ONNX"}
    body = []
    for variant in dict.fromkeys(row["variant"] for row in made):
        cells = [variant]
        for form in formats:
            (row,) = [
                row
                for row in made
                if (row["variant"], row["format"]) == (variant, form)
            ]
            cells.append(
                f"{row['largest difference']:.0e}, "
                f"{row['top-1 agreement']:.0%}, {row['seconds']:.0f} s"
            )
        body.append(cells)
    return rows(("", *formats.values()), body)


def faults():
    engines = read("checkpoint_engines.json")["engines"]
    body = []
    for row in read("faults/kills.json")["rows"]:
        came = ", ".join(
            f"{number} {what}" for what, number in row["outcomes"].items()
        )
        measured = f"; {row['measured']}" if row["measured"] else ""
        body.append(
            (
                f"[a run, {row['injected']}](docs/reliability.md)",
                f"{came}{measured}",
            )
        )
    for kind, title in (
        ("random kills", "`kill -9` at random"),
        ("kills in saves", "`kill -9` while a checkpoint is written"),
    ):
        found = engines["ours"][kind]
        body.append(
            (
                link(f"checkpoints: {title}", "checkpoint_engines"),
                f"{found['newest']} of {found['kills']} restored the newest, "
                f"{found['lost']} lost",
            )
        )
    for kind, title in (("flips", "flipped bits"), ("truncations", "cuts")):
        found = engines["ours"][kind]
        body.append(
            (
                f"checkpoints: {title} in the newest",
                f"{found['older']} of {sum(found.values())} noticed and the "
                f"one before it taken, {found['silent']} accepted wrongly "
                f"(Orbax: {engines['orbax'][kind]['silent']})",
            )
        )
    served = read("faults/serving.json")["rows"][0]
    came = served["outcomes"]
    right = sum(n for name, n in came.items() if name.startswith("right"))
    refused = came["junk refused"]
    body.append(
        (
            "[requests to a served model, 8 clients, 1% junk, a version "
            "swapped](docs/reliability.md)",
            f"{right:,} right, {refused:,} junk ones refused, "
            f"{sum(came.values()) - right - refused} otherwise; "
            f"{served['measured']}",
        )
    )
    return rows(("", ""), body)


def measured():
    exact = read("exactness.json")
    runs = [
        row
        for row in read("agc_claim.jsonl")
        if (row["base_rate"], row["batch"]) == (0.1, 512)
    ]
    accuracy = {
        name: statistics.mean(
            row["accuracy"] for row in runs if row["network"] == name
        )
        for name in ("agc", "bn")
    }
    others = [row for row in runs if row["network"] == "no_agc"]
    diverged = sum(row["diverged_at"] is not None for row in others)
    killed = {"killed": 0, "same bits": 0}
    for row in read("faults/kills.json")["rows"]:
        if row["injected"].startswith("kill -9"):
            killed["killed"] += sum(row["outcomes"].values())
            killed["same bits"] += row["outcomes"]["same bits"]
    times = ("F0 at 256", "int8, ms", "training images")
    return rows(
        ("", "this package", "beside"),
        [
            (
                link("F0's logits: difference from the authors'", "exactness"),
                f"{exact['deviations']['none']:.0e}",
                f"timm's arithmetic {exact['timm']:.1%}",
            ),
            (
                link("digits, batch 512, base rate 0.1: accuracy", "agc_claim"),
                f"{accuracy['agc']:.1%} with AGC",
                f"without: NaN in {diverged} of {len(others)} runs; "
                f"batch-normalized: {accuracy['bn']:.1%}",
            ),
            (
                "[runs killed, then resumed](docs/reliability.md)",
                f"{killed['same bits']} of {killed['killed']} ended in the "
                "bits of an undisturbed run",
                "",
            ),
        ],
    ) + [line for line in speed() if any(what in line for what in times)]


TABLES = (models, measured, exactness, others, speed, exports, faults)


def filled(path):
    """The text of one of `FILES`, its tables filled."""
    tables = {table.__name__: table for table in TABLES}

    def fill(match):
        text = "\n".join(tables[match["name"]]())
        for old, new in FILES[path].items():
            text = text.replace(old, new)
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return _TABLE.sub(fill, path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    status = 0
    for path in FILES:
        new = filled(path)
        if not options.check:
            path.write_text(new, encoding="utf-8")
        elif new != path.read_text(encoding="utf-8"):
            print(f"{path.name} is not what its tables' sources say")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
