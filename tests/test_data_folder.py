"""Tests of folders of pictures as data sets, and of what files they hold."""

import io
import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "input pipelines are tested on the TensorFlow backend",
        allow_module_level=True,
    )

import tensorflow as tf

import keras_nfnet
from keras_nfnet.data import pipeline
from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.data_info import CorruptCounter
from keras_nfnet.data.folder import find_images, is_folder, list_pictures
from keras_nfnet.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_nfnet.data.training_image import random_crop

PLAIN = Augmentation(
    randaugment_layers=0, mixup=0, cutmix=0, flip=False, crop_area=(1, 1)
)


def picture(number, size=(40, 30), mode="RGB"):
    """A smooth picture, another for each number."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    planes = [x, y, (x + y) / 2]
    shift = number * 37 % 100
    pixels = np.stack([50 + shift + 100 * p for p in planes], -1)
    return Image.fromarray(pixels.astype("uint8")).convert(mode)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(root, count, classes=("cat", "dog"), broken=()):
    """Writes `count` PNGs, those numbered in `broken` cut off."""
    for number in range(count):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        content = encoded(picture(number), "PNG")
        if number in broken:
            content = content[: len(content) // 2]
        (folder / f"{number:03}.png").write_bytes(content)


def test_a_folder_of_splits_has_the_classes_of_all_its_splits(tmp_path):
    write(tmp_path / "train", 6, ("cat", "dog", "emu"))
    write(tmp_path / "valid", 2, ("dog", "ant"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("")
    dataset, info = pipeline.load_split(str(tmp_path), "train")
    assert info.label_names == ("ant", "cat", "dog", "emu")
    assert (info.classes, info.examples, info.split) == (4, 6, "train")
    assert [int(label) for _, label in dataset] == [1, 1, 2, 2, 3, 3]
    first = next(iter(dataset))[0].numpy()
    assert first == (tmp_path / "train" / "cat" / "000.png").read_bytes()
    _, info = pipeline.load_split(tmp_path, "valid")
    assert info.classes == 4


def test_a_folder_of_classes_is_split_by_names_alone(tmp_path):
    write(tmp_path / "a", 200)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    train, _, classes = list_pictures(tmp_path / "a", "train")
    test, labels, _ = list_pictures(tmp_path / "a", "test")
    assert classes == ("cat", "dog") and set(labels) == {0, 1}
    assert len(train) + len(test) == 200 and not set(train) & set(test)
    assert 8 <= len(test) <= 32  # 20 expected, deviation 4.2
    # Another place and further pictures change nothing.
    write(tmp_path / "b", 210)
    again, _, _ = list_pictures(tmp_path / "b", "test")
    assert set(test) <= set(again)


@pytest.mark.parametrize(
    ("made", "split", "message"),
    [
        ([], "train", "must hold images as class/image"),
        (["cat/notes.txt"], "train", "must hold images as class/image"),
        (["cat/1.png", "cat/2.png"], "train", "at least two classes"),
        (["cat/1.png", "dog/1.png"], "valid", "`split` must be one of test"),
        (
            ["train/cat/1.png", "train/dog/1.png"],
            "test",
            "`split` must be one of train",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, made, split, message):
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(0), "PNG"))
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        pipeline.load_split(str(tmp_path), split)


def test_a_split_left_empty_by_few_pictures_says_so(tmp_path):
    write(tmp_path, 2)
    empty = [
        split
        for split in ("train", "test")
        if not any(
            name in ("cat/000.png", "dog/001.png")
            for name in _listed(tmp_path, split)
        )
    ]
    assert empty
    with pytest.raises(ValueError, match="must have examples.*train/ and tes"):
        list_pictures(tmp_path, empty[0])


def _listed(root, split):
    try:
        return list_pictures(root, split)[0]
    except ValueError:
        return []


def put(root, *names, count=12):
    """Writes images; `count` of them where a name is a folder's."""
    for name in names:
        path = root / name
        paths = (
            [path] if path.suffix else [path / f"{n}.png" for n in range(count)]
        )
        for each in paths:
            each.parent.mkdir(parents=True, exist_ok=True)
            each.write_bytes(encoded(picture(0), "PNG"))


