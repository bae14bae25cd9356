"""How many training pictures a second the data path makes, beside timm's.

Photographs of 500×375 pixels as JPEGs (crops of the two that ship with
scikit-learn, each scaled, flipped, brightened anew), once as TFRecords that
TFDS wrote and once as the folder that timm reads. Both loaders do the recipe
of F0 at 192 pixels with 2 processor cores: random crop, flip, bicubic
resize, four layers of RandAugment at magnitude 5, MixUp and CutMix,
normalization. timm's order is its own: RandAugment, then mixing, of the images
of a batch with each other; the package decodes two images for each mixed one.

Measured in turns, each in a process of its own; the first batches do not
count. The peer needs another environment (timm is no dependency):

    python -m venv /tmp/timm && /tmp/timm/bin/pip install timm
    python benchmarks/data_speed.py --peer-python /tmp/timm/bin/python

Writes results/data_speed.json and results/data_speed.md. Without
`--peer-python` only the package is measured.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
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


def measure_package(directory, batches):
    """Pictures a second of `training_dataset` with the whole recipe."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_nfnet.data.augmentation import Augmentation
    from keras_nfnet.data.pipeline import training_dataset

    dataset, _ = training_dataset(
        "photographs",
        size=SIZE,
        batch_size=BATCH,
        augment=Augmentation(randaugment_magnitude=5, randaugment_layers=4),
        data_dir=str(directory / "tfds"),
    )
    return rate(dataset, batches)


def measure_timm(directory, batches):
    """Pictures a second of timm's loader with its form of the recipe."""
    import timm.data
    import torch

    torch.set_num_threads(1)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(directory / "folder")),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        interpolation="bicubic",
        auto_augment="rand-m5-n4",
        num_workers=CORES,
        # Mixes uint8 images in the workers, timm's fast way.
        collate_fn=timm.data.FastCollateMixup(
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            mode="elem",  # "half" makes one image of two.
            label_smoothing=0.0,
            num_classes=CLASSES,
        ),
        device=torch.device("cpu"),
        persistent_workers=True,
    )

    def endless():
        while True:
            yield from loader

    return rate(endless(), batches)


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


def in_a_process(python, what, directory, batches):
    """Measures in a fresh process on two cores."""
    command = [python, __file__, "--measure", what, "--data", str(directory)]
    answer = subprocess.run(
        [*command, "--batches", str(batches)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(number) for number in answer.stdout.split()[-2:]]


def report(results):
    """The results as a page."""
    peer = results["timm_version"]
    lines = [
        "# Training pictures a second",
        "",
        f"JPEGs of 500×375 pixels, {results['average_bytes'] / 1000:.0f} kB on "
        f"average, to batches of {BATCH} at {SIZE} pixels with the recipe of "
        f"F0 (random crop, flip, bicubic, RandAugment of 4 layers at "
        f"magnitude 5, MixUp and CutMix), on {CORES} processor cores.",
        f"TensorFlow {results['tensorflow_version']}, "
        + (f"timm {peer}, " if peer else "timm not measured, ")
        + f"Python {platform.python_version()}, {results['batches']} batches a "
        "turn. Command: `python benchmarks/data_speed.py"
        + (" --peer-python PYTHON`." if peer else "`."),
        "",
        f"Load of the machine before and after: {results['load'][0]:.1f} and "
        f"{results['load'][1]:.1f}; above {CORES} others had a part of the "
        "cores.",
        "",
        "| turn | keras_nfnet | timm | ratio | ms of a core | timm | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = []
    for number in (0, 1):
        ours, theirs = (
            [turn[number] for turn in results[name]]
            for name in ("keras_nfnet", "timm")
        )
        ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
        columns += [ours, theirs, ratios]
    digits = (0, 0, 2, 1, 1, 2)
    for turn in range(len(columns[0])):
        cells = [
            f"{column[turn]:.{after}f}" if column else "–"
            for column, after in zip(columns, digits, strict=True)
        ]
        lines.append(f"| {turn + 1} | {' | '.join(cells)} |")
    cells = [
        f"{statistics.median(x):.{n}f} ({min(x):.{n}f}–{max(x):.{n}f})"
        if x
        else "–"
        for x, n in zip(columns, digits, strict=True)
    ]
    lines.append(f"| median (range) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python that has timm")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        cores = sorted(os.sched_getaffinity(0))[:CORES]
        os.sched_setaffinity(0, cores)
        measure = {"timm": measure_timm, "keras_nfnet": measure_package}
        print(*measure[options.measure](options.data, options.batches))
        return

    import tensorflow as tf

    # For each turn pictures a second and processor milliseconds for one.
    rates = {"keras_nfnet": [], "timm": []}
    load = [os.getloadavg()[0]]
    pythons = {"keras_nfnet": sys.executable, "timm": options.peer_python}
    version = None
    if options.peer_python is None:
        print("timm is not measured: give --peer-python a Python that has it")
        del pythons["timm"]
    else:
        code = "import timm; print(timm.__version__)"
        version = subprocess.check_output(
            [options.peer_python, "-c", code], text=True
        ).split()[-1]
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        average = write_data(directory)
        for turn in range(options.turns):
            for what, python in pythons.items():
                value = in_a_process(python, what, directory, options.batches)
                rates[what].append(value)
                print(f"turn {turn + 1}: {what} {value[0]:.0f} a second")
    results = {
        **rates,
        "timm_version": version,
        "tensorflow_version": tf.__version__,
        "average_bytes": round(average),
        "batches": options.batches,
        # Other work on the machine shows where it exceeds the cores.
        "load": [*load, os.getloadavg()[0]],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data_speed.json").write_text(
        json.dumps(results, indent=2) + "\n"
    )
    (RESULTS / "data_speed.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
