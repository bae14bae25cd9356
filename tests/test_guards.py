"""What guards against faults, and that a fault goes through without it.

Each check is a fault with what must come of it. It passes as the package
is, and fails once the guard is taken out: so no check passes by itself.
"""

import contextlib
import hashlib
import os
import struct
import warnings
import zipfile
import zlib

import keras
import numpy as np
import pytest

import keras_nfnet
from keras_nfnet.data import decoding
from keras_nfnet.export import (
    comparison,
    contract,
    staging,
)
from keras_nfnet.models import keras_file
from keras_nfnet.optimizers import clipped, clipping
from keras_nfnet.utils import arguments, files
from keras_nfnet.weights import check, published
from keras_nfnet.weights import files as weight_files

pytestmark = pytest.mark.tensorflow

CONFIG = keras_nfnet.NFNetConfig((8,), (1,), group_width=4)
GUARDS = []


def network():
    return keras_nfnet.NFNet(CONFIG, weights=None, classes=2)


def guards(module, name, replacement=None):
    """Says what a check depends on, and what stands there without it."""

    def register(check):
        GUARDS.append(
            pytest.param(
                module,
                name,
                replacement or (lambda *args, **kwargs: None),
                check,
                id=check.__name__,
            )
        )
        return check

    return register


def refused(words):
    return pytest.raises(ValueError, match=words)


def flip_a_bit(path, place=-3):
    data = bytearray(path.read_bytes())
    data[place] ^= 64
    path.write_bytes(data)


@guards(arguments, "refuse")
def a_wrong_argument_is_named(folder):
    with refused("`learning_rate`.*Received: learning_rate=nan"):
        keras_nfnet.SGDAGC(float("nan"))


@guards(
    clipped.ClippedOptimizer,
    "if_finite",
    lambda self, value, otherwise: value,
)
def a_gradient_that_is_not_finite_changes_nothing(folder):
    optimizer = keras_nfnet.SGDAGC(
        0.1, clipping=None, exclude_from_clipping=None
    )
    weight = keras.Variable(np.ones((2, 2), "float32"))
    optimizer.apply([np.float32([[1, np.nan], [1, 1]])], [weight])
    np.testing.assert_array_equal(weight, np.ones((2, 2)))


@guards(
    clipping,
    "_norms",
    lambda values, axes, bound: (
        keras.ops.norm(values[0], axis=axes[0]),
        1.0,
        1.0,
    ),
)
def the_norm_of_huge_values_is_finite(folder):
    norm = keras_nfnet.optimizers.unitwise_norm(np.full((4, 1), 1e37, "f4"))
    np.testing.assert_allclose(norm, 2e37, rtol=1e-6)


@guards(weight_files, "_check")
def an_unprintable_name_is_refused(folder):
    from safetensors.numpy import save_file

    save_file({"a\nb": np.zeros(1, "f4")}, folder / "file")
    with refused("it has the name"):
        keras_nfnet.weights.load(network(), folder / "file")


