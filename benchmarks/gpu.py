"""Training and inference on one GPU beside timm's, in bfloat16.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --networks F0 --batches 64 --sides jax timm
    python benchmarks/gpu.py --small --sides jax        on a CPU, in a minute

Ours on Keras's JAX and PyTorch backends, timm's compiled with channels last;
each network, batch and side in a process of its own, in turns, in another
order in every round. Images a second, and the share of the chip's matrix
peak that the multiplications of the network make up, three times as many in
a training step. Then the grouped convolution, standardization and AGC by
themselves. `--small` is a narrow network of 32 px, to see that all of it
runs. Writes benchmarks/results/gpu.jsonl, round by round, and gpu.md; the
same command goes on where it was stopped.

NOTE: has not been run on a GPU, since none could be had.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

RESULTS = pathlib.Path(__file__).parent / "results" / "gpu.jsonl"
# Name → timm's, the sides in pixels of training and of inference.
NETWORKS = {
    "F0": ("dm_nfnet_f0", 192, 256),
    "F1": ("dm_nfnet_f1", 224, 320),
    "eca_nfnet_l0": ("eca_nfnet_l0", 224, 288),
    "small": (None, 32, 32),
}
SIDES = ("jax", "torch", "timm")
BATCHES = (32, 64, 128, 256)
KINDS = ("training", "inference", "grouped", "standardize", "agc")
# Dense bfloat16 (T4, V100: float16) of the makers' data sheets, TFLOP/s.
PEAKS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "B200": 2250, "A100": 312,
    "L40S": 362, "L4": 121, "A10": 125, "V100": 125, "T4": 65, "4090": 165,
}  # fmt: skip


def network(name, size):
    import keras_nfnet

    config = name
    if name == "small":
        config = keras_nfnet.NFNetConfig((32,), (1,), group_width=16)
    return keras_nfnet.NFNet(
        config,
        weights=None,
        classifier_activation=None,
        input_shape=(size, size, 3),
    )


def ours(kind, name, batch):
    """A function that does it once and waits; on the backend in use."""
    import keras
    import numpy as np

    import keras_nfnet

    _, training_size, size = NETWORKS[name]
    random = np.random.default_rng(0)
    if kind == "training":
        size = training_size
    x = random.standard_normal((batch, size, size, 3)).astype("float32")
    if kind == "grouped":
        shape, groups = grouped_shape(name, size)
        return compiled(
            lambda x, kernel: grouped(x, kernel, groups),
            random.standard_normal((batch, *shape)),
            random.standard_normal((3, 3, shape[-1] // groups, shape[-1])),
        )
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(name, size)
    finally:
        keras.config.set_dtype_policy("float32")
    if kind == "inference":
        x = keras.ops.convert_to_tensor(x)
        folded = keras_nfnet.fold(model)
        return lambda: waited(folded.predict_on_batch(x))
    if kind == "training":
        y = np.eye(1000, dtype="float32")[random.integers(0, 1000, batch)]
        model.compile(
            keras_nfnet.SGDAGC(0.1, weight_decay=2e-5),
            keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=0.1
            ),
        )
        x, y = map(keras.ops.convert_to_tensor, (x, y))
        return lambda: waited(model.train_on_batch(x, y))
    layers = [
        layer
        for layer in model._flatten_layers()
        if hasattr(layer, "standardized_kernel")
    ]
    kernels = [keras.ops.copy(layer.kernel) for layer in layers]
    if kind == "standardize":
        from keras_nfnet.layers.convolution import standardize

        return compiled(
            lambda *kernels: [standardize(kernel) for kernel in kernels],
            *kernels,
        )
    return compiled(
        lambda *kernels: [
            keras_nfnet.adaptive_clip(kernel * 0.1, kernel)
            for kernel in kernels
        ],
        *kernels,
    )


def grouped_shape(name, size):
    """The image of the network's largest stage, and its groups."""
    if name == "small":
        return (4, 4, 32), 2
    if name == "eca_nfnet_l0":
        return (size // 16, size // 16, 384), 6
    return (size // 16, size // 16, 768), 6


def grouped(x, kernel, groups):
    import keras

    from keras_nfnet.layers.grouped_convolution import convolve

    x, kernel = (keras.ops.cast(value, "bfloat16") for value in (x, kernel))
    return convolve(x, kernel, 1, "same", groups)


def compiled(function, *values):
    """A function of nothing that runs a compiled one of fixed tensors."""
    import keras

    values = [keras.ops.convert_to_tensor(v, "float32") for v in values]
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        function = jax.jit(function)
    elif backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)
    else:
        import torch

        if torch.cuda.is_available():
            function = torch.compile(function)
    return lambda: waited(function(*values))


def waited(values):
    """Waits until what was computed is there."""
    if type(values).__module__.startswith("torch") or (
        "torch" in sys.modules and "jax" not in sys.modules
    ):
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    elif "jax" in sys.modules:
        import jax

        jax.block_until_ready(values)


def theirs(kind, name, batch):
    """The same of timm's network, on the GPU if there is one."""
    import timm
    import torch
    from timm.utils.agc import adaptive_clip_grad

    device = "cuda" if torch.cuda.is_available() else "cpu"
    timm_name, training_size, size = NETWORKS[name]
    if kind == "training":
        size = training_size
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.to(memory_format=torch.channels_last)
    half = torch.autocast(device, torch.bfloat16)
    if kind == "grouped":
        (side, _, channels), groups = grouped_shape(name, size)
        layer = torch.nn.Conv2d(
            channels, channels, 3, padding=1, groups=groups, device=device
        ).to(torch.bfloat16, memory_format=torch.channels_last)
        x = torch.randn(batch, channels, side, side, device=device)
        x = x.to(torch.bfloat16, memory_format=torch.channels_last)
        layer = torch.compile(layer)
        return lambda: waited(layer(x))
    model = timm.create_model(timm_name).to(device)
    model = model.to(memory_format=torch.channels_last)
    if kind == "inference":
        model = torch.compile(model.eval(), mode="max-autotune")

        def infer():
            with torch.no_grad(), half:
                return model(x)

        return lambda: waited(infer())
    if kind == "training":
        y = torch.randint(0, 1000, (batch,), device=device)
        loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        optimizer = torch.optim.SGD(
            model.parameters(), 0.1, 0.9, weight_decay=2e-5, nesterov=True
        )
        forward = torch.compile(lambda x, y: loss(model(x), y))

        def step():
            optimizer.zero_grad(set_to_none=True)
            with half:
                value = forward(x, y)
            value.backward()
            adaptive_clip_grad(
                [p for n, p in model.named_parameters() if "head.fc" not in n],
                0.01,
            )
            optimizer.step()
            return float(value.detach())

        return lambda: waited(step())
    layers = [m for m in model.modules() if type(m).__name__.startswith("Scal")]
    if kind == "standardize":

        def kernels():
            # As in timm's ScaledStdConv2d.forward.
            with torch.no_grad():
                return [
                    torch.nn.functional.batch_norm(
                        layer.weight.reshape(1, layer.out_channels, -1),
                        None,
                        None,
                        weight=(layer.gain * layer.scale).view(-1),
                        training=True,
                        momentum=0.0,
                        eps=layer.eps,
                    )
                    for layer in layers
                ]

        run = torch.compile(kernels)
        return lambda: waited(run())
    weights = [layer.weight for layer in layers]

    def clip():
        for weight in weights:
            weight.grad = weight.detach() * 0.1
        adaptive_clip_grad(weights, 0.01)

    return lambda: waited(clip())


def one(side, kind, name, batch, steps):
    """Seconds of each step, and what it ran on."""
    run = (theirs if side == "timm" else ours)(kind, name, batch)
    for _ in range(1 + bool(steps > 1)):
        run()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "device": device(side)}


