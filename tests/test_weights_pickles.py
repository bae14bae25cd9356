"""The reader of DeepMind's pickles: real ones load, hostile ones do nothing."""

import builtins
import collections
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from faults.hostile import calls
from test_weights_haiku import assert_same, build, filled

from keras_nfnet.weights import load, save, to_haiku_tree


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def tree(model):
    return filled(model, seed=2)


def reads(path, model, tree):
    load(model, path)
    assert_same(to_haiku_tree(model), tree)


def small(tree):
    """A tree of few bytes, for the reader alone."""
    module = "NFNet/~/nf_block_1/~/squeeze_excite/~/linear"
    return {module: tree[module], "NFNet/~/nf_block": tree["NFNet/~/nf_block"]}


def read_bytes(data, tmp_path):
    from keras_nfnet.weights.pickles import read_haiku_pickle

    path = tmp_path / "tree.pickle"
    path.write_bytes(data)
    with open(path, "rb") as file:
        return {
            name: np.array(entry.read())
            for name, entry in read_haiku_pickle(file).items()
        }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("writer", ["pickle", "dill"])
def test_every_protocol_loads(model, tree, tmp_path, writer, protocol):
    if writer == "dill" and protocol < 2:
        pytest.skip("dill's own default is 4, and the files are newer than 1")
    module = pytest.importorskip(writer)
    path = tmp_path / "F0_haiku.npz"
    path.write_bytes(module.dumps(tree, protocol=protocol))
    reads(path, model, tree)


def haiku_stub(style):
    """A module named like haiku's, with a mapping that pickles in `style`."""
    name = "haiku._src.data_structures"
    module = types.ModuleType(name)

    class FlatMapping(collections.abc.Mapping):
        def __init__(self, mapping):
            self._mapping = dict(mapping)

        def __getitem__(self, key):
            return self._mapping[key]

        def __iter__(self):
            return iter(self._mapping)

        def __len__(self):
            return len(self._mapping)

        if style == "reduce":

            def __reduce__(self):
                return type(self), (self._mapping,)

    FlatMapping.__module__ = name
    FlatMapping.__qualname__ = "FlatMapping"
    module.FlatMapping = FlatMapping
    parents = {"haiku": types.ModuleType("haiku")}
    parents["haiku._src"] = types.ModuleType("haiku._src")
    parents["haiku"]._src = parents["haiku._src"]
    parents["haiku._src"].data_structures = module
    return {**parents, name: module}, FlatMapping


@pytest.mark.parametrize("style", ["reduce", "state"])
@pytest.mark.parametrize("depth", ["outer", "both"])
def test_haikus_mapping_loads_without_haiku(
    model, tree, tmp_path, monkeypatch, style, depth
):
    dill = pytest.importorskip("dill")
    modules, mapping = haiku_stub(style)
    path = tmp_path / "F0_haiku.npz"
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        inner = tree
        if depth == "both":
            inner = {key: mapping(value) for key, value in tree.items()}
        path.write_bytes(dill.dumps(mapping(inner)))
    assert b"haiku._src" in path.read_bytes()
    reads(path, model, tree)
    assert "haiku" not in sys.modules


