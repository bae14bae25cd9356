"""One training step of F0 beside timm's, AGC in both, on this CPU.

    .venv-rivals/bin/python benchmarks/training_rivals.py
    .venv-rivals/bin/python benchmarks/training_rivals.py --minutes 20 \
        --settings 256x4

in the environment of `make bench-rivals`. Ours on Keras's three backends and
its batch-normalized twin, timm's eager and compiled, in float32 and bfloat16,
take turns in processes of their own, in another order in every round, until
the minutes are over. The same command goes on where it was stopped; `--anew`
begins again. Writes benchmarks/results/training_rivals.jsonl and .md.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training_rivals.jsonl"
# Pixels and images of a step → runs before those that are timed, and those.
SETTINGS = {"256x4": (2, 3), "192x32": (1, 1)}
# Below so many bytes of free memory a process is ended: a step needs more
# than an answer.
ENOUGH = 13e9


def runtimes(size, batch):
    """`{name: what a process takes}`."""
    base = {"shape": [size, size, 3], "first": batch}
    base["threads"] = os.cpu_count()
    theirs = base | {"runtime": "timm", "seen": "normalized channels first"}
    found = {
        f"timm {'compiled' if compiled else 'eager'} {dtype}": theirs
        | {"compiled": compiled, "dtype": dtype}
        for dtype in ("float32", "bfloat16")
        for compiled in (False, True)
    }
    own = base | {"runtime": "ours", "seen": "normalized"}
    for backend in ("tensorflow", "jax", "torch"):
        for dtype in ("float32", "bfloat16"):
            name = f"keras_nfnet {backend} {dtype}"
            found[name] = own | {"backend": backend, "dtype": dtype}
    for name, more in (
        ("keras_nfnet tensorflow float32, without AGC", {"clipping": None}),
        ("batch-normalized twin, tensorflow float32", {"twin": True}),
    ):
        found[name] = own | {"backend": "tensorflow"} | more
    return found


# ---- in a process of its own ----


def ours(threads, backend, dtype="float32", clipping=0.01, twin=False):
    os.environ["KERAS_BACKEND"] = backend
    import keras
    import numpy as np

    import keras_nfnet
    from keras_nfnet.diagnostics.batch_normalized_twin import (
        batch_normalized_twin,
    )

    yield "imported"
    if dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    if twin:
        config = dataclasses.replace(
            keras_nfnet.VARIANTS["F0"], drop_rate=0.0, stochastic_depth_rate=0.0
        )
        model = batch_normalized_twin(config, (None, None, 3), 1000)
    else:
        model = keras_nfnet.NFNetF0(
            weights=None, classifier_activation=None, stochastic_depth_rate=0.25
        )
    optimizer = (
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
        if twin
        else keras_nfnet.SGDAGC(0.1, clipping=clipping)
    )
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
    )
    yield lambda x: model.train_on_batch(
        x, np.eye(1000, dtype="float32")[: len(x)]
    )


def timm(threads, compiled, dtype):
    import timm
    import torch
    from timm.utils.agc import adaptive_clip_grad

    yield "imported"
    torch.set_num_threads(threads)
    model = timm.create_model("dm_nfnet_f0", drop_path_rate=0.25)
    model = model.to(memory_format=torch.channels_last)
    clipped = [p for n, p in model.named_parameters() if "head.fc" not in n]
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, 0.9, weight_decay=2e-5, nesterov=True
    )

    def forward(x, y):
        return loss(model(x), y)

    if compiled:
        forward = torch.compile(forward)

    def run(x):
        x = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, dtype == "bfloat16"):
            value = forward(x, torch.arange(len(x)))
        value.backward()
        adaptive_clip_grad(clipped, 0.01)
        optimizer.step()
        return float(value.detach())

    yield run


def work():
    """The process of one runtime: `bench/worker.py` with these loaders."""
    path = HERE.parent / "keras_nfnet" / "bench" / "worker.py"
    spec = importlib.util.spec_from_file_location("worker", path)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.LOADERS = {"ours": ours, "timm": timm}
    worker.main()


# ---- measuring and the page ----


def measure(setting, minutes, most):
    from rivals import machine, versions

    from keras_nfnet.bench.turns import Workers

    size, batch = map(int, setting.split("x"))
    warm, least = SETTINGS[setting]
    say = functools.partial(print, flush=True)
    end, longest = time.monotonic() + 60 * minutes, 0
    with Workers(runtimes(size, batch), say, __file__, ENOUGH) as workers:
        for count in range(most):
            if count and time.monotonic() + longest > end:
                break
            began = time.monotonic()
            found = workers.take_turns(
                [batch], 0, len(read(setting)), least=least, warm=warm
            )
            found |= {"setting": setting, "machine": machine()}
            found["versions"] = versions()
            with open(RESULTS, "a") as file:
                file.write(json.dumps(found) + "\n")
            RESULTS.with_suffix(".md").write_text(page())
            longest = time.monotonic() - began


def read(setting):
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [x for x in map(json.loads, lines) if x["setting"] == setting]


def page():
    from rivals import markdown

    from keras_nfnet.bench.turns import ratios, spread

    lines = [
        "# A training step of F0 beside timm's",
        "",
        "Written by `benchmarks/training_rivals.py`. SGD with Nesterov "
        "momentum, weight decay, AGC, label smoothing and stochastic depth "
        "0.25 in all but the twin, which has batch normalization instead of "
        "standardization, and no AGC and stochastic depth. Ratios: of two "
        "steps of the same round, to timm's fastest. First step and memory: "
        "from the start of the process to its end, imports, tracing and "
        "compiling in it.",
    ]
    newest = None
    for setting in SETTINGS:
        rounds = read(setting)
        if not rounds:
            continue
        newest = rounds[-1]
        size, batch = setting.split("x")

        def times(name, rounds=rounds, batch=batch):
            return [
                x["times"][name][batch] for x in rounds if name in x["times"]
            ]

        names = [
            name for name in runtimes(int(size), int(batch)) if times(name)
        ]
        best = min(
            (name for name in names if name.startswith("timm")),
            key=lambda name: spread(times(name))[0],
            default=None,
        )
        others = [x["other"] for x in rounds if x["other"] is not None]
        lines += ["", f"## {size} px, batch {batch}", ""]
        lines.append(
            f"{len(rounds)} rounds; other work used up to "
            f"{max(others, default=0):.2f} cores."
        )
        body = []
        for name in names:
            cells = [name]
            for values in (
                times(name),
                ratios(rounds, name, best, batch) if best else [],
            ):
                middle, low, high = spread(values) if values else (0, 0, 0)
                cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
            starts = [x["starts"][name] for x in rounds if name in x["starts"]]
            for key, form in (("answered", ".0f"), ("megabytes", ".0f")):
                values = [start[key] for start in starts]
                cells.append(f"{spread(values)[0]:{form}}")
            body.append(cells)
        for name, why in rounds[-1]["failed"].items():
            body.append([name, f"failed: {why}"[:80], "", "", ""])
        heads = ["", "s", "ratio", "first step, s", "MB"]
        lines += ["", *markdown(heads, body)]
    lines += [
        "",
        "## Why",
        "",
        "In bfloat16 three fifths of the time of the [operations in a "
        "step](training_profile.md) are convolutions. The rest goes over "
        "memory: GELU and its gradient are a kernel each in PyTorch, and "
        "several element-wise operations in TensorFlow, as SGD with momentum "
        "and the standardization are. "
        "Element-wise kernels that XLA fuses "
        "(`TF_XLA_FLAGS=--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit "
        "--tf_xla_ops_to_cluster=PW,RED,PWRED`) made the step longer, when "
        "tried: 1.32 s against 1.22 in float32, 0.97 against 0.96 in bfloat16. "
        "JAX and PyTorch were not profiled.",
    ]
    if newest:
        text = ", ".join(f"{k} {v}" for k, v in newest["versions"].items())
        lines += ["", newest["machine"], "", text + "."]
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS)
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    if options.anew:
        RESULTS.unlink(missing_ok=True)
    for setting in options.settings:
        minutes = options.minutes / len(options.settings)
        measure(setting, minutes, options.rounds)
    print(page())


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        work()
    else:
        main()
