"""Files that are damaged: cut short, or with one bit flipped.

Each is loaded whole first, as its owner did. Where a file has no checksum of
its own, that load is what a later one is compared with.
"""

import contextlib
import dataclasses
import hashlib
import os
import pickle
import unittest.mock
import warnings
from collections.abc import Callable

import numpy as np

from faults.scorecard import Row

TITLE = "Damaged files"
PROMISE = (
    "A damaged file is refused. One that has no checksum of its own, and\n"
    "none that its publisher announced, is loaded with a warning if it has\n"
    "changed since its first load. None gives other values without a word."
)

_CUTS, _FLIPS = 100, 300
_SHORT_CUTS, _SHORT_FLIPS = 10, 30
SILENT = "other values without a word"


@dataclasses.dataclass
class _Kind:
    """One kind of file.

    Args:
        write: Called with a network and a path.
        load: Called with a path; returns a list of arrays.
        published: Whether its publisher announced a checksum, which is
            patched to be this file's.
        checksum: Whether it is known what is in it, before its first load.
    """

    write: Callable
    load: Callable
    name: str = "weights"
    published: bool = False
    checksum: bool = True


def network(seed):
    from keras_nfnet import NFNet, NFNetConfig

    config = NFNetConfig((16, 32), (1, 1), group_width=8)
    model = NFNet(config, weights=None, classes=3)
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(generator.normal(size=variable.shape))
    return model


def _values(model):
    return [variable.numpy().copy() for variable in model.weights]


def _saved(layout=None):
    def write(model, path):
        from keras_nfnet.weights import save

        save(model, path, layout=layout)

    return write


def _foreign_safetensors(dtype):
    """What timm writes: its names, no checksums."""

    def write(model, path):
        from ml_dtypes import bfloat16
        from safetensors.numpy import load_file, save_file

        from keras_nfnet.weights import save

        ours = path.with_name("ours.safetensors")
        save(model, ours, layout="timm")
        arrays = load_file(ours)
        ours.unlink()
        if dtype == "bfloat16":
            arrays = {name: a.astype(bfloat16) for name, a in arrays.items()}
        save_file(arrays, path, metadata={"format": "pt"})

    return write


def _foreign_pickle(model, path):
    from keras_nfnet.weights import to_haiku_tree

    path.write_bytes(pickle.dumps(to_haiku_tree(model)))


def _checkpoint(model, path):
    from keras_nfnet.training.checkpoint import Checkpoints

    with Checkpoints(path.parent) as checkpoints:
        arrays = {f"{i}": a for i, a in enumerate(_values(model))}
        checkpoints.save(7, arrays, {"seed": 3})


def _load_checkpoint(path):
    from keras_nfnet.training.checkpoint import Checkpoints

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Says which file is passed over.
        checkpoint = Checkpoints(path.parent).restore()
    if checkpoint is None:
        raise ValueError("passed over")
    return list(checkpoint.arrays.values())


def _load_keras(path):
    from keras_nfnet.models.keras_file import load_keras_file

    return _values(load_keras_file(path, "MODEL"))


def _kinds(model):
    from keras_nfnet.weights import load

    def weights(path):
        load(model, path)
        return _values(model)

    def plain_h5(model, path):
        model.save_weights(path)

    blob = "models--a--b/blobs/0"
    return {
        "our .safetensors": _Kind(_saved(), weights, "w.safetensors"),
        "our .safetensors under timm's names": _Kind(
            _saved("timm"), weights, "w.safetensors"
        ),
        "our .weights.h5": _Kind(_saved(), weights, "w.weights.h5"),
        "our .npz": _Kind(_saved(), weights, "w.npz"),
        "a checkpoint of training": _Kind(
            _checkpoint, _load_checkpoint, "step-0000000007.safetensors"
        ),
        "a .keras file": _Kind(
            lambda model, path: model.save(path), _load_keras, "m.keras"
        ),
        "a stand-in for timm's .safetensors in the hub's cache": _Kind(
            _foreign_safetensors("float32"), weights, blob, published=True
        ),
        "a stand-in for DeepMind's published pickle": _Kind(
            _foreign_pickle, weights, "F0_haiku.npz", published=True
        ),
        "a foreign pickle": _Kind(_foreign_pickle, weights, checksum=False),
        "a foreign float32 .safetensors": _Kind(
            _foreign_safetensors("float32"), weights, checksum=False
        ),
        "a foreign bfloat16 .safetensors": _Kind(
            _foreign_safetensors("bfloat16"), weights, checksum=False
        ),
        "Keras's own .weights.h5": _Kind(
            plain_h5, weights, "plain.weights.h5", checksum=False
        ),
    }


