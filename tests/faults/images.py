"""Malformed images and decompression bombs, in each place that decodes.

Each goes through the functions of the training pipeline, through what
`predict` decodes by, and through the served signature, in one worker that
can be stopped.
"""

import io
import itertools
import resource
import struct
import sys
import time
import zlib

import numpy as np
from PIL import Image

from faults.hostile import (
    SECONDS,
    Worker,
    answer,
    memory,
    mutations,
    problems,
)
from faults.scorecard import Row

TITLE = "Images"
PROMISE = (
    "The pipeline, `predict` and the served signature decode or refuse. None\n"
    "crashes, hangs, takes more than ten times the file's size plus 1 GiB,\n"
    "nor more than 10 s. A header that announces more than 100 million pixels\n"
    "is refused before it is decoded. Sound files have the same pixels in all\n"
    "three, and damaged ones are decoded or refused by all three."
)

_SIZE = 32
# Of the damaged files of a row, what is known to fall short.
_MOST_DISAGREEING = 0.15
_DISAGREE = "TensorFlow decodes what Pillow, behind `predict`, refuses"
# Address space beyond what the worker starts with.
_SPACE = 8 * 2**30


def encode(image, file_format, **options):
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue()


def sound_files():
    """`{format: [bytes]}` of small sound images."""
    y, x = np.mgrid[0:48, 0:64]
    waves = np.stack([x * 4, y * 5, 128 + 99 * np.sin(x * y / 40)], -1)
    photo = Image.fromarray(waves.astype("uint8"))
    turned = photo.rotate(180)
    rgba = photo.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(photo.size))
    few = photo.quantize(32)
    more = {"save_all": True, "append_images": [turned] * 2}
    return {
        "JPEG": [
            encode(photo, "JPEG", quality=90),
            encode(photo, "JPEG", progressive=True),
            encode(photo.convert("CMYK"), "JPEG"),
        ],
        "PNG": [
            encode(photo, "PNG"),
            encode(few, "PNG", transparency=1),
            encode(rgba, "PNG"),
        ],
        "GIF": [
            encode(few, "GIF", transparency=1),
            encode(photo.convert("L"), "GIF", interlace=0),
            encode(
                few,
                "GIF",
                save_all=True,
                append_images=[turned.quantize(32)] * 2,
            ),
        ],
        "WebP": [
            encode(photo, "WEBP"),
            encode(rgba, "WEBP", lossless=True),
            encode(photo, "WEBP", **more),
        ],
        "BMP": [
            encode(photo, "BMP"),
            encode(few, "BMP"),
            encode(photo.convert("1"), "BMP"),
        ],
    }


def _chunk(kind, content):
    body = kind + content
    return (
        struct.pack(">I", len(content))
        + body
        + struct.pack(">I", zlib.crc32(body))
    )


