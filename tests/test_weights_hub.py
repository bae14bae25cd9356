"""The published weights: a prepared cache works, offline says what to do."""

import os
import subprocess
import sys

import pytest
from test_weights_haiku import CONFIGS, assert_same, build, filled

from keras_nfnet.weights import hub, load, load_haiku_tree, save, to_haiku_tree

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
        "from keras_nfnet.weights.hub import published_weights\n"
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
        "from keras_nfnet.weights.hub import published_weights\n"
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

    from keras_nfnet.weights import hub as module

    model, path = published
    asked = []

    def download(repo, file, **kwargs):
        asked.append((repo, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub,
        "get_hf_file_metadata",
        lambda url, **kwargs: asked.append(url),
    )
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *_: None
    )
    monkeypatch.setitem(module.REPOSITORIES, "tiny", REPO)
    from keras_nfnet.weights.load import load_pretrained, pretrained_path

    target = build()
    load_pretrained(target, pretrained_path("imagenet", "tiny"))
    assert asked == [
        f"https://huggingface.co/{REPO}/resolve/main/model.safetensors",
        (REPO, "model.safetensors"),
    ]
    assert_same(to_haiku_tree(target), to_haiku_tree(model))


def test_imagenet_for_another_network_is_refused():
    with pytest.raises(ValueError, match="no published ImageNet weights"):
        load(build(CONFIGS["one 3x3"]), "imagenet")
