"""Writes docs/scale.md: a step on many chips, on paper.

    python tools/scale_page.py            writes the page
    python tools/scale_page.py --check    exit status 1 if it would change

Counts parameters and multiplications of the models, and takes what was
measured from benchmarks/results/ and the paper's step times. Nothing here
was run on a TPU or GPU.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "benchmarks" / "results"
# Milliseconds of one training step as published: TPUv3, V100. Taken to be of
# 32 images on each device. F6 with SAM on a fifth of the batch.
PUBLISHED = {
    "F0": (73.3, 56.7),
    "F1": (158.5, 133.9),
    "F2": (295.8, 226.3),
    "F3": (532.2, 524.5),
    "F4": (1033.3, 1190.6),
    "F5": (1398.5, 2177.1),
    "F6": (2774.1, None),
}
IMAGES = 32
BATCH = 4096
CHIPS = (32, 256)
SAM_FRACTION = 0.2
# Of one device, by the makers: half-precision TFLOP/s, memory and network
# GB/s in one direction. TPUv3: one of the two cores of a chip, one link.
DEVICES = {
    "TPUv3 core": (61.5, 450, 82),
    "V100, 200 Gb/s network": (125, 900, 25),
    "H100, NVLink": (989, 3350, 450),
    "H100, 400 Gb/s network": (989, 3350, 50),
}
# Reads and writes of a value in one step of AGC and SGD: the gradient and
# the weight for the norms; gradient, weight and momentum again; two written.
PASSES = 7
_FLOAT = 4


def operations(macs, images=IMAGES):
    """Of a training step: both gradients take as many again, as two each."""
    return 6 * macs * images


def all_reduce(size, chips, rate):
    """Seconds to sum so many bytes over the chips in a ring.

    Each chip sends `2 (n - 1) / n` times the bytes, at `rate` bytes/s.
    """
    return 2 * (chips - 1) / chips * size / rate


def counted(name):
    """`(parameters, multiplications)` of an image of the training size."""
    import keras_nfnet
    from keras_nfnet.diagnostics.cost import count_macs
    from keras_nfnet.models.nfnet import without_values

    model = without_values(lambda: keras_nfnet.NFNet(name, weights=None))
    size = keras_nfnet.VARIANTS[name].train_size
    return model.count_params(), count_macs(model, size, size)


def step(parameters, macs, device, chips, share, sam=0.0):
    """Milliseconds of the parts of a step of the whole batch.

    Args:
        parameters: Of the network.
        macs: Multiplications of one image.
        device: A key of `DEVICES`.
        chips: Number of devices; each has `BATCH / chips` images.
        share: Of the device's peak that the convolutions reach.
        sam: Share of the batch of SAM's ascent.

    Returns:
        A dictionary. `"hidden"` is what of the sum of gradients fits under
        the backward pass, two thirds of the computation; `"sum of SAM"` is
        before the second pass, and hides under nothing.
    """
    peak, memory, network = DEVICES[device]
    images = BATCH // chips
    compute = operations(macs, images) / (peak * 1e12 * share)
    total = all_reduce(parameters * _FLOAT, chips, network * 1e9)
    hidden = min(total, 2 / 3 * compute)
    agc = PASSES * _FLOAT * parameters / (memory * 1e9)
    parts = {
        "convolutions": compute * (1 + sam),
        "sum": total,
        "hidden": hidden,
        "AGC and SGD": agc,
        "sum of SAM": total - min(total, 2 / 3 * sam * compute) if sam else 0,
    }
    parts["step"] = (
        parts["convolutions"]
        + parts["sum"]
        - parts["hidden"]
        + parts["AGC and SGD"]
        + parts["sum of SAM"]
    )
    return {name: 1e3 * value for name, value in parts.items()}


def table(heads, body):
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def reached(name, macs):
    """Of the peaks of TPUv3 and V100, the first two, by published times."""
    return [
        None
        if time is None
        else operations(macs) / (time * 1e-3) / (DEVICES[device][0] * 1e12)
        for time, device in zip(PUBLISHED[name], DEVICES, strict=False)
    ]


def check_table(counts):
    base = reached("F0", counts["F0"][1])
    body = []
    for name, (parameters, macs) in counts.items():
        row = [name, f"{parameters / 1e6:.0f}", f"{macs / 1e9:.2f}"]
        for index, share in enumerate(reached(name, macs)):
            if share is None:
                row += ["–", "–", "–"]
                continue
            published = PUBLISHED[name][index]
            predicted = published * share / base[index]
            row += [f"{published:g}", f"{share:.0%}", f"{predicted:.0f}"]
        body.append(row)
    heads = ["", "parameters, M", "GMACs"]
    for device in ("TPUv3", "V100"):
        heads += [f"{device}, ms", "of the peak", "by F0's, ms"]
    return table(heads, body)


def scale_table(name, counts, like, sam):
    """A step of a network at the shares of the peak that `like` reached."""
    tpu, v100 = reached(like, counts[like][1])
    body = []
    for device in DEVICES:
        share = v100 if device.startswith("V100") else tpu
        for chips in CHIPS:
            parts = step(*counts[name], device, chips, share, sam)
            row = [f"{device}, {chips}", BATCH // chips]
            row += [
                f"{parts[key]:.1f}"
                for key in ("convolutions", "sum", "AGC and SGD")
            ]
            if sam:
                row.append(f"{parts['sum of SAM']:.1f}")
            row += [f"{parts['step']:.1f}", f"{BATCH / parts['step']:.1f}k"]
            body.append(row)
    heads = ["device, how many", "images each", "convolutions, ms"]
    heads += ["sum of gradients, ms", "AGC and SGD, ms"]
    if sam:
        heads.append("SAM's sum, ms")
    return table([*heads, "step, ms", "images/s"], body)


def page(counts):
    data = json.loads((RESULTS / "data_speed.json").read_text())
    rates = [rate for rate, _ in data["turns"]["keras_nfnet"]]
    a_core = sum(rates) / len(rates) / 2
    cost = json.loads((RESULTS / "agc_cost.json").read_text())
    with_agc = sorted(cost["seconds"]["with"])
    cpu = with_agc[len(with_agc) // 2]
    speed = json.loads((RESULTS / "export_speed.json").read_text())["rows"]
    forward = speed["tflite float32"]["seconds"]
    f0 = counts["F0"][1]
    at_256 = 2 * f0 * (256 / 192) ** 2
    tpu, _ = reached("F0", f0)
    share = {name: reached(name, macs)[0] for name, (_, macs) in counts.items()}
    f1_to_f5 = [share[f"F{n}"] / tpu for n in range(1, 6)]
    least, most = min(f1_to_f5), max(f1_to_f5)
    f6 = PUBLISHED["F6"][0] * share["F6"] / share["F5"] * (1 + SAM_FRACTION)
    h100 = step(*counts["F0"], "H100, NVLink", 32, tpu)
    feed = BATCH / (h100["step"] / 1e3) / 32
    return f"""# Scale, on paper