def _png(width, height, *chunks, bits=8, color=0, data=None):
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    if data is None:
        row = 1 + (width * bits * (1, 0, 3)[color] + 7) // 8
        packer = zlib.compressobj()
        data = b"".join(packer.compress(bytes(row)) for _ in range(height))
        data += packer.flush()
    return b"".join(
        (
            *(b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", head), *chunks),
            *(_chunk(b"IDAT", data), _chunk(b"IEND", b"")),
        )
    )


def _mended(png):
    """The same PNG with right checksums, as far as its chunks can be told."""
    data, place = bytearray(png), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(
            ">I", zlib.crc32(data[place + 4 : end])
        )
        place = end + 4
    return bytes(data)


def _riff(*chunks):
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _replaced(data, place, content):
    return data[:place] + content + data[place + len(content) :]


def headers(sound):
    """`(name, bytes)` of files that announce too many pixels."""
    for side in (10_001, 16_383, 40_000, 65_500):
        name = f"{side:,} by {side:,}"
        little = struct.pack("<HH", side, side)
        yield f"PNG of {name}", _png(side, side, data=b"")
        jpeg = sound["JPEG"][0]
        yield (
            f"JPEG of {name}",
            _replaced(
                jpeg,
                jpeg.index(b"\xff\xc0") + 5,
                struct.pack(">HH", side, side),
            ),
        )
        for gif in sound["GIF"]:
            frame = gif.index(b",\0\0\0\0")
            yield f"GIF screen of {name}", _replaced(gif, 6, little)
            yield f"GIF frame of {name}", _replaced(gif, frame + 5, little)
        webp = sound["WebP"][0]
        if side < 2**14:
            yield f"WebP of {name}", _replaced(webp, 26, little)
        canvas = struct.pack("<I", side - 1)[:3] * 2
        yield f"WebP canvas of {name}", _replaced(sound["WebP"][2], 24, canvas)
        yield (
            f"BMP of {name}",
            _replaced(sound["BMP"][0], 18, struct.pack("<ii", side, -side)),
        )
    for width, height in ((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31)):
        yield f"PNG of {width} by {height}", _png(width, height, data=b"")
    for width, height in ((2**31 - 1, 2**31 - 1), (-(2**31), 1), (1, -(2**31))):
        sides = struct.pack("<ii", width, height)
        yield (
            f"BMP of {width} by {height}",
            _replaced(sound["BMP"][0], 18, sides),
        )


def bombs(sound, full):
    """`(name, bytes)` of files that take much more than their size."""
    large = Image.fromarray(np.zeros((1500, 1500, 3), "uint8"))
    progressive = encode(large, "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    jpeg = sound["JPEG"][0]
    yield "1,000 scans", progressive[:scan] + progressive[scan:-2] * 1000
    yield "segments", jpeg[:2] + b"\xff\xfe\0\2" * 500_000 + jpeg[2:]
    yield "fill bytes", jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:]
    yield "markers", b"\xff\xd8" + b"\xff\xda\0\x08\1" * 400_000
    text = zlib.compress(bytes(2**28 if full else 2**24), 9)
    for kind in (b"zTXt", b"iCCP"):
        yield (
            f"{kind.decode()} that expands",
            _png(8, 8, _chunk(kind, b"a\0\0" + text)),
        )
    yield "many empty chunks", _png(8, 8, *[_chunk(b"IDAT", b"")] * 100_000)
    yield "rows that never come", _png(9_000, 9_000, data=zlib.compress(b""))
    rows = zlib.compress(bytes(2**28 if full else 2**24), 9)
    yield "more rows than announced", _png(8, 8, data=rows)
    for gif in sound["GIF"][:1]:
        frame = gif.index(b"!\xf9")
        frames = (gif[frame:-1]) * 3000
        yield "3,000 frames", gif[:frame] + frames + b";"
        screen = _replaced(gif, 6, struct.pack("<HH", 600, 600))
        yield "3,000 frames on a screen", screen[:frame] + frames + b";"
    lone = gif.index(b",\0\0\0\0") + 11
    ones = b"\1\0" * 2_000_000
    yield "blocks of one byte", gif[:lone] + ones[:-1]
    yield "extensions", gif[:13] + b"!\xfe\0" * 1_000_000
    webp = sound["WebP"][2]
    frame = webp.index(b"ANMF")
    yield "frames of WebP", webp[:frame] + webp[frame:] * 3000
    yield "chunks of WebP", _riff(*[(b"abcd", b"")] * 500_000)
    if full:
        yield "25 million pixels, PNG", _png(5_000, 5_000)
        yield "25 million pixels of one bit", _png(5_000, 5_000, bits=1)
        square = Image.new("RGB", (5_000, 5_000))
        for name in ("JPEG", "WEBP", "BMP"):
            yield f"25 million pixels, {name}", encode(square, name)
        yield "25 million pixels, GIF", encode(square.quantize(2), "GIF")
        yield "400 million pixels", _png(20_000, 20_000)


def _work(saved_model):
    """The worker: decodes a file in each place, or a folder as a data set."""
    import os

    import tensorflow as tf

    from keras_nfnet.data import graph_preprocessing as graph
    from keras_nfnet.data.augmentation import Augmentation
    from keras_nfnet.data.decoding import decode_picture
    from keras_nfnet.data.pipeline import evaluation_dataset
    from keras_nfnet.data.preprocessing import evaluation_picture
    from keras_nfnet.data.training_image import random_crop

    loaded = tf.saved_model.load(saved_model)
    serve = loaded.signatures["serve_bytes"]
    pixels = loaded.signatures["serving_default"]
    content = [b""]

    def endless():
        while True:
            yield content[0]

    def views(encoded):
        crop = random_crop(encoded, _SIZE, Augmentation(), [1, 2])
        image = graph.decode(encoded)
        return image, graph.evaluation_view(image, _SIZE), crop

    # Each file when it is asked for.
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    pipeline = iter(
        tf.data.Dataset.from_generator(
            endless, output_signature=tf.TensorSpec((), tf.string)
        )
        .map(views)
        .with_options(options)
    )

    def by_predict():
        image = decode_picture(content[0])
        view = evaluation_picture(image, _SIZE)
        outputs = pixels(images=tf.constant(view[None]))
        return image, outputs["probabilities"].numpy()

    def by_pipeline():
        return next(pipeline)[0].numpy(), None

    def by_signature():
        outputs = serve(image_bytes=tf.constant(content))
        return None, outputs["probabilities"].numpy()

    ways = {
        "predict": by_predict,
        "the pipeline": by_pipeline,
        "the signature": by_signature,
    }
    refusals = (ValueError, tf.errors.InvalidArgumentError)

    def decode(path):
        with open(path, "rb") as file:
            content[0] = file.read()
        outcomes, images, answers, seconds = [], [], [], {}
        for way, take in ways.items():
            start = time.monotonic()
            try:
                image, scores = take()
                images += [] if image is None else [image]
                answers += [] if scores is None else [scores]
                outcomes.append((way, "loaded", ""))
            except refusals as error:
                # TensorFlow's messages have its trace behind them.
                outcomes.append((way, "refused", str(error).splitlines()[0]))
            except BaseException as error:  # Counted as a crash.
                outcomes.append((way, type(error).__name__, str(error)[:300]))
            seconds[way] = time.monotonic() - start
        same = len({outcome for _, outcome, _ in outcomes}) == 1
        if same and images:
            same = np.array_equal(*images) and np.allclose(*answers, atol=1e-4)
        return {
            "outcomes": outcomes,
            "same": bool(same),
            "seconds": max(seconds.values()),
        }

    def data_set(path):
        dataset, info = evaluation_dataset(
            path, size=_SIZE, batch_size=256, max_corrupt=1.0
        )
        good = sum(len(images) for images, _ in dataset)
        return {"outcomes": [], "seen": info.corrupt.seen, "good": good}

    content[0] = encode(Image.new("RGB", (40, 40)), "PNG")
    for take in ways.values():
        take()
    space = memory("VmSize") + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    answer(lambda path: (data_set if os.path.isdir(path) else decode)(path))


def _served(folder):
    """The path of a SavedModel whose answers differ between images."""
    from keras_nfnet import NFNet, NFNetConfig
    from keras_nfnet.export import to_saved_model

    config = NFNetConfig((16,), (1,), group_width=8)
    model = NFNet(config, weights=None, classes=3)
    kernel = model.layers[-1].kernel
    kernel.assign_add(np.random.default_rng(0).normal(0, 1, kernel.shape))
    to_saved_model(model, folder / "served", size=_SIZE)
    return str(folder / "served")


def _row(injected, files, folder, worker, say, may_disagree=0):
    """Decodes files and counts.

    Returns:
        The row, and how many files the pipeline decoded.
    """
    counts = dict.fromkeys(
        ("decoded", "refused", "disagreeing", "crashed", "beyond the bounds"), 0
    )
    seconds = size = used = 0
    for name, data in files:
        path = folder / "image"
        path.write_bytes(data)
        report = worker.load(path, 3 * SECONDS)
        wrong = problems(report, len(data))
        outcomes = {outcome for _, outcome, _ in report["outcomes"]}
        if not outcomes <= {"loaded", "refused"}:
            kind = "crashed"
        elif wrong:
            kind = "beyond the bounds"
        elif not report["same"]:
            kind = "disagreeing"
        else:
            kind = "decoded" if "loaded" in outcomes else "refused"
        counts[kind] += 1
        if kind not in ("decoded", "refused"):
            say(f"{injected}: {name}: {kind}: {wrong or report['outcomes']}")
        used += ["the pipeline", "loaded", ""] in report["outcomes"]
        seconds = max(seconds, report["seconds"])
        size = max(size, report["bytes"])
    bad = [kind for kind in list(counts)[2:] if counts[kind]]
    measured = f"at most {seconds:.1f} s, {size >> 20} MB"
    if bad == ["disagreeing"]:
        is_known = counts["disagreeing"] <= may_disagree * sum(counts.values())
        return Row(injected, counts, _DISAGREE, measured, is_known), used
    return Row(injected, counts, ", ".join(bad), measured), used


def rows(full, folder, say):
    """The rows of the scorecard."""
    sound = sound_files()
    # Else hardly a mutation is seen beyond its checksum.
    sound["PNG files of right checksums"] = sound["PNG"]
    worker = Worker(command=("faults.images", _served(folder)))
    data = folder / "data" / "test"
    for label in "ab":
        (data / label).mkdir(parents=True)
    count = itertools.count()

    def mutated(kind):
        each = 200 if full else 6
        for seed, content in enumerate(sound[kind]):
            for name, changed in mutations(content, each, seed):
                if kind == "PNG files of right checksums":
                    changed = _mended(changed)
                number = next(count)
                place = data / "ab"[number % 2] / f"{number}.png"
                place.write_bytes(changed)
                yield f"{seed} {name}", changed

    try:
        decoded = 0
        for kind in sound:
            row, used = _row(
                f"mutated {kind if 'files' in kind else f'{kind} files'}",
                mutated(kind),
                folder,
                worker,
                say,
                _MOST_DISAGREEING,
            )
            decoded += used
            yield row
        for injected, files in (
            (
                "headers that announce more than 100 million pixels",
                headers(sound),
            ),
            ("decompression bombs", bombs(sound, full)),
        ):
            yield _row(injected, files, folder, worker, say)[0]
        report = worker.load(data.parent, 60 * SECONDS)
        seen, good = report.get("seen", 0), report.get("good", 0)
        total = next(count)
        is_right = (seen, good) == (total, decoded)
        yield Row(
            "the mutated files in a folder that is evaluated",
            {"used": good, "left out and counted": seen - good},
            "" if is_right else f"{total} files, {decoded} of them decoded",
        )
    finally:
        worker.stop()


if __name__ == "__main__":
    _work(*sys.argv[1:])