def test_jax_arrays_and_other_values_load(model, tree, tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    import ml_dtypes

    tree = {key: dict(value) for key, value in tree.items()}
    tree["NFNet/~/nf_block"] = {"skip_gain": np.float32(0.25)}
    varied = {key: dict(value) for key, value in tree.items()}
    kernel = tree["NFNet/~/final_conv"]["w"]
    exact = kernel.astype(ml_dtypes.bfloat16)
    tree["NFNet/~/final_conv"]["w"] = exact.astype("float32")
    varied["NFNet/~/final_conv"]["w"] = exact
    module = "NFNet/~/stem_conv3"
    varied[module]["w"] = np.asfortranarray(tree[module]["w"]).astype(">f8")
    module = "NFNet/~/stem_conv2"
    varied[module] = collections.OrderedDict(
        (name, jnp.asarray(value)) for name, value in tree[module].items()
    )
    path = tmp_path / "tree"
    path.write_bytes(pickle.dumps(varied))
    load(model, path)
    for key in tree:
        for name in tree[key]:
            np.testing.assert_array_equal(
                to_haiku_tree(model)[key][name], tree[key][name]
            )


def test_nothing_of_jax_haiku_or_dill_is_imported(model, tree, tmp_path):
    dill = pytest.importorskip("dill")
    (tmp_path / "tree").write_bytes(dill.dumps(small(tree)))
    # Keras brings some of these by itself, so they are shut out afterwards:
    # `None` makes an import fail.
    script = (
        "import sys\n"
        "from keras_nfnet.weights.pickles import read_haiku_pickle\n"
        "for name in ['jax', 'haiku', 'dill', 'dill._dill', 'jax._src']:\n"
        "    sys.modules[name] = None\n"
        "before = set(sys.modules)\n"
        f"with open({str(tmp_path / 'tree')!r}, 'rb') as file:\n"
        "    entries = read_haiku_pickle(file)\n"
        "print(len([entry.read() for entry in entries.values()]))\n"
        "print(set(sys.modules) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3", "set()"]


def test_written_file_needs_numpy_alone(model, tree, tmp_path):
    path = tmp_path / "out.npz"
    save(model, path)
    script = (
        "import pickle, sys\n"
        f"tree = pickle.load(open({str(path)!r}, 'rb'))\n"
        "print(len(tree), 'keras' in sys.modules, 'jax' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(len(tree)), "False", "False"]


@pytest.mark.parametrize("name", sorted(calls("x")))
def test_hostile_pickle_is_refused_and_runs_nothing(model, tmp_path, name):
    marker = tmp_path / "ran"
    evil = calls(marker)[name]
    before = to_haiku_tree(model)
    path = tmp_path / "F0_haiku.npz"
    for content in (
        evil,
        {"NFNet/~/linear": evil},
        {"NFNet/~/linear": {"w": evil}},
        {"NFNet/~/linear": [(evil, 1)]},
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="F0_haiku"):
            load(model, path)
    assert not marker.exists()
    assert np.dtype("f4").itemsize == 4 and np.float32(1.5) == 1.5
    assert_same(to_haiku_tree(model), before)


# Written by hand, since no pickler writes them.
RAW = {
    "extension": b"\x80\x04\x82\x01.",
    "persistent id": b"\x80\x04\x8c\x01aQ.",
    "text persistent id": b"(Pabc\n.",
    "instance": b"(S'touch'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch'\no.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "huge string": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.",
    "huge text": b"\x80\x04X\xff\xff\xff\x7fabc.",
    "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "huge number": b"\x80\x04\x8b\xff\xff\xff\x7f\x01.",
    "many digits": b"I" + b"9" * 5000 + b"\n.",
    "no stop": b"\x80\x04}",
    "empty stack": b"\x80\x04.",
    "mark only": b"\x80\x04(.",
    "pop of nothing": b"\x80\x040.",
    "unknown memo": b"\x80\x04h\x09.",
    "deep tuples": b"\x80\x04)" + b"\x85" * 300_000 + b".",
    "deep lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep key": b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",
    "build of a name": b"\x80\x04cnumpy\nndarray\n}b.",
    "call of text": b"\x80\x04\x8c\x02os)R.",
    "itself": b"\x80\x04}q\x00\x8c\x01ah\x00s.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93)R.",
    "module in name": b"\x80\x04cnumpy.core\nmultiarray._reconstruct\n.",
    "unknown step": b"\x80\x04\xff.",
}


@pytest.mark.parametrize("name", sorted(RAW))
def test_malformed_pickle_is_a_value_error(model, tmp_path, name):
    path = tmp_path / "F0_haiku.npz"
    path.write_bytes(RAW[name])
    with pytest.raises(ValueError, match="F0_haiku"):
        load(model, path)


def test_endless_steps_are_refused(tmp_path, monkeypatch):
    from keras_nfnet.weights import pickles

    monkeypatch.setattr(pickles, "_MOST_STEPS", 100)
    with pytest.raises(ValueError, match="more steps"):
        read_bytes(b"\x80\x04" + b"N0" * 1000 + b"N.", tmp_path)


def test_truncations_are_value_errors(tree, tmp_path):
    data = pickle.dumps(small(tree), protocol=4)
    cuts = [*range(0, 200), *range(200, len(data), 97)]
    for cut in cuts:
        with pytest.raises(ValueError):
            read_bytes(data[:cut], tmp_path)
    assert len(read_bytes(data + b"anything", tmp_path)) == 3


@pytest.mark.parametrize("writer", ["pickle", "dill"])
def test_mutations_give_arrays_or_value_errors(tree, tmp_path, writer):
    data = pytest.importorskip(writer).dumps(small(tree), protocol=4)
    # Where the structure is, rather than the arrays' values.
    places = [
        i
        for i in range(len(data))
        if i < 400 or i > len(data) - 400 or i % 1000 == 0
    ]
    generator = np.random.Generator(np.random.PCG64(0))
    names = dict(vars(builtins))
    loaded = 0
    for _ in range(600):
        mutated = bytearray(data)
        for place in generator.choice(places, generator.integers(1, 4)):
            mutated[place] = generator.integers(256)
        try:
            arrays = read_bytes(bytes(mutated), tmp_path)
        except ValueError:
            continue
        loaded += 1
        for array in arrays.values():
            assert array.dtype.name in ("float16", "float32", "float64")
    assert 0 < loaded < 600
    assert dict(vars(builtins)) == names
    assert np.dtype("float32").itemsize == 4
    assert np.float32(1) + np.float32(2) == np.float32(3)
    assert np.arange(3, dtype="f4").sum() == 3