def device(side):
    """The name of the chip."""
    if side in ("timm", "torch"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    if side == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return jax.devices()[0].device_kind
    return "CPU"


def share(kind, name, images_a_second, chip):
    """Of the chip's matrix peak; `None` where it is not known."""
    peak = next((x for key, x in PEAKS.items() if key in chip), None)
    if peak is None or kind not in ("training", "inference"):
        return None
    _, *sizes = NETWORKS[name]
    # Each gradient, of images and of kernels, takes as many again.
    times = 6 if kind == "training" else 2
    macs = multiplications(name, sizes[kind == "inference"])
    return images_a_second * macs * times / (peak * 1e12)


@functools.cache
def multiplications(name, size):
    """Of one image, from a model without values."""
    from keras_nfnet.diagnostics.cost import count_macs
    from keras_nfnet.models.nfnet import without_values

    model = without_values(lambda: network(name, size))
    return count_macs(model, size, size)


def page(rows):
    chips = sorted({row["device"] for row in rows if row.get("device")})
    lines = [
        "# On one GPU beside timm",
        "",
        "Written by `benchmarks/gpu.py`, on " + ", ".join(chips) + ". "
        "bfloat16 over float32 parameters. Ratio: of the times, to timm's of "
        "the same round.",
        "",
        "| | batch | side | ms | images/s | of the peak | ratio to timm |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    if chips == ["CPU"]:
        lines[4:4] = ["**Not run on a GPU**: none could be had.", ""]
    cases = dict.fromkeys(
        (row["kind"], row["network"], row["batch"]) for row in rows
    )
    for case in cases:
        kind, name, batch = case
        found = {}
        for row in rows:
            if (row["kind"], row["network"], row["batch"]) == case:
                found.setdefault(row["side"], {})[row["round"]] = row
        for side, by_round in found.items():
            good = {i: r for i, r in by_round.items() if "seconds" in r}
            cells = [f"{name} {kind}", f"{batch}", side]
            if not good:
                cells += [by_round[0]["failed"][:60], "", "", ""]
                lines.append("| " + " | ".join(cells) + " |")
                continue
            seconds = statistics.median(r["seconds"] for r in good.values())
            rate = batch / seconds
            chip = next(iter(good.values()))["device"]
            part = share(kind, name, rate, chip)
            ratios = [
                row["seconds"] / found["timm"][index]["seconds"]
                for index, row in good.items()
                if "seconds" in found.get("timm", {}).get(index, {})
            ]
            cells += [f"{1e3 * seconds:.2f}", f"{rate:.0f}"]
            cells.append("–" if part is None else f"{part:.0%}")
            cells.append(
                f"{statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}–{max(ratios):.2f})"
                if ratios
                else "–"
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spawned(case, steps):
    """One case in a process of its own; a row of results."""
    side, *_ = case
    backend = {"timm": "torch"}.get(side, side)
    process = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps([*case, steps])],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:]
        return {"failed": last[0] if last else f"{process.returncode}"}
    return json.loads(process.stdout.splitlines()[-1])


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)[:-1]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument(
        "--sides", nargs="+", default=SIDES, help="backends of ours, and timm"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        answers = os.fdopen(os.dup(1), "w")
        with contextlib.redirect_stdout(sys.stderr):
            found = one(*json.loads(options.one))
        print(json.dumps(found), file=answers)
        return
    if options.small:
        options.networks, options.batches = ["small"], [2]
        options.rounds, options.steps = 1, 1
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    rows = []
    if options.out.exists():
        rows = [json.loads(x) for x in options.out.read_text().splitlines()]
    names = ("side", "kind", "network", "batch", "round")
    done = {tuple(row[name] for name in names) for row in rows}
    for index in range(options.rounds):
        cases = [
            (side, kind, name, batch)
            for kind in options.kinds
            for name in options.networks
            for batch in options.batches
            for side in options.sides
            if not (side == "timm" and name == "small")
        ]
        random.Random(index).shuffle(cases)
        for count, case in enumerate(cases, 1):
            if (*case, index) in done:
                continue
            row = dict(zip(names, (*case, index), strict=True))
            row |= spawned(case, options.steps)
            print(f"round {index + 1}, {count} of {len(cases)}: {row}")
            rows.append(row)
            with open(options.out, "a") as file:
                file.write(json.dumps(row) + "\n")
            options.out.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
