"""The published weights: a prepared cache works, offline says what to do."""

import hashlib
import os
import pathlib
import runpy
import subprocess
import sys
import types
import warnings

import pytest
from test_weights_haiku import CONFIGS, assert_same, build, filled

from keras_nfnet.weights import load, load_haiku_tree, save, to_haiku_tree
from keras_nfnet.weights import published as hub

REPO = "timm/dm_nfnet_f0.dm_in1k"


def prepared_cache(folder, file):
    """The hub's cache as it is after a download."""
    repo = folder / "models--timm--dm_nfnet_f0.dm_in1k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    snapshot = repo / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    blob = repo / "blobs" / "0f"
    blob.write_bytes(file.read_bytes())
    (snapshot / "model.safetensors").symlink_to(blob)
    return folder


def metadata(path, etag=None):
    """What the hub says of a file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return types.SimpleNamespace(commit_hash="c" * 40, etag=etag or digest)


@pytest.fixture
def hub_of(monkeypatch):
    """Puts a file in the place of the hub's."""
    import huggingface_hub

    def put(path, said=None):
        for name, function in {
            "try_to_load_from_cache": lambda *_, **__: None,
            "get_hf_file_metadata": lambda *_, **__: said or metadata(path),
            "hf_hub_download": lambda *_, **__: str(path),
        }.items():
            monkeypatch.setattr(huggingface_hub, name, function)

    return put


@pytest.fixture
def published(tmp_path):
    """A file like the published one, of the tiny network."""
    model = build()
    load_haiku_tree(model, filled(model, seed=6))
    path = tmp_path / "model.safetensors"
    save(model, path, layout="timm")
    return model, path


@pytest.mark.parametrize("variant", ["F7", "F0+", "F4+", None])
def test_variants_without_published_weights(variant):
    with pytest.raises(ValueError, match="F0, F1, F2, F3, F4, F5, F6"):
        hub.published_weights(variant)


def test_repositories_are_timms():
    assert hub.repository("F0") == REPO
    assert hub.repository("F6") == "timm/dm_nfnet_f6.dm_in1k"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_prepared_cache_is_used(published, tmp_path, offline):
    prepared_cache(tmp_path / "hub", published[1])
    script = (
        "from keras_nfnet.weights.published import published_weights\n"
        "print(published_weights('F0'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": offline,
        },
    )
    path = done.stdout.strip().splitlines()[-1]
    assert path.endswith("snapshots/abc123/model.safetensors")


def test_offline_error_says_which_file_to_put_where(tmp_path):
    script = (
        "from keras_nfnet.weights.published import published_weights\n"
        "try:\n"
        "    published_weights('F0')\n"
        "except ValueError as error:\n"
        "    assert isinstance(error, OSError)\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={
            **os.environ,
            "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
        },
    )
    message = done.stdout.strip().splitlines()[-1]
    for part in (REPO, "model.safetensors", "`weights`", str(tmp_path)):
        assert part in message


def test_imagenet_loads_timms_file(published, monkeypatch):
    import huggingface_hub

    model, path = published
    asked = []

    def download(repo, file, **kwargs):
        asked.append((repo, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub,
        "get_hf_file_metadata",
        lambda url, **kwargs: asked.append(url) or metadata(path),
    )
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None
    )
    monkeypatch.setitem(hub.REPOSITORIES, "tiny", REPO)
    target = build()
    load(target, hub.published_weights("tiny"))
    assert asked == [
        f"https://huggingface.co/{REPO}/resolve/main/model.safetensors",
        (REPO, "model.safetensors"),
    ]
    assert_same(to_haiku_tree(target), to_haiku_tree(model))


def test_imagenet_for_another_network_is_refused():
    with pytest.raises(ValueError, match="no published ImageNet weights"):
        load(build(CONFIGS["one 3x3"]), "imagenet")


def test_a_download_that_another_process_removed(tmp_path, hub_of):
    hub_of(tmp_path / "gone", types.SimpleNamespace(etag="a" * 64))
    with pytest.raises(ValueError, match="gone.*load again"):
        hub.published_weights("F0")


@pytest.mark.parametrize("pinned", [False, True])
def test_a_download_that_was_not_announced_is_removed(
    tmp_path, hub_of, monkeypatch, pinned
):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"wrong")
    said = metadata(path, etag=None if pinned else "a" * 64)
    if pinned:
        monkeypatch.setitem(hub.PINNED, REPO, ("c" * 40, "a" * 64))
    hub_of(path, said)
    with pytest.raises(OSError, match=f"damaged.*{'a' * 64}.*removed"):
        hub.published_weights("F0")
    assert not path.exists()


def test_a_pinned_revision_is_the_one_that_is_asked_for(
    tmp_path, hub_of, monkeypatch
):
    import huggingface_hub

    path = tmp_path / "model.safetensors"
    path.write_bytes(b"right")
    hub_of(path)
    asked = []
    for name in ("try_to_load_from_cache", "hf_hub_download", "hf_hub_url"):
        function = getattr(huggingface_hub, name)
        monkeypatch.setattr(
            huggingface_hub,
            name,
            lambda *args, revision, _function=function, **kwargs: (
                asked.append(revision)
                or _function(*args, revision=revision, **kwargs)
            ),
        )
    digest = hashlib.sha256(b"right").hexdigest()
    monkeypatch.setitem(hub.PINNED, REPO, ("c" * 40, digest))
    assert hub.published_weights("F0") == str(path)
    assert asked == ["c" * 40] * 3


def test_a_file_that_was_another_at_an_earlier_download_is_told(
    tmp_path, hub_of, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    path = tmp_path / "model.safetensors"
    hub_of(path)
    path.write_bytes(b"first")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        hub.published_weights("F0")
        hub.published_weights("F0")
    path.write_bytes(b"second")
    with pytest.warns(UserWarning, match=f"{REPO}.* is not what it was"):
        hub.published_weights("F0")


def test_what_could_not_be_checked_is_told(tmp_path, hub_of):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"any")
    hub_of(path, metadata(path, etag="5f3-62a"))
    with pytest.warns(UserWarning, match="could not be checked"):
        assert hub.published_weights("F0") == str(path)


def test_the_table_of_pins_is_printed_from_the_hub(
    tmp_path, hub_of, monkeypatch, capsys
):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"any")
    hub_of(path)
    monkeypatch.setattr(sys, "argv", ["pin_hub.py"])
    tools = pathlib.Path(__file__).parents[1] / "tools"
    runpy.run_path(str(tools / "pin_hub.py"), run_name="__main__")
    scope = {}
    exec(capsys.readouterr().out, scope)
    said = metadata(path)
    assert scope["PINNED"] == dict.fromkeys(
        hub.REPOSITORIES.values(), (said.commit_hash, said.etag)
    )
