"""Files: told apart by content, checked whole, written whole or not at all."""

import json
import os
import pickle

import numpy as np
import pytest
from test_weights_haiku import CONFIGS, TINY, assert_same, build, filled

from keras_nfnet.variants import NFNetConfig
from keras_nfnet.weights import (
    convert,
    load,
    load_haiku_tree,
    save,
    to_haiku_tree,
)

# (file name, layout) of every kind that is written.
KINDS = {
    "own": ("w.safetensors", None),
    "timm": ("w_timm.safetensors", "timm"),
    "keras": ("w.weights.h5", None),
    "deepmind": ("w_haiku.npz", None),
}


@pytest.fixture(scope="module")
def model():
    model = build(
        NFNetConfig(**TINY, group_width=16, drop_rate=0.2), name="first"
    )
    load_haiku_tree(model, filled(model, seed=3))
    return model


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, layout in KINDS.values():
        save(model, folder / name, layout=layout)
    return {kind: folder / KINDS[kind][0] for kind in KINDS}


@pytest.fixture(scope="module")
def target():
    return build()


def refused(target, path, match, **kwargs):
    before = to_haiku_tree(target)
    with pytest.raises(ValueError, match=match) as caught:
        load(target, path, **kwargs)
    assert_same(to_haiku_tree(target), before)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads_under_any_name(files, model, tmp_path, kind):
    path = tmp_path / "a file.txt"
    path.write_bytes(files[kind].read_bytes())
    assert_same(to_haiku_tree(build(weights=path)), to_haiku_tree(model))
    assert_same(to_haiku_tree(build(weights=str(path))), to_haiku_tree(model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", KINDS)
def test_convert_keeps_every_value(files, model, target, tmp_path, kind, to):
    name, layout = KINDS[to]
    report = convert(files[kind], tmp_path / name, layout=layout)
    assert report["classes"] == 10 and report["variant"] is None
    assert report["parameters"] == model.count_params()
    assert report["arrays"] == len(model.trainable_weights)
    load(target, tmp_path / name)
    assert_same(to_haiku_tree(target), to_haiku_tree(model))
    (tmp_path / "plain").touch()
    modes = {(tmp_path / file).stat().st_mode for file in (name, "plain")}
    assert len(modes) == 1  # Others may read it as they may other files.


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_convert_of_other_networks_and_headless_ones(config, tmp_path):
    for top in (True, False):
        model = build(config, include_top=top)
        tree = filled(model)
        first = tmp_path / f"{top}.npz"
        first.write_bytes(pickle.dumps(tree))
        last = first
        for name, layout in KINDS.values():
            path = tmp_path / f"{top}_{name}"
            convert(last, path, layout=layout)
            last = path
        load(model, last)
        assert_same(to_haiku_tree(model), tree)


def test_keras_reads_what_save_wrote_and_the_reverse(
    files, model, target, tmp_path
):
    target.load_weights(files["keras"])
    assert_same(to_haiku_tree(target), to_haiku_tree(model))
    load_haiku_tree(target, filled(target, seed=4))
    target.save_weights(tmp_path / "k.weights.h5")
    other = build(weights=tmp_path / "k.weights.h5")
    assert_same(to_haiku_tree(other), to_haiku_tree(target))


@pytest.mark.training
def test_weights_of_a_trained_model_load(tmp_path):
    model = build(input_shape=(32, 32, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 32, 32, 3)), np.zeros(2), verbose=0)
    model.save_weights(tmp_path / "trained.weights.h5")
    other = build(weights=tmp_path / "trained.weights.h5")
    assert_same(to_haiku_tree(other), to_haiku_tree(model))


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_classes_says_so(files, kind):
    target = build(classes=7)
    message = refused(target, files[kind], "10 classes.*7.*new_head=True")
    assert "include_top=False" in message
    with pytest.raises(ValueError, match="10 classes, the model one of 7"):
        build(weights=files[kind], classes=7)


@pytest.mark.parametrize("kind", KINDS)
def test_new_head_and_no_head_load_the_rest(files, model, kind):
    theirs = to_haiku_tree(model)
    target = build(classes=7)
    head = to_haiku_tree(target)["NFNet/~/linear"]
    load(target, files[kind], new_head=True)
    tree = to_haiku_tree(target)
    np.testing.assert_array_equal(tree["NFNet/~/linear"]["w"], head["w"])
    del tree["NFNet/~/linear"]
    body = {key: value for key, value in theirs.items() if key in tree}
    assert_same(tree, body)
    assert_same(
        to_haiku_tree(build(include_top=False, weights=files[kind])), body
    )


@pytest.mark.parametrize("kind", KINDS)
def test_headless_file_into_a_model_with_a_head(files, kind, tmp_path):
    name, layout = KINDS[kind]
    headless = build(include_top=False)
    save(headless, tmp_path / name, layout=layout)
    target = build()
    refused(target, tmp_path / name, "has no classifier")
    load(target, tmp_path / name, new_head=True)


def test_a_model_built_on_the_network(files, model):
    import keras

    base = build(include_top=False, pooling="avg")
    outputs = keras.layers.Dense(3, name="mine")(base.output)
    for top in (
        keras.Model(base.input, outputs),
        keras.Sequential([base, keras.layers.Dense(3, name="mine")]),
    ):
        head = np.array(top.layers[-1].kernel)
        with pytest.raises(ValueError, match="'mine'.*|new_head=True"):
            load(top, files["own"])
        load(top, files["own"], new_head=True)
        np.testing.assert_array_equal(head, np.array(top.layers[-1].kernel))
        np.testing.assert_array_equal(
            to_haiku_tree(base)["NFNet/~/final_conv"]["w"],
            to_haiku_tree(model)["NFNet/~/final_conv"]["w"],
        )


@pytest.mark.parametrize("kind", KINDS)
def test_another_network_is_refused(files, kind):
    target = build(NFNetConfig((32, 64, 96, 96), (1, 2, 2, 1), group_width=16))
    refused(target, files[kind], r"depths \(1, 2, 1, 1\), the model has")
    wider = build(NFNetConfig((48, 64, 96, 96), (1, 2, 1, 1), group_width=16))
    refused(wider, files[kind], "expected .* received")


def rewrite(kind, path, tree):
    """Writes a tree that need not be sound."""
    from safetensors.numpy import save_file

    from keras_nfnet.weights.names import HAIKU, KERAS_H5, OWN, TIMM_DEEP

    if kind == "deepmind":
        path.write_bytes(pickle.dumps(tree))
        return
    flat = {f"{m}:{p}": v for m in tree for p, v in tree[m].items()}
    keys = dict(HAIKU[-1].keys(flat).items())
    layout = {
        "own": OWN,
        "timm": TIMM_DEEP,
        "keras": KERAS_H5,
    }[kind]
    names = layout.names(keys.values())
    arrays = {
        names[key]: layout.to_file(key, flat[name])
        for name, key in keys.items()
    }
    if kind == "keras":
        import h5py

        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    else:
        save_file(arrays, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(
    files, model, target, tmp_path, kind, value
):
    tree = to_haiku_tree(model)
    tree["NFNet/~/nf_block_3/~/conv1"]["gain"][5] = value
    rewrite(kind, tmp_path / "bad", tree)
    refused(target, tmp_path / "bad", "not finite")
    model_with_nan = build()
    variable = model_with_nan.get_layer("stem_conv0").kernel
    variable.assign(np.full(variable.shape, value))
    with pytest.raises(ValueError, match="stem_conv0/kernel"):
        save(model_with_nan, tmp_path / KINDS[kind][0])
    assert not (tmp_path / KINDS[kind][0]).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_misshapen_missing_and_integer_entries(model, target, tmp_path, kind):
    def damaged(change):
        tree = to_haiku_tree(model)
        change(tree["NFNet/~/nf_block_2/~/conv2"])
        rewrite(kind, tmp_path / "bad", tree)
        return tmp_path / "bad"

    def misshape(module):
        module["w"] = module["w"][..., :-1]

    def whole(module):
        module["bias"] = np.ones(module["bias"].shape, "int32")

    refused(target, damaged(misshape), "of another shape")
    refused(target, damaged(lambda m: m.pop("gain")), "1 missing")
    refused(target, damaged(whole), "float")
    with pytest.raises(ValueError):
        convert(damaged(misshape), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(files, target, tmp_path, kind):
    data = files[kind].read_bytes()
    path = tmp_path / "cut"
    for length in (0, 1, 7, 8, 9, 100, 2000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(target, path, "cut")


@pytest.mark.parametrize("kind", KINDS)
def test_bit_flips_are_found(files, model, tmp_path, kind):
    """A flipped bit is refused, or was in bytes that carry no value."""
    data = files[kind].read_bytes()
    generator = np.random.Generator(np.random.PCG64(5))
    tree = to_haiku_tree(model)
    target = build()
    load_haiku_tree(target, tree)
    path = tmp_path / "flipped"
    found = 0
    header = min(len(data) - 1, 20_000)
    for i in range(60):
        flipped = bytearray(data)
        end = header if i % 2 else len(data)
        flipped[generator.integers(end)] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        try:
            load(target, path)
        except ValueError:
            found += 1
        assert_same(to_haiku_tree(target), tree)
    assert found > 20


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "empty"),
        (b"hello", "not a DeepMind"),
        (b"PK\x03\x04" + bytes(30), "zip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\xff" * 8 + b"{", "safetensors"),
        (b"\x02" + bytes(7) + b"{}", "not fit"),
        (bytes(2000), "not a DeepMind"),
    ],
)
def test_other_content_is_refused(target, tmp_path, content, match):
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    refused(target, path, match)
    with pytest.raises(ValueError):
        convert(path, tmp_path / "out.npz")


def test_what_is_no_ordinary_file_is_refused(target, tmp_path):
    refused(target, tmp_path, "directory")
    refused(target, tmp_path / "absent", "exists")
    for other in (3, None, b"x", "", "a\0b", ["x"]):
        refused(target, other, "path of a file")
    os.mkfifo(tmp_path / "pipe")
    refused(target, tmp_path / "pipe", "ordinary file")


def test_links_inside_an_hdf5_file_are_not_followed(files, target, tmp_path):
    import h5py

    name = "layers/scaled_ws_conv2d/vars/0"
    for link in (
        h5py.ExternalLink(str(files["keras"]), name),
        h5py.SoftLink("/layers/scaled_ws_conv2d_1/vars/0"),
    ):
        path = tmp_path / "linked.weights.h5"
        path.write_bytes(files["keras"].read_bytes())
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = link
        refused(target, path, "link to somewhere else")


def test_giant_shapes_are_refused_before_reading(files, target, tmp_path):
    import h5py

    path = tmp_path / "giant.weights.h5"
    path.write_bytes(files["keras"].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset(
            "layers/dense/vars/0",
            shape=(10**6, 10**6),
            dtype="f4",
            chunks=(100, 100),
        )
    refused(target, path, "1000000")


def test_checksums_of_our_files_are_kept(files):
    from safetensors import safe_open

    with safe_open(files["own"], framework="np") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert metadata["format"] == "keras_nfnet"
    assert set(json.loads(metadata["keras_nfnet_checksums"])) == names
    assert "stage2_block1/se_reduce/kernel" in names


def test_a_checksum_that_is_gone_is_refused(files, target, tmp_path):
    import h5py

    path = tmp_path / "w.weights.h5"
    path.write_bytes(files["keras"].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"].attrs["keras_nfnet_checksum"]
    refused(target, path, "checksum")


@pytest.mark.parametrize("kind", KINDS)
def test_failed_write_leaves_the_old_file(
    model, files, tmp_path, monkeypatch, kind
):
    name, layout = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="unchanged.*No space left"):
            save(model, path, layout=layout)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]
    source = tmp_path / "bad"
    source.write_bytes(files[kind].read_bytes()[:-9])
    with pytest.raises(ValueError):
        convert(source, path, layout=layout)
    assert path.read_bytes() == b"old"
    save(model, path, layout=layout)
    assert sorted(os.listdir(tmp_path)) == sorted(["bad", name])


def test_bad_destinations_are_refused(model, files, tmp_path):
    (tmp_path / "folder.npz").mkdir()
    source = files["own"]
    for destination, match in (
        (tmp_path / "folder.npz", "directory"),
        (tmp_path / "absent" / "w.npz", "folder to write to must exist"),
        (tmp_path / "w.h5", "must end in"),
        (tmp_path / "w", "must end in"),
        (3, "path of a file"),
    ):
        with pytest.raises(ValueError, match=match):
            save(model, destination)
        with pytest.raises(ValueError, match=match):
            convert(source, destination)
    with pytest.raises(ValueError, match="another file"):
        convert(source, source)
    os.symlink(source, tmp_path / "link.safetensors")
    with pytest.raises(ValueError, match="another file"):
        convert(source, tmp_path / "link.safetensors")
    with pytest.raises(ValueError, match="`layout`"):
        save(model, tmp_path / "w.safetensors", layout="haiku")
    with pytest.raises(ValueError, match="`layout`.*layout='timm'"):
        convert(source, tmp_path / "w.npz", layout="timm")
