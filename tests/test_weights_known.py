"""Files without a checksum of their own are compared with what is known."""

import hashlib
import json
import os
import pickle
import warnings

import numpy as np
import pytest
from test_weights_files import KINDS, rewrite
from test_weights_haiku import assert_same, build, filled

from keras_nfnet.weights import (
    convert,
    load,
    load_haiku_tree,
    save,
    to_haiku_tree,
)
from keras_nfnet.weights import published as known

# Of these others write files as well, without our checksums.
FOREIGN = [kind for kind in KINDS if kind != "own"]


def assert_refused(target, path, words):
    """The model stays as it is."""
    before = to_haiku_tree(target)
    with pytest.raises(ValueError, match=words):
        load(target, path)
    assert_same(to_haiku_tree(target), before)


@pytest.fixture(scope="module")
def model():
    model = build()
    load_haiku_tree(model, filled(model, seed=3))
    return model


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "keras_nfnet" / "known_files"


def foreign(kind, path, model, change=0.0):
    """Another's file; `change` is added to one of its values."""
    tree = to_haiku_tree(model)
    tree["NFNet/~/linear"]["b"][1] += change
    rewrite(kind, path, tree)
    return tree


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_change_since_the_first_load_is_told_once(
    kind, model, tmp_path, home
):
    path, target = tmp_path / "w", build()
    foreign(kind, path, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(target, path)
        load(target, path)
        convert(path, tmp_path / "out.safetensors")
    (record,) = home.iterdir()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(record.read_text())["sha256"] == digest
    tree = foreign(kind, path, model, change=0.5)
    with pytest.warns(UserWarning, match="replaced on purpose") as caught:
        load(target, path)
    text = str(caught[0].message)
    assert str(path) in text and digest in text and "\n" not in text
    assert_same(to_haiku_tree(target), tree)  # Who owns it may change it.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(target, path)
    foreign(kind, path, model)
    with pytest.warns(UserWarning, match="replaced on purpose"):
        convert(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_ours_need_no_record(kind, model, tmp_path, home):
    name, layout = KINDS[kind]
    save(model, tmp_path / name, layout=layout)
    load(build(), tmp_path / name)
    assert not home.exists()


def test_our_pickles_carry_a_checksum_that_others_do_not_see(model, tmp_path):
    path, target = tmp_path / "w.npz", build()
    save(model, path)
    with open(path, "rb") as file:
        assert_same(pickle.load(file), to_haiku_tree(model))
    assert_same(np.load(path, allow_pickle=True), to_haiku_tree(model))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_refused(target, path, "not what was saved")


def test_deepminds_files_are_known_by_their_md5(
    model, tmp_path, home, monkeypatch
):
    path, target = tmp_path / "F0_haiku.npz", build()
    foreign("deepmind", path, model)
    data = bytearray(path.read_bytes())
    md5 = hashlib.md5(data).hexdigest()
    monkeypatch.setitem(known.PUBLISHED, path.name, (md5, len(data)))
    load(target, path)
    assert not home.exists()  # There is no need of a record.
    data[-100] ^= 1
    path.write_bytes(data)
    assert_refused(target, path, f"{md5}.* damaged.*another name")
    load(target, path.rename(tmp_path / "mine.npz"))


def test_values_of_ones_own_under_a_published_name(model, tmp_path):
    """They load: that they are damaged is not known."""
    foreign("deepmind", tmp_path / "F0_haiku.npz", model)
    foreign("deepmind", tmp_path / "F1_haiku.npz", model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(build(), tmp_path / "F0_haiku.npz")  # Not of F0's size.
    with pytest.warns(UserWarning, match="holds other values"):
        load(build(), tmp_path / "F1_haiku.npz")


def test_what_cannot_be_noted_keeps_nobody_from_loading(
    model, tmp_path, home, monkeypatch
):
    path = tmp_path / "w"
    foreign("timm", path, model)
    home.parent.mkdir(parents=True)
    home.touch()  # As where nothing can be written, for root as well.
    load(build(), path)
    home.unlink()
    load(build(), path)
    (record,) = home.iterdir()
    for damage in ("", "{", "[]", '{"sha256": 3}', '{"sha256": "ab"}'):
        record.write_text(damage)
        load(build(), path)
    assert os.listdir(home) == [record.name]


def test_names_that_are_not_utf8(model, tmp_path, home):
    path = os.path.join(tmp_path, os.fsdecode(b"w\xff"))
    foreign("deepmind", tmp_path / "w", model)
    os.rename(tmp_path / "w", path)
    load(build(), path)
    (record,) = home.iterdir()
    assert json.loads(record.read_text())["file"] == path


def test_a_file_that_goes_away_while_it_is_loaded(model, tmp_path, monkeypatch):
    path = tmp_path / "w"
    foreign("deepmind", path, model)
    monkeypatch.setattr(
        known, "digest_of", lambda *_: open(tmp_path / "gone", "rb")
    )
    assert_refused(build(), path, "cannot be read")


def test_a_record_is_written_whole_or_not_at_all(
    model, tmp_path, home, monkeypatch
):
    foreign("timm", tmp_path / "w", model)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    load(build(), tmp_path / "w")
    assert os.listdir(home) == []


def test_records_do_not_grow_without_end(tmp_path, home, monkeypatch):
    monkeypatch.setattr(known, "_MOST_RECORDS", 3)
    for i in range(9):
        known.warn_of_change(f"/file{i}", "a" * 64, "The file")
        os.utime(max(home.iterdir(), key=os.path.getctime), (i, i))
    files = {json.loads(p.read_text())["file"] for p in home.iterdir()}
    assert files == {"/file6", "/file7", "/file8"}


def in_hub_cache(folder, data, digest):
    """A file as the hub's cache has it."""
    blob = folder / "models--a--b" / "blobs" / digest
    link = folder / "models--a--b" / "snapshots" / "c" / "model.safetensors"
    blob.parent.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
    return link


def test_the_hubs_cache_is_checked_at_every_load(model, tmp_path, home):
    foreign("timm", tmp_path / "w", model)
    data = (tmp_path / "w").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    path = in_hub_cache(tmp_path, data, digest)
    load(build(), path)
    assert not home.exists()
    flipped = bytearray(data)
    flipped[-10] ^= 1
    path.resolve().write_bytes(flipped)
    for take in (
        lambda: load(build(), path),
        lambda: convert(path, tmp_path / "out.npz"),
        lambda: build(weights=path),
    ):
        path.resolve().write_bytes(flipped)
        with pytest.raises(OSError, match=f"damaged.*{digest}.*removed"):
            take()
        assert not path.exists()
