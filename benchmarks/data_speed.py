"""How many training images a second the data path makes, beside others'.

Photographs of 500×375 pixels as JPEGs (crops of the two that ship with
scikit-learn, each scaled, flipped, brightened anew), once as TFRecords that
TFDS wrote and once as a folder. All loaders of `data_peers.py` do the recipe
of F0 at 192 pixels with 2 processor cores: random crop, flip, bicubic
resize, four layers of RandAugment at magnitude 5, MixUp and CutMix,
normalization. Each library has its own order and its own operations. The
package reads two images for each mixed one, as the authors do, and decodes
and crops both; the others mix the images of a batch with each other. So it is
measured without mixing too, where it decodes as many as they do.

Measured in turns, each in a process of its own; the first batches do not
count. The peers are in the environment of `make bench-rivals`, but for grain
and DALI:

    .venv-rivals/bin/pip install grain nvidia-dali-cuda120
    .venv-rivals/bin/python benchmarks/data_speed.py

What is not installed is not measured. Writes results/data_speed.json and
results/data_speed.md.
"""

import argparse
import contextlib
import io
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_peers import LOADERS, load
from pages import machine, spread, write

SIZE, BATCH = 192, 64
PICTURES, CLASSES = 512, 8
CORES = 2
# ImageNet's files are about 110 kB; at this quality these are 72 kB.
QUALITY = 95


def photographs():
    """Yields the encoded pictures, always the same."""
    import numpy as np
    from PIL import Image, ImageEnhance
    from sklearn.datasets import load_sample_images

    originals = [Image.fromarray(x) for x in load_sample_images().images]
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        picture = originals[number % len(originals)]
        scale = generator.uniform(0.9, 1.5)
        width, height = round(640 * scale), round(427 * scale)
        left = generator.integers(0, width - 500 + 1)
        top = generator.integers(0, height - 375 + 1)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + 500, top + 375))
        if generator.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        brighter = ImageEnhance.Brightness(picture)
        encoded = io.BytesIO()
        brighter.enhance(generator.uniform(0.7, 1.3)).save(
            encoded, "JPEG", quality=QUALITY
        )
        yield encoded.getvalue()


def write_data(directory):
    """Writes `folder/class/picture` and the TFDS data set; average bytes."""
    import tensorflow_datasets as tfds

    sizes = []
    for number, encoded in enumerate(photographs()):
        label = directory / "folder" / f"class{number % CLASSES}"
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{number:04}.jpg").write_bytes(encoded)
        sizes.append(len(encoded))

    class Photographs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            names = [f"class{number}" for number in range(CLASSES)]
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(encoding_format="jpeg"),
                        "label": tfds.features.ClassLabel(names=names),
                    }
                ),
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for path in sorted((directory / "folder").glob("*/*.jpg")):
                yield path.name, {"image": path, "label": path.parent.name}

    Photographs(data_dir=directory / "tfds").download_and_prepare()
    return statistics.mean(sizes)


def rate(iterable, batches):
    """Pictures a second, and processor milliseconds for one of them.

    Over `batches` batches after the first eight.
    """
    iterator = iter(iterable)
    for _ in range(8):
        next(iterator)
    start, processor = time.perf_counter(), processor_seconds()
    count = 0
    for _ in range(batches):
        count += len(next(iterator)[0])
    seconds = time.perf_counter() - start
    return count / seconds, 1000 * (processor_seconds() - processor) / count


def processor_seconds():
    """What this process and its workers have had of the processor."""
    ticks = 0
    processes = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        processes += (task / "children").read_text().split()
    for process in processes:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
        ticks += sum(map(int, stat.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def in_a_process(what, directory, batches):
    """Measures in a fresh process on two cores; `None` if it cannot be."""
    command = [sys.executable, __file__, "--measure", what]
    answer = subprocess.run(
        [*command, "--data", str(directory), "--batches", str(batches)],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        print(f"{what} is not measured: {lines[-1] if lines else ''}")
        return None
    return [float(number) for number in answer.stdout.split()[-2:]]


def report(results):
    """The results as a page."""
    turns = results["turns"]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    lines = [
        "# Training images a second",
        "",
        f"JPEGs of 500×375 pixels, {results['average_bytes'] / 1000:.0f} kB on "
        f"average, to batches of {BATCH} at {SIZE} pixels with the recipe of "
        f"F0 (random crop, flip, bicubic, RandAugment of 4 layers at "
        f"magnitude 5, MixUp and CutMix), on {CORES} processor cores, in turns "
        f"of {results['batches']} batches. The package reads two images for "
        "each mixed one, as the authors do; the others mix the images of a "
        "batch with each other. Ratios are of two turns of the same round. "
        "Written by `python benchmarks/data_speed.py`; what each loader "
        "is stands in `benchmarks/data_peers.py`.",
        "",
        f"{results['machine']}; {versions}. Load of the machine before and "
        f"after: {results['load'][0]:.1f} and {results['load'][1]:.1f}; above "
        f"{CORES} others had a part of the cores.",
        "",
        "| | images a second | decoded a second | times ours | "
        "ms of a core an image | turns |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in turns.items():
        pairs = [
            row[0] / own[0]
            for row, own in zip(rows, turns["keras_nfnet"], strict=False)
            if row
        ]
        rows = [row for row in rows if row]
        if not rows:
            lines.append(f"| {name} | not measured | | | | 0 |")
            continue
        rates, milliseconds = zip(*rows, strict=True)
        cells = [
            name,
            spread(rates, ".0f"),
            # Two go into each mixed one.
            f"{statistics.median(rates) * (1 + (name == 'keras_nfnet')):.0f}",
            spread(pairs, ".2f"),
            spread(milliseconds, ".1f"),
            str(len(rows)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def versions():
    from importlib import metadata

    found = {"Python": platform.python_version()}
    for name in (
        *("tensorflow", "keras", "timm", "torch", "torchvision", "grain"),
        "nvidia-dali-cuda120",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        cores = sorted(os.sched_getaffinity(0))[:CORES]
        os.sched_setaffinity(0, cores)
        batches = load(
            options.measure,
            options.data,
            size=SIZE,
            batch=BATCH,
            cores=CORES,
            classes=CLASSES,
        )
        print(*rate(batches, options.batches), flush=True)
        os._exit(0)  # Workers of some loaders would wait for each other.

    # For each turn images a second and processor milliseconds for one.
    turns = {name: [] for name in LOADERS}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        average = write_data(directory)
        for turn in range(options.turns):
            for name in random.Random(turn).sample(list(LOADERS), len(LOADERS)):
                value = None
                if not turn or turns[name][0]:
                    value = in_a_process(name, directory, options.batches)
                turns[name].append(value)
                if value:
                    print(f"turn {turn + 1}: {name} {value[0]:.0f} a second")
    results = {
        "turns": turns,
        "versions": versions(),
        "machine": machine(),
        "average_bytes": round(average),
        "batches": options.batches,
        # Other work on the machine shows where it exceeds the cores.
        "load": [load_before, os.getloadavg()[0]],
    }
    write("data_speed", results, report)


if __name__ == "__main__":
    main()