What batch {BATCH} on {CHIPS[0]} and on {CHIPS[1]} devices should take under
data parallelism, from multiplications, bytes and the makers' figures.
**Nothing on this page was run on a TPU or GPU**; it is written by
`tools/scale_page.py`. The check is the paper's own step times.

## The model of a step

- Convolutions: a training step is three passes of two operations for each
  multiplication, over the device's peak and the share of it that is reached.
- The gradients are summed in float32 in a ring: each device sends
  2 (n − 1) / n times their bytes. The sum of a layer starts when its gradient
  is there, so that what fits under the backward pass, two thirds of the
  computation, costs nothing.
- AGC and SGD read and write each value {PASSES} times, at the memory's rate.
  Every device does all of it: it does not shrink with more devices. The norms
  are taken after the sum, so those of the last sum wait for it.
- SAM's ascent gradient is taken on a fifth of the batch. Its sum and its norm
  must be there before the second pass begins: only the ascent's own short
  backward pass hides it.

## The check

The published times are taken to be of {IMAGES} images a device. "Of the peak":
by the published time; "by F0's": the time that F0's share gives.

{check_table(counts)}

On TPUv3 F0's share gives F1 to F5 times that are {least:.2f} to {most:.2f}
of the published: larger networks use the device better. F6's published step
is with SAM, whose extra work is not in its multiplications; with a fifth
more, and F5's share, the model says {f6:.0f} ms. On V100 F4 and F5 take
longer than the model says.

On 2 CPU cores a step of F0 at 192 pixels and batch 32 takes {cpu:.1f} s
([measured](results/agc_cost.md)): {operations(f0) / cpu / 1e9:.0f} GFLOP/s,
where inference reaches {at_256 / forward / 1e9:.0f}
([measured](results/export_speed.md)).

## F0, batch {BATCH}

The share of the peak is that of F0's published times; H100's is not published
and taken to be TPUv3's.

{scale_table("F0", counts, "F0", 0)}

## F6 with SAM on a fifth

At F5's shares.

{scale_table("F6", counts, "F5", SAM_FRACTION)}

## What breaks first

1. **The data.** At 32 H100s each takes {feed:.0f} images a second. The
   pipeline makes {a_core:.0f} a second on a core
   ([measured](results/data_speed.md), of two cores): {feed / a_core:.0f} cores
   for one H100. A host has 16 or so for each. Decoding and resizing once, or
   RandAugment on the device, would come before any faster convolution.
2. **The sum of gradients over Ethernet** at 256 devices: with 16 images each
   the computation no longer hides it. Sums in bfloat16 halve it; larger
   batches, or fewer devices with NVLink between them, remove it.
3. **AGC and SGD** are then the part that does not shrink: on TPUv3
   {step(*counts["F0"], "TPUv3 core", 32, tpu)["AGC and SGD"]:.1f} ms of
   {step(*counts["F0"], "TPUv3 core", 32, tpu)["step"]:.0f} ms at 32 devices,
   of {step(*counts["F0"], "TPUv3 core", 256, tpu)["step"]:.0f} ms at 256.
   With [`layout_map`](guides/many_devices.md) each device holds and updates a
   part.
4. **SAM** adds its share of the batch to the computation, and one sum that
   little hides: over the network of 256 H100s it is a third of the step.
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = page({name: counted(name) for name in PUBLISHED})
    if options.check:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