@pytest.mark.parametrize(
    ("stray", "left_out"),
    [
        ("train/preview.png", "1 image outside of the class folders: train/p"),
        ("test/preview.png", "1 image outside of the class folders: test/p"),
        ("preview.png", "1 image outside of the class folders: preview.png"),
        ("train/cat/2020/a.png", "1 image below the class folders: train/cat"),
        ("train/cat/notes.txt", "1 file with the suffix .txt, no image's: tr"),
        ("train/cat/README", "1 file without a suffix, no image's: train/ca"),
        ("test/caf\udce9.png", r"folders: test/caf\udce9.png"),
    ],
)
def test_a_stray_file_changes_no_layout_and_is_told(tmp_path, stray, left_out):
    put(
        tmp_path,
        *(f"{s}/{c}" for s in ("train", "test") for c in ("cat", "dog")),
    )
    before = find_images(tmp_path, "train")
    assert (len(before.names), before.left_out) == (24, ())
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).write_bytes(encoded(picture(0), "PNG"))
    for split in ("train", "test"):
        found = find_images(tmp_path, split)
        assert found.classes == ("cat", "dog") and len(found.names) == 24
        assert len(found.left_out) == 1
        assert left_out in found.left_out[0]
    _, info = pipeline.load_split(tmp_path, "train")
    assert found.left_out[0] in info.summary()


def test_a_split_without_classes_is_left_out_beside_one_with(tmp_path):
    put(tmp_path, "train/cat", "train/dog", "test")
    found = find_images(tmp_path, "train")
    assert found.classes == ("cat", "dog") and len(found.names) == 24
    assert "12 images outside of the class folders" in found.left_out[0]
    with pytest.raises(ValueError, match="one of train. .*; left out: 12 imag"):
        find_images(tmp_path, "test")


@pytest.mark.parametrize("folders", [("train", "test1"), ("train", "val", "a")])
def test_splits_without_classes_are_no_classes(tmp_path, folders):
    put(tmp_path, *folders)
    with pytest.raises(ValueError, match="one folder per class.*Received: "):
        find_images(tmp_path, "train")


def test_a_class_may_be_called_like_a_split(tmp_path):
    put(tmp_path, "train", "car", "bus")
    assert find_images(tmp_path, "train").classes == ("bus", "car", "train")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "webp", "gif", "bmp"])
def test_a_class_of_any_suffix_is_a_class(tmp_path, suffix):
    put(tmp_path, "cat", "dog", *(f"bird/{n}.{suffix}" for n in range(12)))
    assert find_images(tmp_path, "train").classes == ("bird", "cat", "dog")


def test_a_summary_says_what_was_found(tmp_path):
    put(tmp_path, "train/cat", count=3)
    put(tmp_path, "train/dog", "valid/emu", "train/dog/notes.txt", count=2)
    _, info = pipeline.load_split(tmp_path, "train")
    assert info.summary() == (
        f"{tmp_path}, train: 5 images, 3 classes\n"
        "  cat 3, dog 2, emu 0\n"
        "  left out: 1 file with the suffix .txt, no image's: "
        "train/dog/notes.txt"
    )
    put(tmp_path, *(f"train/more{n}" for n in range(20)), count=1)
    _, info = pipeline.load_split(tmp_path, "train")
    assert "\n  from 0 images (emu) to 3 (cat) a class\n" in info.summary()


def test_a_run_says_first_what_it_found(tmp_path, capsys):
    write(tmp_path / "data" / "train", 4)
    write(tmp_path / "data" / "test", 2)
    put(tmp_path / "data", "train/preview.png")
    tiny = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    recipe = keras_nfnet.Recipe(
        *("tiny", tiny, str(tmp_path / "data"), 2, 32, 4, 1), warmup_epochs=0
    )
    keras_nfnet.train(recipe, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    left_out = "  left out: 1 image outside of the class folders: train/prev"
    assert lines[0].endswith("data, train: 4 images, 2 classes")
    assert lines[1] == "  cat 2, dog 2" and lines[2].startswith(left_out)
    assert lines[3].endswith("data, test: 2 images, 2 classes")


def test_names_of_files_need_not_be_utf8(tmp_path):
    for folder in ("train", "test"):
        write(tmp_path / folder, 8)
        names = [b"caf\xe9.png", b"broken\xe9.png"]
        for name, content in zip(
            names, (encoded(picture(1), "PNG"), b""), strict=True
        ):
            folder_bytes = os.fsencode(tmp_path / folder / "cat")
            with open(os.path.join(folder_bytes, name), "wb") as file:
                file.write(content)
    batches, info = pipeline.training_dataset(
        tmp_path, size=8, batch_size=10, max_corrupt=0.5
    )
    assert next(iter(batches))[0].shape == (10, 8, 8, 3)
    assert info.corrupt.names == ["train/cat/broken\\xe9.png"]
    batches, _ = pipeline.evaluation_dataset(
        tmp_path, size=8, batch_size=10, max_corrupt=0.5
    )
    assert next(iter(batches))[0].shape == (9, 8, 8, 3)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"two\nlines", b"car\rriage", "\u2028".encode()]
)
def test_a_class_whose_name_is_no_line_of_text_is_refused(tmp_path, name):
    """Names of classes are written into text files, one a line."""
    write(tmp_path, 40)
    os.rename(tmp_path / "cat", os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(ValueError, match="must be strings of one line.*Receiv"):
        pipeline.load_split(tmp_path, "train")


def test_a_folder_whose_own_name_is_not_utf8_is_refused(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with pytest.raises(ValueError, match="`name` must be a path in UTF-8.*Rec"):
        pipeline.load_split(os.fsdecode(folder), "train")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("pictrues", "did you mean 'pictures'"),
        ("data/pictrues", "did you mean 'data/pictures'"),
        ("./pictrues", "did you mean 'pictures'"),
        ("my pictures", "did you mean 'pictures'"),
        ("cifar01", "did you mean 'cifar10"),
        ("imagnet2012", "did you mean 'imagenet2012"),
        ("Pictures/None/At/All", ""),
    ],
)
def test_a_mistyped_name_gets_one_line(tmp_path, monkeypatch, name, suggestion):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    with pytest.raises(ValueError, match="`name` must be") as error:
        pipeline.load_split(name, "train")
    message = str(error.value)
    assert f"Received: name={name!r}" in message and suggestion in message
    assert "\n" not in message and len(message) < 400