def outcome(load, path, sound):
    """What came of loading a damaged file, in a word."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            values = load(path)
        except ValueError:
            return "refused"
        except Exception as error:
            return f"ended in {type(error).__name__}"
    if any("is not what it was when" in str(w.message) for w in caught):
        return "loaded with a warning"
    if len(values) == len(sound) and all(map(np.array_equal, values, sound)):
        return "loaded with the same values"
    return SILENT


def cut(data, generator):
    return data[: generator.integers(len(data))]


def flipped(data, generator):
    """Half of them in the first bytes, where the structure is."""
    end = min(len(data), 4000) if generator.integers(2) else len(data)
    data = bytearray(data)
    data[generator.integers(end)] ^= 1 << int(generator.integers(8))
    return bytes(data)


@contextlib.contextmanager
def _known(kind, path, data):
    """What is known of a sound file; yields what restores that."""
    from keras_nfnet.weights import published

    if kind.published:
        files = {"F0_haiku.npz": (hashlib.md5(data).hexdigest(), len(data))}
        with unittest.mock.patch.object(published, "PUBLISHED", files):
            yield lambda: None
        return
    records = os.path.join(os.environ["KERAS_HOME"], "keras_nfnet")
    kept = {}
    for folder, _, names in os.walk(records):
        for name in names:
            with open(os.path.join(folder, name)) as file:
                kept[file.name] = file.read()

    def restore():
        for name, text in kept.items():
            with open(name, "w") as file:
                file.write(text)

    yield restore


def _damaged(kind, path, data, damages):
    """`{damage: {outcome: count}}` of a file that was loaded before."""
    sound = kind.load(path)
    with _known(kind, path, data) as restore:
        for name, damage, count in damages:
            generator = np.random.Generator(np.random.PCG64(len(data)))
            counts = {}
            for _ in range(count):
                # Gone, where one of the hub's was refused.
                path.write_bytes(damage(data, generator))
                came = outcome(kind.load, path, sound)
                counts[came] = counts.get(came, 0) + 1
                restore()
            path.write_bytes(data)
            yield name, counts
        assert all(map(np.array_equal, kind.load(path), sound))


def rows(full, folder, say):
    """The rows of the scorecard."""
    home = {"KERAS_HOME": str(folder / "home")}
    with (
        unittest.mock.patch.dict(os.environ, home),
        # Thousands of notes are written, and no power cut is tried.
        unittest.mock.patch.object(os, "fsync", lambda _: None),
    ):
        yield from _rows(full, folder, say)


def _rows(full, folder, say):
    source, target = network(1), network(2)
    unseen = {}
    for index, (name, kind) in enumerate(_kinds(target).items()):
        path = folder / f"{index}" / kind.name
        path.parent.mkdir(parents=True)
        kind.write(source, path)
        data = path.read_bytes()
        if kind.name.endswith("blobs/0"):
            digest = hashlib.sha256(data).hexdigest()
            path = path.rename(path.with_name(digest))
        cuts = _CUTS if full else _SHORT_CUTS
        flips = _FLIPS if full else _SHORT_FLIPS
        damages = [("cut", cut, cuts), ("one bit flipped", flipped, flips)]
        for damage, counts in _damaged(kind, path, data, damages):
            bad = [key for key in counts if _is_bad(key)]
            yield Row(f"{name}: {damage}", counts, ", ".join(bad))
        if full and not kind.checksum:
            sound = kind.load(path)
            for i in range(_FLIPS):
                generator = np.random.Generator(np.random.PCG64(i))
                new = path.with_name(f"new{i}")
                new.write_bytes(flipped(data, generator))
                came = outcome(kind.load, new, sound)
                unseen[came] = unseen.get(came, 0) + 1
                new.unlink()
    if full:
        yield Row(
            "foreign files of these four kinds: one bit flipped before their "
            "first load",
            unseen,
            "there is nothing to compare them with"
            if unseen.get(SILENT)
            else "",
        )


def _is_bad(came):
    return came == SILENT or came.startswith("ended in")
