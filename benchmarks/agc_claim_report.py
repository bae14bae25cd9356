"""Table and plot of the runs of `agc_claim.py`, and the file they are in."""

import json
import os
from collections import defaultdict

NAMES = {
    "agc": "NF with AGC",
    "no_agc": "NF without AGC",
    "bn": "batch-normalized twin",
}
# Okabe and Ito's colours, told apart by colour-blind readers too.
_STYLES = {
    "agc": ("#0072B2", "o", 0.94),
    "no_agc": ("#D55E00", "s", 1.0),
    "bn": ("#009E73", "^", 1.06),
}


def read(path):
    """The runs in a JSON-lines file; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write(path, content):
    """Writes a text or what a function writes to a path, whole or not."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    if callable(content):
        content(part)
    else:
        part.write_text(content, encoding="utf-8")
    os.replace(part, path)


def key(row):
    """What tells a run from the others of its setting."""
    return row["network"], row["base_rate"], row["batch"], row["seed"]


def describe(row):
    """A run in a few words, for the progress bar."""
    result = (
        f"NaN at step {row['diverged_at']}"
        if row["accuracy"] is None
        else f"{100 * row['accuracy']:.1f}%"
    )
    return f"{row['network']} {row['batch']} seed {row['seed']}: {result}"


def grouped(rows):
    """Runs by `(base rate, batch, network)`, each a list over the seeds."""
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups[row["base_rate"], row["batch"], row["network"]].append(row)
    return groups


def cell(rows):
    """Mean (lowest–highest) over the seeds; what diverged is counted."""
    if not rows:
        return "–"
    values = [100 * r["accuracy"] for r in rows if r["accuracy"] is not None]
    diverged = len(rows) - len(values)
    if not values:
        return f"NaN in {diverged} of {len(rows)}"
    text = f"{sum(values) / len(values):.1f}"
    if len(values) > 1:
        text += f" ({min(values):.1f}–{max(values):.1f})"
    if diverged:
        text += f", NaN in {diverged} of {len(rows)}"
    return text


def table(rows):
    """The whole report as Markdown."""
    groups = grouped(rows)
    setting, versions = rows[-1]["setting"], rows[-1]["versions"]
    parameters = {row["network"]: row["parameters"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    cpu_seconds = sum(row["cpu_seconds"] for row in rows)
    lines = [
        "# AGC over batch sizes, at the linear scaling rule",
        "",
        "Written by `benchmarks/agc_claim.py`, whose first lines say what "
        "was done. Accuracy in % on "
        f"{rows[-1]['test_examples']} held-out digits after the last step: "
        "mean (lowest–highest) over the seeds "
        f"{', '.join(map(str, seeds))}. A run with a loss, a gradient or a "
        "logit that was not finite is counted as NaN and is in no mean; "
        "chance is 10%.",
        "",
    ]
    for base_rate in sorted({base for base, _, _ in groups}):
        batches = sorted({b for base, b, _ in groups if base == base_rate})
        lines += [
            f"## Base rate {base_rate:g} at batch 256",
            "",
            "| batch | learning rate | steps | "
            + " | ".join(NAMES.values())
            + " |",
            "|---:|---:|---:|" + "---|" * len(NAMES),
        ]
        for batch in batches:
            cells = [groups.get((base_rate, batch, name), []) for name in NAMES]
            first = next(group[0] for group in cells if group)
            lines.append(
                f"| {batch} | {first['learning_rate']:g} | {first['steps']} | "
                + " | ".join(cell(group) for group in cells)
                + " |"
            )
        lines.append("")
    lines += ["## Setting", ""]
    lines += [
        "- trainable parameters: "
        + ", ".join(
            f"{NAMES[name]} {parameters[name]:,}"
            for name in NAMES
            if name in parameters
        ),
        "- "
        + ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in setting.items()
        ),
        "- " + ", ".join(f"{name} {value}" for name, value in versions.items()),
        f"- {len(rows)} runs of one thread each, together "
        f"{cpu_seconds:.0f} s of processor time, imports and tracing "
        f"included: {cpu_seconds / 120:.1f} minutes on 2 cores",
    ]
    return "\n".join(lines) + "\n"


def plot(path, rows):
    """Accuracy over batch size, one panel a base rate.

    Args:
        path: The PNG file.
        rows: The runs.
    """
    from matplotlib.figure import Figure

    bases = sorted({row["base_rate"] for row in rows})
    figure = Figure(
        figsize=(2.2 + 6.3 * len(bases), 6.2), layout="constrained", dpi=130
    )
    axes = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    for axis, base in zip(axes, bases, strict=True):
        _panel(axis, base, [row for row in rows if row["base_rate"] == base])
    axes[0].set_ylabel("accuracy on held-out digits (%)")
    axes[0].legend(loc="lower left", bbox_to_anchor=(0.01, 0.09))
    figure.suptitle(
        "NF network with and without AGC, and its batch-normalized twin",
        fontsize=13,
    )
    write(path, figure.savefig)


def _panel(axis, base, rows):
    # Errors on a logarithmic scale: 10% and 99% are both to be read.
    axis.set_yscale("function", functions=(_to_scale, _from_scale))
    axis.set_ylim(1.2, 100)
    axis.set_yticks([10, 50, 80, 90, 95, 98, 99, 100])
    axis.set_xscale("log", base=2)
    batches = sorted({row["batch"] for row in rows})
    axis.set_xticks(batches, [str(batch) for batch in batches], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlim(batches[0] / 1.4, batches[-1] * 1.4)
    axis.set_xlabel("batch size")
    rates = axis.secondary_xaxis("top")
    rates.set_xticks(
        batches, [f"{base * batch / 256:g}" for batch in batches], minor=False
    )
    rates.set_xticks([], minor=True)
    rates.set_xlabel(f"learning rate = {base:g} · batch / 256")
    axis.grid(alpha=0.25)
    axis.axhspan(1.2, 6, color="0.92", zorder=0)
    axis.axhline(10, color="0.6", linewidth=0.8, linestyle=":")
    axis.text(batches[0] / 1.35, 3.6, "diverged (NaN)", va="center", fontsize=9)

    groups = grouped(rows)
    for network, (color, marker, shift) in _STYLES.items():
        xs, means = [], []
        for batch in batches:
            group = groups.get((base, batch, network), [])
            x = batch * shift
            finite = [
                100 * r["accuracy"] for r in group if r["accuracy"] is not None
            ]
            for number in range(len(group) - len(finite)):
                axis.plot(x, 5.2 - 1.6 * number, "x", color=color, ms=7)
            axis.plot(
                [x] * len(finite),
                finite,
                marker,
                color=color,
                ms=5,
                alpha=0.55,
                mec="none",
            )
            if finite:
                axis.vlines(x, min(finite), max(finite), color=color, lw=1.5)
            # A mean without the seeds that diverged would be none of the
            # network: the line ends there.
            full = len(finite) == len(group) and finite
            xs.append(x)
            means.append(sum(finite) / len(finite) if full else float("nan"))
        axis.plot(xs, means, color=color, lw=1.8, label=NAMES[network])


def _to_scale(accuracy):
    import numpy as np

    # 0.4 keeps 100% on the axis: one error of 360 is 0.28.
    return -np.log10(np.maximum(100.4 - np.asarray(accuracy), 1e-3))


def _from_scale(value):
    import numpy as np

    return 100.4 - 10.0 ** -np.asarray(value)