def test_a_path_is_told_from_a_tfds_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "file").write_text("")
    assert is_folder("pictures") and is_folder(tmp_path)
    assert not is_folder("imagenet2012") and not is_folder("vtab/dmlab:1.0.0")
    for name in ("/no/such", "./no", "~/no-such-folder", tmp_path / "no"):
        with pytest.raises(ValueError, match="not there"):
            is_folder(name)
    with pytest.raises(ValueError, match="not a folder"):
        is_folder("file")


def sixteen_bits():
    """A 16-bit RGB PNG, which Pillow does not write, and its high bytes."""
    import struct
    import zlib

    pixels = (np.asarray(picture(1)) * np.uint16(256) + 17).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("crop", [PLAIN, PLAIN.replace(crop_area=(0.2, 0.5))])
@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (encoded(picture(1), "JPEG", quality=95), "RGB"),
        (encoded(picture(1), "JPEG", quality=95, progressive=True), "RGB"),
        (encoded(picture(1, mode="L"), "JPEG", quality=95), "L"),
        (encoded(picture(1, mode="CMYK"), "JPEG", quality=95), "RGB"),
        (encoded(picture(1), "PNG"), "RGB"),
        (encoded(picture(1, mode="L"), "PNG"), "L"),
        (encoded(picture(1, mode="RGBA"), "PNG"), "RGB"),
        (sixteen_bits(), "RGB"),
        (encoded(picture(1), "WEBP", quality=95), "RGB"),
        (encoded(picture(1, mode="RGBA"), "WEBP", quality=95), "RGB"),
        (encoded(picture(1), "BMP"), "RGB"),
    ],
    ids=(
        "jpeg progressive gray_jpeg cmyk_jpeg png gray_png alpha_png "
        "png_of_16_bits webp alpha_webp bmp"
    ).split(),
)
def test_every_format_gives_the_pixels_of_the_picture(content, mode, crop):
    """Whole, and a crop: the crop of a PNG is the expectation."""
    seed = tf.constant([3, 5], tf.int64)
    image = random_crop(tf.constant(content), 24, crop, seed).numpy()
    original = encoded(picture(1, mode=mode).convert("RGB"), "PNG")
    expected = random_crop(tf.constant(original), 24, crop, seed).numpy()
    assert np.abs(image - expected).max() < 8
    assert np.abs(image - expected).mean() < 2.5


def test_a_folder_of_misnamed_pictures_trains(tmp_path):
    for label, contents in {
        "a": [encoded(picture(1), "PNG"), encoded(picture(1), "WEBP")],
        "b": [encoded(picture(1, mode="CMYK"), "JPEG"), sixteen_bits()],
    }.items():
        (tmp_path / "train" / label).mkdir(parents=True)
        for number, content in enumerate(contents):
            (tmp_path / "train" / label / f"{number}.jpeg").write_bytes(content)
    dataset, info = pipeline.training_dataset(
        tmp_path, size=16, batch_size=4, augment=PLAIN
    )
    images, labels = next(iter(dataset))
    assert info.corrupt.broken == 0
    pixels = images.numpy() * IMAGENET_STD + IMAGENET_MEAN
    assert np.abs(pixels - pixels[:1]).max() < 12
    np.testing.assert_array_equal(labels.numpy().sum(axis=0), [2, 2])


