"""Writes the site's page of all models, and one of each published network.

    python tools/model_cards.py            writes docs/models/
    python tools/model_cards.py --check    exit status 1 if it would change

What a page says comes from the table of variants, the reference figures of the
tests and benchmarks/results/.
"""

import argparse
import inspect
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "models"
FIGURES = ROOT / "tests" / "figures"
RESULTS = ROOT / "benchmarks" / "results"
ATTENTION = {
    "se": "squeeze-and-excite",
    "eca": "efficient channel attention",
    None: "none",
}


def read(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def table(heads, body):
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def constructors():
    """`{variant: name of its constructor}`."""
    from keras_nfnet.models import constructors as module
    from keras_nfnet.variants import VARIANTS, default_name

    names = {
        inspect.signature(getattr(module, name))
        .parameters["name"]
        .default: name
        for name in module.__all__
    }
    return {variant: names[default_name(variant)] for variant in VARIANTS}


def overview(rows):
    """The page of all models."""
    from keras_nfnet.weights.published import REPOSITORIES

    names = constructors()
    body = []
    for row in rows:
        variant = row["variant"]
        is_published = variant in REPOSITORIES
        body.append(
            (
                f"[{variant}]({page_name(variant)})"
                if is_published
                else variant,
                f"`{names[variant]}`",
                f"{row['parameters']:,}",
                row["train_size"],
                f"{row['train_gmacs']:.2f}",
                row["test_size"],
                f"{row['test_gmacs']:.2f}",
                f"{row['top1']:g}" if row["top1"] else "–",
            )
        )
    heads = ("", "constructor", "parameters", "train px", "GMACs", "test px")
    return f"""# Models

Every network that has a name. Those with a link have published values,
`weights="imagenet"`. GMACs are 10⁹ multiply-accumulates of one image. Top-1
accuracy on ImageNet is that of the publisher, in %, and was not measured by
this package's authors.

{table((*heads, "GMACs", "top-1"), body)}

Names in small letters are timm's. F4+ is the paper's, with a stage-1
bottleneck of 192 channels; the authors' released code rounds that to 128.
"""


def page_name(variant):
    return f"{variant.lower()}.md"


def architecture(config):
    """Rows of what the network is."""
    stem = config.stem.resolved(config.widths[0])
    kernel = f"{stem.kernel_size}×{stem.kernel_size}"
    convolutions = ", ".join(
        f"{filters} (stride {stride})" if stride > 1 else str(filters)
        for filters, stride in zip(stem.filters, stem.strides, strict=True)
    )
    pool = ", then a 3×3 max pooling of stride 2" if stem.max_pool else ""
    last = "none"
    if config.final_filters:
        last = f"1×1 to {config.final_filters} channels"
    elif config.final_conv_mult:
        channels = int(config.final_conv_mult * config.widths[-1])
        last = f"1×1 to {channels} channels"
    side = "output" if config.bottleneck_of == "out" else "input"
    gains = (
        "of the activation"
        if config.gain_in == "activation"
        else "in every standardized kernel"
    )
    epsilon = (
        f"floor of {config.eps:g}"
        if config.eps_mode == "floor"
        else f"{config.eps:g} added to the variance"
    )
    attention = ATTENTION[config.attention]
    if config.attention == "se":
        attention += f", ratio {config.se_ratio:g}"
    if config.attention and config.attention_position == "middle":
        attention += ", before the last 1×1"
    return [
        ("stem", f"{kernel} to {convolutions}{pool}"),
        ("widths", ", ".join(map(str, config.widths))),
        ("blocks", ", ".join(map(str, config.depths))),
        ("strides of the stages", ", ".join(map(str, config.strides))),
        (
            "bottleneck",
            f"{config.bottleneck_ratio:g} of the block's {side} channels, "
            f"{'two' if config.use_two_convs else 'one'} 3×3",
        ),
        ("channels of a group", config.group_width or "all"),
        ("attention", attention),
        ("activation", f"`{config.activation}`, gain {gains}"),
        ("standardization", epsilon),
        ("padding", config.padding),
        ("α", f"{config.alpha:g}"),
        ("last convolution", last),
        ("dropout", f"{config.drop_rate:g}"),
        ("stochastic depth", f"{config.stochastic_depth_rate:g}"),
    ]


def checks(variant, repository):
    """What the tests compare with the publisher's code, in sentences."""
    timm = repository.removeprefix("timm/").partition(".")[0]
    said = []
    deepmind = [
        f"{row['height']}×{row['width']}"
        for row in read(FIGURES / "nfnet_outputs.json")
        if row["variant"] == variant
    ]
    if deepmind:
        said.append(
            "Logits, pooled features and the signal after every block equal "
            "those of DeepMind's code to a relative 1e-5, at "
            f"{' and '.join(deepmind)} pixels."
        )
    theirs = [
        f"{row['height']}×{row['width']} pixels, {row['in_chans']} channel"
        + ("s" if row["in_chans"] > 1 else "")
        for row in read(FIGURES / "timm_family.json")
        if row["model"] == timm and not timm.startswith("dm_")
    ]
    if theirs:
        said.append(
            "Logits and feature maps equal those of timm 1.0.31 to a relative "
            f"1e-5, at {'; '.join(theirs)}."
        )
    trees = {
        "DeepMind's": (variant, "haiku_trees.json"),
        "timm's": (timm, "timm_trees.json"),
        "timm's ": (timm, "timm_family_trees.json"),
    }
    for whose, (name, file) in trees.items():
        if name in read(FIGURES / file):
            said.append(f"Names and shapes of all arrays are {whose.strip()}.")
    if variant.startswith("F"):
        said.append(
            "Parameters and multiply-accumulates equal the paper's in all "
            "digits that it gives."
        )
    if not deepmind and not theirs:
        said.append(
            "Logits of this size were not compared with the publisher's "
            "code; those of smaller ones of the same form were."
        )
    return said


def speeds(variant):
    """Markdown on what was measured of the network, or nothing."""
    if variant == "F0":
        rows = [
            (
                name.replace("saved_model", "SavedModel")
                .replace("onnx", "ONNX Runtime")
                .replace("tflite", "LiteRT"),
                f"{row['bytes'] / 1e6:.1f}" if row.get("bytes") else "",
                f"{1e3 * row['seconds']:.0f}",
            )
            for name, row in read(RESULTS / "export_speed.json")["rows"].items()
        ]
        yield (
            "One image of 256 pixels on 2 CPU cores "
            "([table](../results/export_speed.md)):\n\n"
            + table(("", "MB", "ms"), rows)
        )
    made = [
        row
        for row in read(RESULTS / "export_all.jsonl")
        if row["variant"] == variant
    ]
    if made:
        rows = [
            (
                row["format"].replace("saved_model", "SavedModel"),
                f"{row['largest difference']:.0e}",
                f"{row['seconds']:.0f}",
            )
            for row in made
        ]
        yield (
            "Exports at the training size, float32 "
            "([table](../results/export_all.md)):\n\n"
            + table(("", "largest difference", "s of export"), rows)
        )


def card(row):
    """The page of one published network."""
    from keras_nfnet.variants import VARIANTS
    from keras_nfnet.weights.published import PUBLISHED, REPOSITORIES

    variant = row["variant"]
    config, repository = VARIANTS[variant], REPOSITORIES[variant]
    name = constructors()[variant]
    is_timm = config.eps_mode == "add"
    source = "timm's results table" if is_timm else "arXiv:2102.06171, table 3"
    crop = (
        f"with the crop fraction {config.crop_fraction:g}"
        if config.crop_fraction
        else "resized to 32 pixels more on each side, and the centre cropped"
    )
    facts = [
        ("constructor", f"`keras_nfnet.{name}`"),
        ("parameters", f"{row['parameters']:,}"),
        ("float32", f"{4 * row['parameters'] / 1e6:.1f} MB"),
        ("training", f"{row['train_size']} px, {row['train_gmacs']:.2f} GMACs"),
        ("evaluation", f"{row['test_size']} px, {row['test_gmacs']:.2f} GMACs"),
        ("top-1, published", f"{row['top1']:g}% ({source})"),
        ("arithmetic", "timm's" if is_timm else "DeepMind's"),
    ]
    values = [
        ("hub", f"`{repository}`, `model.safetensors`"),
        ("values", "timm's" if is_timm else "DeepMind's"),
        ("licence", "Apache-2.0"),
    ]
    deepmind = f"{variant}_haiku.npz"
    others = ""
    if deepmind in PUBLISHED:
        md5, _ = PUBLISHED[deepmind]
        values.insert(1, ("DeepMind's file", f"`{deepmind}`, MD5 `{md5}`"))
        others = f'`weights="{deepmind}"` reads DeepMind\'s file. '
    checked = "\n".join(f"- {line}" for line in checks(variant, repository))
    measured = "\n\n".join(speeds(variant)) or "Not measured."
    return f"""# {variant}

{table(("", ""), facts)}

## Load

```python
import keras_nfnet

model = keras_nfnet.{name}(weights="imagenet")
pixels = keras_nfnet.data.decode_picture("photo.jpg")[None]  # RGB, 0–255
probabilities = model.predict(keras_nfnet.preprocess_input(pixels))
print(keras_nfnet.decode_predictions(probabilities, top=5))
```

{others}`weights="model.safetensors"` reads
a file that was fetched before. For an image as the network was evaluated
({crop}):

```sh
keras-nfnet predict photo.jpg --model {variant}
```

## Values

{table(("", ""), values)}

A download is compared with the SHA-256 that the hub announces.

## Architecture

{table(("", ""), architecture(config))}

## What was checked

{checked}

## What was not

- The published values were never fetched where this was written: neither
  their top-1 accuracy nor a prediction of theirs was seen. Files of the same
  names and shapes stand in for them in the tests.
- No training of this network at full size.

## Speed

{measured}
"""


def pages(rows):
    """`{file name: text}` of all pages."""
    from keras_nfnet.weights.published import REPOSITORIES

    found = {"index.md": overview(rows)}
    for row in rows:
        if row["variant"] in REPOSITORIES:
            found[page_name(row["variant"])] = card(row)
    return found


def main():
    from keras_nfnet.diagnostics import variant_table

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    new = pages(variant_table())
    there = {
        path.name: path.read_text(encoding="utf-8")
        for path in PAGES.glob("*.md")
    }
    if options.check:
        if new != there:
            print("docs/models/ is not what its sources say")
        return int(new != there)
    PAGES.mkdir(exist_ok=True)
    for name in there.keys() - new.keys():
        (PAGES / name).unlink()
    for name, text in new.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
