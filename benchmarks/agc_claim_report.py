"""Table and plot of the runs of `agc_claim.py`, and the file they are in."""

import json
import os
from collections import defaultdict

import numpy as np

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
    for row in sorted(rows, key=lambda row: (row["batch"], row["seed"])):
        groups[row["base_rate"], row["batch"], row["network"]].append(row)
    return groups


def cell(rows, seeds):
    """Mean (lowest–highest) over the seeds; what diverged is counted.

    Args:
        rows: Runs that differ in the seed alone.
        seeds: How many there are to be; fewer are said to be so.
    """
    if not rows:
        return "–"
    values = _accuracies(rows)
    diverged = len(rows) - len(values)
    parts = []
    if values:
        parts.append(f"{sum(values) / len(values):.1f}")
        if len(values) > 1:
            parts[0] += f" ({min(values):.1f}–{max(values):.1f})"
    if diverged:
        parts.append(f"NaN in {diverged} of {len(rows)}")
    if len(rows) < seeds:
        parts.append(f"{len(rows)} of {seeds} seeds run")
    return ", ".join(parts)


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
                + " | ".join(cell(group, len(seeds)) for group in cells)
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
        f"{cpu_seconds:.0f} s of processor time, with the workers' imports "
        f"and tracing: {cpu_seconds / 120:.1f} minutes on 2 cores (not by "
        "the clock, since the machine may do other work)",
    ]
    return "\n".join(lines) + "\n"


def plot(path, rows):
    """Accuracy over batch size, one panel a base rate; below, what diverged.

    Args:
        path: The PNG file.
        rows: The runs.
    """
    from matplotlib.figure import Figure

    bases = sorted({row["base_rate"] for row in rows})
    figure = Figure(
        figsize=(2.2 + 5.4 * len(bases), 6.6), layout="constrained", dpi=120
    )
    axes = figure.subplots(
        2,
        len(bases),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=(6, 1),
    )
    for (upper, lower), base in zip(axes.T, bases, strict=True):
        groups = [
            group for key, group in grouped(rows).items() if key[0] == base
        ]
        _draw_accuracy(upper, groups)
        _draw_diverged(lower, groups)
        _label_batches(upper, lower, groups, base)
    axes[0, 0].set_ylabel("accuracy on held-out digits (%)")
    axes[1, 0].set_ylabel("diverged")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(NAMES),
    )
    figure.suptitle("Mean (line) and each seed (points)")
    write(path, figure.savefig)


def _draw_accuracy(axis, groups):
    # Errors on a logarithmic scale: 10% and 99% are both to be read.
    axis.set_yscale("function", functions=(_to_scale, _from_scale))
    axis.set_ylim(0, 100)
    axis.set_yticks([10, 50, 80, 90, 95, 98, 99, 100])
    axis.grid(alpha=0.25)
    axis.axhline(10, color="0.6", linewidth=0.8, linestyle=":")
    for network, (color, marker, shift) in _STYLES.items():
        xs, means = [], []
        for group in groups:
            if group[0]["network"] != network:
                continue
            x = group[0]["batch"] * shift
            finite = _accuracies(group)
            axis.plot([x] * len(finite), finite, marker, color=color, alpha=0.5)
            # A mean without the seeds that diverged would flatter: the line
            # ends there.
            whole = len(finite) == len(group)
            xs.append(x)
            means.append(sum(finite) / len(finite) if whole else float("nan"))
        axis.plot(xs, means, color=color, label=NAMES[network])


def _draw_diverged(axis, groups):
    networks = list(_STYLES)
    axis.set_ylim(len(networks) - 0.4, -0.6)
    axis.set_yticks([])
    for group in groups:
        diverged = len(group) - len(_accuracies(group))
        if diverged:
            network = group[0]["network"]
            axis.text(
                group[0]["batch"],
                networks.index(network),
                f"× {diverged} of {len(group)}",
                color=_STYLES[network][0],
                ha="center",
                va="center",
                fontsize=9,
            )


def _label_batches(upper, lower, groups, base):
    batches = sorted({group[0]["batch"] for group in groups})
    rates = [f"{base * batch / 256:.3g}" for batch in batches]
    upper.set_xscale("log", base=2)
    upper.set_xlim(batches[0] / 1.5, batches[-1] * 1.5)
    lower.set_xticks(batches, [str(batch) for batch in batches])
    lower.set_xlabel("batch size")
    top = upper.secondary_xaxis("top")
    top.set_xticks(batches, rates)
    top.set_xticks([], minor=True)
    top.set_xlabel(f"learning rate = {base:g} · batch / 256")


def _accuracies(rows):
    return [100 * r["accuracy"] for r in rows if r["accuracy"] is not None]


def _to_scale(accuracy):
    # 0.4 keeps 100% on the axis: one error of 360 is 0.28.
    return -np.log10(np.maximum(100.4 - np.asarray(accuracy), 1e-3))


def _from_scale(value):
    return 100.4 - 10.0 ** -np.asarray(value)
