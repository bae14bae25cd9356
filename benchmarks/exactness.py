"""How near the networks are to the authors', and how near others would be.

    python benchmarks/exactness.py

Runs the comparisons of tests/test_reference.py on both Keras backends and
writes the differences they find; then F0 at 64 px once more for each of the
deviations that other implementations have, one at a time, against the same
figures. Writes benchmarks/results/exactness.json and .md.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "tests" / "figures"
TRAJECTORY = "20 training steps"


def read(name):
    return json.loads((FIGURES / name).read_text())


def measure():
    """Differences on the backend of this process, by case and what."""
    from test_reference import network_errors, trajectory_errors

    from keras_nfnet import NFNetConfig

    found = {}
    for figure in read("nfnet_outputs.json"):
        title = "{variant}, {height}×{width} px".format(**figure)
        found[title] = network_errors(figure)
    found[TRAJECTORY] = trajectory_errors(
        read("training_trajectory.json")["trajectory"],
        NFNetConfig((32, 64, 96, 96), (1, 2, 1, 1), group_width=16),
    )
    return found


def deviations():
    """Relative difference of F0's logits for each deviation of others."""
    from fill import images
    from test_reference import filled, relative

    from keras_nfnet import NFNet
    from keras_nfnet.models.nf_block import NFBlock

    figure = read("nfnet_outputs.json")[0]

    def logits_error(change=lambda model: None):
        model = filled(
            NFNet(figure["variant"], weights=None, classifier_activation=None),
            figure["seed"],
        )
        change(model)
        x = images(figure["height"], figure["width"], figure["seed"])
        logits = model.predict_on_batch(x)
        return relative(
            logits[:, :8],
            figure["logits_first8"],
            abs(logits).max(),
        )

    def not_regrown(model):
        # Variance 1, not 1 + alpha², after a stage's first block.
        variance, first = 1.0, True
        for layer in model.layers:
            if not isinstance(layer, NFBlock):
                continue
            if layer.conv_shortcut is not None and not first:
                layer.preactivation.scale = variance**-0.5
            first = False
            if layer.conv_shortcut is not None:
                variance = 1.0
                continue
            layer.preactivation.scale = variance**-0.5
            variance += layer.alpha**2

    found = {"none": logits_error()}
    with exact_gelu():
        found["exact GELU in place of the tanh form"] = logits_error()
    for name, kernel in KERNELS.items():
        with standardized_by(kernel):
            found[name] = logits_error()
    found["expected variance not regrown after a stage's reset"] = logits_error(
        not_regrown
    )
    return found


@contextlib.contextmanager
def exact_gelu():
    from keras import ops

    from keras_nfnet.layers.activation import ACTIVATIONS

    kept = ACTIVATIONS["gelu"]
    ACTIVATIONS["gelu"] = (lambda x: ops.gelu(x, approximate=False), kept[1])
    try:
        yield
    finally:
        ACTIVATIONS["gelu"] = kept


@contextlib.contextmanager
def standardized_by(kernel):
    from keras_nfnet.layers import convolution

    kept = convolution.standardize
    convolution.standardize = kernel
    try:
        yield
    finally:
        convolution.standardize = kept


def _standardized(scale_of):
    def standardize(kernel, gain, eps):
        import math

        from keras import ops

        axes, fan_in = [0, 1, 2], math.prod(kernel.shape[:-1])
        mean = ops.mean(kernel, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(kernel - mean), axes, keepdims=True)
        return (kernel - mean) * gain * scale_of(ops, variance, fan_in, eps)

    return standardize


KERNELS = {
    "epsilon added to the variance in place of a floor": _standardized(
        # timm's: 1e-5 beside the variance, before the fan-in.
        lambda ops, variance, fan_in, eps: ops.rsqrt((variance + 1e-5) * fan_in)
    ),
    "unbiased variance": _standardized(
        lambda ops, variance, fan_in, eps: ops.rsqrt(
            ops.maximum(variance * fan_in**2 / (fan_in - 1), eps)
        )
    ),
}


def timms_own():
    """What timm's own arithmetic gives, against DeepMind's, same values."""
    import numpy as np

    rows = read("timm_outputs.json")
    row = next(row for row in rows if row["model"] == "dm_nfnet_f0")
    deepmind = np.asarray(row["deepmind_architecture"]["logits_first8"])
    timm = np.asarray(row["logits_first8"])
    return float(abs(timm - deepmind).max() / abs(deepmind).max())


def table(results):
    lines = [
        "# Exactness",
        "",
        "Written by `python benchmarks/exactness.py`. Largest relative "
        "difference from the figures of the authors' code in float32, for "
        "the same parameters and images.",
        "",
        "| | | TensorFlow | JAX |",
        "|---|---|---:|---:|",
    ]
    backends = results["backends"]
    for title, errors in backends["tensorflow"].items():
        for what, error in errors.items():
            other = backends["jax"][title][what]
            lines.append(f"| {title} | {what} | {error:.1e} | {other:.1e} |")
    lines += [
        "",
        "F0's logits at 64 px with one deviation of other implementations at "
        "a time, on TensorFlow:",
        "",
        "| deviation | relative difference |",
        "|---|---:|",
    ]
    for name, error in results["deviations"].items():
        lines.append(f"| {name} | {error:.1e} |")
    lines += [
        "",
        "timm's own arithmetic with the same values, from its figures: "
        f"{results['timm']:.1%}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    if options.one:
        print("FOUND " + json.dumps(measure()))
        return
    backends = {}
    for backend in ("tensorflow", "jax"):
        done = subprocess.run(
            [sys.executable, __file__, "--one"],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        (line,) = [x for x in done.stdout.splitlines() if x[:6] == "FOUND "]
        backends[backend] = json.loads(line[6:])
        print(f"{backend} done", flush=True)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    results = {
        "backends": backends,
        "deviations": deviations(),
        "timm": timms_own(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "exactness.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    )
    text = table(results)
    (RESULTS / "exactness.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