def test_a_folder_with_broken_files_trains_through_and_says_so(tmp_path):
    broken = {7, 30, 55}
    write(tmp_path / "train", 60, broken=broken)
    (tmp_path / "train" / "cat" / "030.png").write_bytes(b"")
    names = {f"train/{('cat', 'dog')[n % 2]}/{n:03}.png" for n in broken}

    def batches(first_step=0, **options):
        dataset, info = pipeline.training_dataset(
            tmp_path,
            size=8,
            batch_size=20,
            augment=PLAIN.replace(mixup=0.2, cutmix=1, crop_area=(0.3, 1)),
            first_step=first_step,
            **options,
        )
        return [x.numpy() for x, _ in dataset.take(6 - first_step)], info

    whole, info = batches()
    assert [len(images) for images in whole] == [20] * 6
    # Two epochs, and what was made ahead.
    assert info.corrupt.seen >= 120
    assert info.corrupt.broken == pytest.approx(info.corrupt.seen / 20, abs=3)
    assert set(info.corrupt.names) == names
    assert "could not be decoded: " in info.corrupt.summary()
    info.corrupt.check()
    # A replacement moves nothing that follows, and needs no history.
    resumed, _ = batches(first_step=4)
    np.testing.assert_array_equal(resumed, whole[4:])
    parts = [batches(shard=(index, 2))[0] for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_a_good_picture_stays_in_place_beside_a_broken_one(tmp_path):
    write(tmp_path / "good", 32)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / "cat" / "010.png").write_bytes(b"no picture")

    def images(root):
        (root / "train").mkdir()
        for label in ("cat", "dog"):
            (root / label).rename(root / "train" / label)
        dataset, _ = pipeline.training_dataset(root, size=8, batch_size=32)
        return next(iter(dataset))[0].numpy()

    good, bad = images(tmp_path / "good"), images(tmp_path / "bad")
    differs = np.flatnonzero(np.abs(good - bad).max(axis=(1, 2, 3)))
    assert len(differs) == 1
    # One of the others of the sixteen it stands among.
    distances = np.abs(good - bad[differs[0]]).max(axis=(1, 2, 3))
    assert distances.min() == 0
    assert np.argmin(distances) // 16 == differs[0] // 16


@pytest.mark.parametrize("training", [True, False])
def test_too_many_broken_pictures_end_the_run(tmp_path, training):
    write(tmp_path / "train", 40, broken=set(range(0, 40, 5)))
    make = (
        pipeline.training_dataset if training else pipeline.evaluation_dataset
    )
    options = {"split": "train", "size": 8, "batch_size": 10}
    dataset, info = make(tmp_path, **options)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"could not be decoded: .*Mend or remove .*`max_corrupt`",
    ):
        for _ in dataset.take(8):
            pass
    with pytest.raises(ValueError, match="could not be decoded"):
        info.corrupt.check()
    dataset, info = make(tmp_path, max_corrupt=0.25, **options)
    assert len(list(dataset.take(4))) == 4
    info.corrupt.check()


def test_pictures_broken_on_end_end_the_run(tmp_path):
    write(tmp_path / "train", 200, broken=set(range(200)))
    dataset, _ = pipeline.training_dataset(
        tmp_path, size=8, batch_size=4, max_corrupt=1
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="16 neighbors"):
        next(iter(dataset))


def test_evaluation_leaves_broken_pictures_out_and_counts_them(tmp_path):
    write(tmp_path / "test", 21, broken={4})
    dataset, info = pipeline.evaluation_dataset(tmp_path, size=8, batch_size=8)
    assert dataset.cardinality() == 3
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    assert [len(x) for x, _ in batches] == [len(y) for _, y in batches]
    assert [len(x) for x, _ in batches] == [7, 8, 5]
    assert (info.corrupt.seen, info.corrupt.broken) == (21, 1)
    assert info.corrupt.names == ["test/cat/004.png"]


def test_counter_counts_and_refuses_shares_outside_0_to_1():
    counter = CorruptCounter(0.1, examples=1000)
    assert counter.summary() == ""
    counter.count(10, ["a", "b"])
    counter.check()  # Too few seen for a share.
    counter.count(90, ["a"] * 9)
    assert counter.names == ["a", "b"]
    with pytest.raises(ValueError, match=r"11 of 100 images \(11.0%\).*a, b"):
        counter.check()
    for share in (-0.1, 1.1, "0.1", float("nan"), True):
        with pytest.raises(ValueError, match="`max_corrupt`.*Received: max_c"):
            CorruptCounter(share, examples=10)