class Anything:
    """Equal to whatever it is compared with."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None


@guards(check, "checksum_of", lambda array: Anything())
def a_flipped_bit_in_our_file_is_found(folder):
    path = folder / "model.safetensors"
    keras_nfnet.weights.save(network(), path)
    flip_a_bit(path)
    with refused("checksum"):
        keras_nfnet.weights.load(network(), path)


@guards(published, "warn_of_change")
def a_changed_file_without_checksum_is_said(folder):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    keras_nfnet.weights.save(network(), path, layout="timm")
    save_file(load_file(path), path)  # Without our checksums.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras_nfnet.weights.load(network(), path)
    flip_a_bit(path)
    with pytest.warns(UserWarning, match="is not what it was"):
        keras_nfnet.weights.load(network(), path)


@guards(published, "refuse_other")
def a_damaged_file_of_the_hubs_cache_is_refused_and_removed(folder):
    path = folder / "model.safetensors"
    keras_nfnet.weights.save(network(), path, layout="timm")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    blob = folder / "blobs" / digest
    blob.parent.mkdir()
    path.rename(blob)
    path.symlink_to(blob)
    keras_nfnet.weights.load(network(), path)
    flip_a_bit(blob)
    with refused("of the Hugging Face cache is damaged"):
        keras_nfnet.weights.load(network(), path)
    assert not blob.exists()


@guards(published, "is_sealed", lambda path: True)
def a_flipped_bit_in_our_pickle_is_found(folder):
    path = folder / "F0_haiku.npz"
    keras_nfnet.weights.save(network(), path)
    data = path.read_bytes()
    # In the bytes of an array: the pickle stays one.
    flip_a_bit(path, data.rindex(np.float32(1).tobytes()))
    with refused("checksum"):
        keras_nfnet.weights.load(network(), path)


@guards(
    files,
    "replacing",
    contextlib.contextmanager(lambda path, ending="": iter([str(path)])),
)
def a_file_is_replaced_whole_or_not_at_all(folder):
    path = folder / "file"
    path.write_text("old")
    with contextlib.suppress(KeyError, files.FileError):
        with files.replacing(path) as new:
            with open(new, "w") as file:
                file.write("ne")
            raise KeyError
    assert path.read_text() == "old"


@guards(staging, "refuse_existing")
def an_export_does_not_overwrite(folder):
    path = folder / "model.onnx"
    path.write_text("of someone")
    with refused("`path` must be new"):
        keras_nfnet.export.to_onnx(network(), path)


@guards(staging, "check_finite")
def a_model_of_nan_is_not_converted(folder):
    model = network()
    variable = model.get_layer("predictions").bias
    variable.assign(np.float32([0, np.nan]))
    with refused("`model` must have finite weights.*bias"):
        keras_nfnet.export.to_onnx(model, folder / "model.onnx")


@guards(contract, "_found", lambda model: "imagenet")
def a_model_that_takes_pixels_is_handed_pixels(folder):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    model = keras.Model(inputs, network()(x))
    found = contract.contract_of(model)
    pixels = np.full((1, 32, 32, 3), 255, "uint8")
    np.testing.assert_array_equal(found.images(pixels), pixels)


def _unchecked_fold(model, contract, size):
    return keras_nfnet.fold(model, "float32"), model


@guards(comparison, "checked_fold", _unchecked_fold)
def a_wrong_fold_is_found_before_it_is_converted(folder):
    from keras_nfnet.export import folding
    from keras_nfnet.layers import SkipInit

    real = folding._LOWERINGS[SkipInit]

    def wrong(folder, layer, value):
        result = real(folder, layer, value)
        result.factor = 2 * result.factor
        return result

    model = network()
    for layer in model.layers:
        if hasattr(layer, "skip_init"):
            layer.skip_init.skip_gain.assign(0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folding._LOWERINGS, SkipInit, wrong)
        with refused("folded network"):
            comparison.checked_fold(
                model, contract.contract_of(model), (32, 32)
            )


@guards(comparison, "_compared", lambda *args: (0.0, 1.0))
def an_export_of_other_outputs_is_refused(folder):
    model = network()
    with refused("differ"):
        found = comparison.compare(
            lambda pixels: np.full((len(pixels), 2), 0.5, "f4") * [[0.1, 1.9]],
            model,
            comparison.images((32, 32)),
            contract.contract_of(model),
        )
        comparison.report(
            *found,
            size=(32, 32),
            model=model,
            path=__file__,
            target=__file__,
            precision="float32",
        )


@guards(decoding._File, "check_size")
def a_bomb_is_refused_by_its_header(folder):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    encoded += chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with refused("it announces 30000 by 30000 pixels"):
        keras_nfnet.data.decode_picture(encoded)


@guards(keras_file, "_check")
def a_compressed_keras_file_is_refused(folder):
    path, packed = folder / "model.keras", folder / "packed.keras"
    network().save(path)
    with zipfile.ZipFile(path) as whole:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in whole.namelist():
                archive.writestr(name, whole.read(name))
    keras_file.load_keras_file(path, "model")
    with refused("is compressed"):
        keras_file.load_keras_file(packed, "model")


@guards(keras_file, "_check_values")
def a_keras_file_of_nan_is_refused(folder):
    model = network()
    model.get_layer("predictions").bias.assign(np.float32([0, np.inf]))
    model.save(folder / "model.keras")
    with refused("is not finite"):
        keras_file.load_keras_file(folder / "model.keras", "model")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(("module", "name", "replacement", "check"), GUARDS)
def test_a_fault_goes_through_without_its_guard(
    module, name, replacement, check, tmp_path, monkeypatch
):
    for folder in ("with", "without"):
        (tmp_path / folder).mkdir()
    check(tmp_path / "with")
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises(BaseException) as caught:
        check(tmp_path / "without")
    assert not isinstance(caught.value, KeyboardInterrupt | TypeError)


def test_there_are_guards_of_twelve_faults():
    assert len(GUARDS) >= 12
