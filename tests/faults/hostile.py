"""Files that were made to harm who loads them, and what came of loading.

Each is loaded in a worker that can be stopped.
"""

import collections
import copyreg
import functools
import io
import itertools
import json
import os
import pathlib
import pickle
import select
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np

from faults.scorecard import Row

TITLE = "Hostile files"
PROMISE = (
    "No file runs code. None takes more than ten times its size plus 1 GiB,\n"
    "nor more than 10 s plus its reading time. Each refusal is one line."
)

# No file may take more than these.
SECONDS = 10
SPARE_BYTES = 2**30
TIMES_ITS_SIZE = 10


class Evil:
    """Pickles as whatever it is given."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def calls(marker):
    """`{name: object}` whose pickles call something when loaded."""
    command = f"touch {marker}"
    return {
        "system": Evil(os.system, (command,)),
        "eval": Evil(eval, (f"open({str(marker)!r}, 'w')",)),
        "exec": Evil(exec, (f"open({str(marker)!r}, 'w')",)),
        "open": Evil(open, (str(marker), "w")),
        "import": Evil(__import__, ("antigravity",)),
        "getattr": Evil(getattr, (Evil(__import__, ("os",)), "system")),
        "popen": Evil(subprocess.Popen, (["touch", str(marker)],)),
        "state": Evil(collections.OrderedDict, (), Evil(eval, ("1",))),
        "ndarray": Evil(np.ndarray, ((10**6, 10**6),)),
        "dtype state": Evil(np.dtype, ("f4",), (3, ">", None, ("a",), {})),
        "setattr": Evil(
            setattr, (Evil(__import__, ("numpy",)), "float32", None)
        ),
        "load": Evil(np.load, (str(marker),)),
        "memmap": Evil(np.memmap, (str(marker), "f4", "w+", 0, (3,))),
        "partial": Evil(functools.partial, (os.system, command)),
        "registry": Evil(copyreg.add_extension, ("os", "system", 1)),
        "bytes": pickle.dumps({"m": {"w": 1}}),
    }


def placed(evil):
    """The pickles of an object in each place of a tree."""
    for content in (
        evil,
        {"NFNet/~/linear": evil},
        {"NFNet/~/linear": {"w": evil}},
        {"NFNet/~/linear": [(evil, 1)]},
    ):
        yield pickle.dumps(content)


# Pieces of pickles.
_HEAD = b"\x80\x04"
_HAIKU = b"chaiku._src.data_structures\nFlatMapping\n"
_ORDERED = b"ccollections\nOrderedDict\n"
_RECONSTRUCT = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
)


def _text(text):
    data = text if isinstance(text, bytes) else text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _dtype(code="f4", state=b""):
    return b"cnumpy\ndtype\n" + _text(code) + b"\x89\x88\x87R" + state


def _array(shape=b"K\1\x85", dtype=None, data=b"C\4\0\0\0\0", fortran=b"\x89"):
    state = b"(K\1" + shape + (dtype or _dtype()) + fortran + data + b"t"
    return _RECONSTRUCT + state + b"b"


def _tree(value, module="NFNet/~/linear", name="w"):
    return _HEAD + b"}" + _text(module) + b"}" + _text(name) + value + b"ss."


def _put(index):
    return b"r" + struct.pack("<I", index)


def _get(index):
    return b"j" + struct.pack("<I", index)


def _nested(width, depth, leaf, wrap=lambda inner: inner):
    """Mappings that share the next, `width` times each, `depth` deep."""
    data = leaf + _put(0)
    for level in range(depth):
        items = b"".join(_text(f"{i}") + _get(level) for i in range(width))
        data += b"0" + wrap(b"}(" + items + b"u") + _put(level + 1)
    return _HEAD + data + b"."


def _haiku_state(mapping):
    return _HAIKU + b")\x81}" + _text("_mapping") + mapping + b"sb"


def _pairs(width, depth):
    """haiku's mappings of lists of pairs that share the next."""
    data = b"}" + _put(0)
    for level in range(depth):
        items = b"".join(
            _text(f"{i}") + _get(level) + b"\x86" for i in range(width)
        )
        data += b"0" + _HAIKU + b"](" + items + b"e\x85R" + _put(level + 1)
    return _HEAD + data + b"."


def pickles():
    """`(name, bytes)` of pickles that no pickler writes."""
    yield from {
        "extension": b"\x80\x04\x82\x01.",
        "extension of two bytes": b"\x80\x04\x83\x01\x00.",
        "extension of four bytes": b"\x80\x04\x84\x01\x00\x00\x00.",
        "persistent id": b"\x80\x04\x8c\x01aQ.",
        "text persistent id": b"(Pabc\n.",
        "instance": b"(S'touch'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nS'touch'\no.",
        "new object with keywords": b"\x80\x04cnumpy\ndtype\n)}\x92.",
        "sets": b"\x80\x04\x8f(K\x01\x90.",
        "frozen set": b"\x80\x04(K\x01\x91.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05C\x01a\x98.",
        "huge string": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.",
        "huge text": b"\x80\x04X\xff\xff\xff\x7fabc.",
        "huge long text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x.",
        "huge byte array": b"\x80\x05\x96" + b"\0" * 6 + b"\x01\0" + b"x.",
        "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
        "large frame": b"\x80\x04\x95" + b"\xff" * 5 + b"\0\0\0" + b"}.",
        "huge number": b"\x80\x04\x8b\xff\xff\xff\x7f\x01.",
        "negative length": b"\x80\x04\x8b\xff\xff\xff\xff.",
        "long number": b"\x80\x04\x8b\0\0\0\x01" + b"\x7f" * 2**24 + b".",
        "many digits": b"\x80\x03I" + b"9" * 5000 + b"\n.",
        "many hexadecimal digits": b"\x80\x03I0x" + b"9" * 10**7 + b"\n.",
        "many digits of a long": b"\x80\x03L" + b"9" * 10**7 + b"L\n.",
        "many digits of a float": b"\x80\x03F" + b"9" * 10**7 + b".5\n.",
        "no stop": b"\x80\x04}",
        "empty stack": b"\x80\x04.",
        "mark only": b"\x80\x04(.",
        "two objects": b"\x80\x04}}.",
        "pop of nothing": b"\x80\x040.",
        "unknown memo": b"\x80\x04h\x09.",
        "deep tuples": b"\x80\x04)" + b"\x85" * 300_000 + b".",
        "deep lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep key": b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",
        "deep key of an old dictionary": b"(()" + b"\x85" * 300_000 + b"Nd.",
        "many marks": b"\x80\x04" + b"(" * 2_000_000 + b".",
        "many steps": b"\x80\x04" + b"N0" * 5_000_000 + b"}.",
        "many frames": b"\x80\x04" + (b"\x95" + b"\0" * 8) * 1_500_000 + b"}.",
        "many dictionaries": b"\x80\x04" + b"}" * 5_000_000 + b".",
        "build of a name": b"\x80\x04cnumpy\nndarray\n}b.",
        "build of a name's slots": b"\x80\x04cnumpy\nndarray\nN}"
        + _text("__class__")
        + b"Ns\x86b.",
        "build of a dictionary": b"\x80\x04}}" + _text("__class__") + b"Nsb.",
        "build of a text": b"\x80\x04\x8c\x02os}b.",
        "call of text": b"\x80\x04\x8c\x02os)R.",
        "call without a tuple": b"\x80\x04cnumpy\ndtype\n\x8c\x02f4R.",
        "itself": b"\x80\x04}q\x00\x8c\x01ah\x00s.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93)R.",
        "module in name": (b"\x80\x04cnumpy.core\nmultiarray._reconstruct\n."),
        "unknown step": b"\x80\x04\xff.",
        "unknown protocol": b"\x80\x05\x80\xff}.",
    }.items()
    # What shares itself: as mappings, in haiku's, in lists, in tuples.
    for width, depth in ((100, 5), (10, 12), (2, 60)):
        name = f"{width}^{depth}"
        yield f"shared mappings {name}", _nested(width, depth, b"}")
        yield (
            f"shared mappings of haiku {name}",
            _nested(width, depth, b"}", lambda m: _HAIKU + m + b"\x85R"),
        )
        yield (
            f"shared states of haiku's mappings {name}",
            _nested(width, depth, b"}", _haiku_state),
        )
        yield (
            f"shared ordered mappings {name}",
            _nested(width, depth, b"}", lambda m: _ORDERED + m + b"\x85R"),
        )
        yield f"shared pairs {name}", _pairs(width, depth)
    laughs = b"N" + b"2\x86" * 80
    yield "shared tuples", _HEAD + laughs + b"."
    yield "shared tuples as values", _tree(_array(data=laughs))
    yield "shared tuples as a shape", _tree(_array(shape=laughs))
    yield (
        "shared tuples as arguments",
        _tree(b"cnumpy\ndtype\n" + laughs + b"R"),
    )
    yield "shared tuples as a key", _HEAD + b"}" + laughs + b"Ns."
    # Few bytes that copy much: each of these is 10^10 or more at a time.
    many = b"(" + b"N" * 300_000 + b"t" + _put(0)
    yield (
        "calls of many arguments",
        _HEAD + many + (b"0cnumpy\ndtype\n" + _get(0) + b"R") * 100_000 + b".",
    )
    items = b"".join(_text(f"{i}") + b"N" for i in range(100_000))
    large = b"}(" + items + b"u" + _put(0)
    for name, copy in (
        ("haiku's mappings", b"0" + _HAIKU + _get(0) + b"\x85R"),
        ("states", b"0" + _haiku_state(_get(0))),
        ("ordered mappings", b"0" + _ORDERED + _get(0) + b"\x85R"),
    ):
        yield (
            f"copies of a large mapping in {name}",
            (_HEAD + large + copy * 50_000 + b"."),
        )
    modules = b"".join(_text(f"{i}") + _get(0) for i in range(100_000))
    yield (
        "modules that share parameters",
        (_HEAD + large + b"0}(" + modules + b"u."),
    )
    long_name = _text("a" * 10**6)
    yield (
        "parameters of a long module name",
        (_HEAD + b"}" + long_name + large + b"s."),
    )
    text = b"c_codecs\nencode\n" + _text("a" * 10**6) + _text("latin1")
    shared = _array(shape=b"J\x90\xd0\x03\0\x85", data=text + b"\x86R")
    arrays = b"".join(_text(f"{i}") + _get(0) for i in range(50_000))
    yield (
        "text that many arrays share",
        (
            _HEAD
            + shared
            + _put(0)
            + b"0}"
            + _text("m")
            + b"}("
            + arrays
            + b"us."
        ),
    )
    yield from _shared_networks()
    # Memos.
    yield "large memo", _HEAD + b"}" + _put(2**32 - 1) + b"."
    yield "larger memo", b"}p" + b"9" * 30 + b"\n."
    same_hash = b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(50_000))
    yield "memo of equal hashes", b"}" + same_hash + b"."
    yield "negative memo", b"}p-1\n."
    # Arrays that are none.
    for name, value in {
        "objects": _array(dtype=_dtype("O8")),
        "integers": _array(dtype=_dtype("i4")),
        "texts": _array(dtype=_dtype("S1000000000")),
        "no dtype": _array(dtype=b"N"),
        "a dtype of fields": _array(
            dtype=_dtype(state=b"(K\3X\1\0\0\0<NX\1\0\0\0a\x85}tb")
        ),
        "a shape below zero": _array(shape=b"J\xff\xff\xff\xff\x85"),
        "a large shape": _array(shape=b"J\xff\xff\xff\x7f\x85"),
        "a shape of many axes": _array(shape=b"(" + b"K\1" * 60 + b"t"),
        "a shape of booleans": _array(shape=b"\x88\x85"),
        "a shape of text": _array(shape=_text("1") + b"\x85"),
        "no bytes": _array(data=b"N"),
        "few bytes": _array(data=b"C\3\0\0\0"),
        "many bytes": _array(data=b"C\5\0\0\0\0\0"),
        "text for bytes": _array(data=_text("abcd")),
        "an order of text": _array(fortran=_text("C")),
        "no state": _RECONSTRUCT,
        "two states": _array() + b"Nb",
        "itself": _RECONSTRUCT + _put(0) + _get(0) + b"b",
        "a name": b"cnumpy\nndarray\n",
        "a number": b"K\1",
        "not a number": b"G\x7f\xf8" + b"\0" * 6,
    }.items():
        yield f"array of {name}", _tree(value)
    # Names that would end up in a message.
    for name in ("a\nb\nTraceback", "\x1b[2J", "a" * 10**6, "\u202e", "a\rb"):
        yield f"name {name[:12]!r}", _tree(_array(), module=name)
    yield "name of a lone surrogate", _tree(_array(), module=b"\xed\xa0\x80")
    yield "key of a number", _HEAD + b"}K\1}s."
    yield (
        "key that comes twice",
        (_HEAD + b"}(" + (_text("m") + b"}") * 2 + b"u."),
    )


def _shared_networks():
    """Whole networks whose equal blocks share one large array."""
    blocks = 400
    kernel = np.zeros((3, 3, 64, 1024), "f2")
    tree = {}
    for i in range(blocks):
        name = f"NFNet/~/nf_block{f'_{i}' if i else ''}"
        for conv in ("conv0", "conv1", "conv1b", "conv2"):
            tree[f"{name}/~/{conv}"] = {"w": kernel}
    yield "arrays that many blocks share", pickle.dumps(tree)


def _zip(members, compression=zipfile.ZIP_STORED, change=None):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            with archive.open(info, "w") as member:
                for part in [content] if type(content) is bytes else content:
                    member.write(part)
    return change(data.getvalue()) if change else data.getvalue()


def look_alikes():
    """`(name, bytes)` of files that are named like weights and are none."""
    arrays = io.BytesIO()
    np.savez(arrays, **{"NFNet/~/linear": np.ones(3)})
    yield "a NumPy archive", arrays.getvalue()
    objects = io.BytesIO()
    np.savez(objects, w=np.array([Evil(eval, ("1/0",))], object))
    yield "a NumPy archive of objects", objects.getvalue()
    array = io.BytesIO()
    np.save(array, np.ones(3))
    yield "a NumPy array", array.getvalue()
    yield (
        "a zip bomb",
        _zip(
            [("w.npy", itertools.repeat(bytes(2**20), 300))],
            zipfile.ZIP_DEFLATED,
        ),
    )
    yield "nothing", b""
    yield "zeros", bytes(5000)
    yield "text", b"hello"
    yield "a script", b"#!/bin/sh\ntouch /tmp/ran\n"
    yield "HTML", b"<!DOCTYPE html><html>404</html>"
    yield "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n"
    yield "gzip", b"\x1f\x8b\x08" + bytes(20)


def safetensors(sound):
    """`(name, bytes)` of hostile safetensors; `sound` is a sound one."""
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length])
    data = sound[8 + length :]
    first, second = [name for name in header if name != "__metadata__"][:2]

    def file(header, data=data):
        text = header if type(header) is bytes else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def changed(**fields):
        return file({**header, first: {**header[first], **fields}})

    yield "a huge header", b"\xff" * 8 + b"{}"
    yield "a header of 2 GB", struct.pack("<Q", 2**31) + b"{}"
    yield "a long header", file(header | {"__metadata__": {"a": "b" * 10**7}})
    yield (
        "a header of spaces",
        file(json.dumps(header).encode() + b" " * 90_000_000),
    )
    yield "a deep header", file(b"{" + b'"a":{' * 200_000)
    yield "a deep list", file(b'{"a":' + b"[" * 5_000_000)
    yield "an empty header", file(b"{}", b"")
    yield "a list as header", file(b"[]")
    yield "a header cut", sound[: 8 + length // 2]
    yield "a header that is not UTF-8", file(b'{"\xff": 1}')
    yield "numbers of many digits", file(b'{"a":' + b"9" * 10**6 + b"}")
    twice = json.dumps(header)[:-1] + f', "{first}": '
    twice = f"{twice}{json.dumps(header[first])}}}"
    yield "a name twice", file(twice.encode())
    many = {
        str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        for i in range(200_000)
    }
    yield "many names", file(many, b"")
    some = dict(itertools.islice(many.items(), 80_000))
    yield "rather many names", file(some, b"")
    yield (
        "overlapping offsets",
        changed(data_offsets=header[second]["data_offsets"]),
    )
    yield "offsets beyond the end", changed(data_offsets=[0, 10**12])
    yield "offsets below zero", changed(data_offsets=[-4, 4])
    yield "offsets the wrong way", changed(data_offsets=[4, 0])
    yield "three offsets", changed(data_offsets=[0, 4, 8])
    yield "a large shape", changed(shape=[2**31, 2**31])
    yield "a shape that overflows", changed(shape=[2**62, 4, 2**62])
    yield "a shape below zero", changed(shape=[-1])
    yield "a shape of many axes", changed(shape=[1] * 10_000)
    yield "a shape of text", changed(shape="1")
    yield "no shape", file({**header, first: {"dtype": "F32"}})
    for dtype in ("I64", "BOOL", "F8_E4M3", "F4", "X", "", 3, None):
        yield f"dtype {dtype}", changed(dtype=dtype)
    for name in ("a\nb/c", "\x1b[2J/a", "a/" + "b" * 10**5, "", "\u202e/"):
        yield (
            f"name {name[:12]!r}",
            file(
                {
                    name if key == first else key: value
                    for key, value in header.items()
                }
            ),
        )
    for metadata in ("[]", "{", "9" * 5000, "[" * 10**5, '{"a": 1}', "null"):
        yield (
            f"checksums {metadata[:9]}",
            file(
                {
                    **header,
                    "__metadata__": {"keras_nfnet_checksums": metadata},
                }
            ),
        )
    yield "metadata that is no text", file({**header, "__metadata__": {"a": 1}})
    yield "more data", sound + b"x"
    yield "less data", sound[:-1]
    for value in (np.nan, np.inf):
        bad = np.frombuffer(data, "f4").copy()
        bad[len(bad) // 2] = value
        plain = {n: v for n, v in header.items() if n != "__metadata__"}
        yield f"a value of {value}", file(header, bad.tobytes())
        yield f"a value of {value}, unchecked", file(plain, bad.tobytes())


def _h5(fill, sound=None, **kwargs):
    import h5py

    data = io.BytesIO(sound or b"")
    with h5py.File(data, "r+" if sound else "w", **kwargs) as file:
        fill(file)
    return data.getvalue()


def hdf5s(sound, top="layers"):
    """`(name, bytes)` of hostile HDF5 files.

    Args:
        sound: A sound one.
        top: The group under which its datasets are.
    """
    import h5py

    names = []
    with h5py.File(io.BytesIO(sound), "r") as file:
        file.visititems(
            lambda name, value: (
                names.append(name)
                if isinstance(value, h5py.Dataset) and value.ndim > 1
                else None
            )
        )
    name = names[0]

    def shared(width, depth, leaf=lambda group: None):
        def fill(file):
            group = file.create_group("bottom")
            leaf(group)
            for level in range(depth):
                above = file.create_group(f"level{level}")
                for i in range(width):
                    above[f"{i}"] = group
                group = above
            file[top] = group

        return _h5(fill)

    def replaced(make):
        def fill(file):
            del file[name]
            make(file)

        return _h5(fill, sound)

    def dataset(**kwargs):
        return replaced(lambda file: file.create_dataset(name, **kwargs))

    for width, depth in ((100, 5), (50, 7), (10, 12), (4, 30), (1000, 3)):
        yield f"shared groups {width}^{depth}", shared(width, depth)
    yield (
        "shared datasets",
        shared(
            100, 4, lambda group: group.create_dataset("vars", data=np.ones(3))
        ),
    )

    def cycle(file):
        file[f"{top}/loop"] = file[top]

    def deep(file):
        group = file[top]
        for _ in range(3000):
            group = group.create_group("a")

    def wide(file):
        for i in range(40_000):
            file.create_group(f"{top}/a{i}")

    def twice(file):
        file[f"{top}/again"] = file[name]

    def named(text):
        return lambda file: file[top].create_group(text)

    def committed(file):
        file[f"{top}/type"] = np.dtype("f4")

    yield "a group in itself", _h5(cycle, sound)
    yield "deep groups", _h5(deep, sound)
    yield "many groups", _h5(wide, sound)
    yield "a dataset twice", _h5(twice, sound)
    yield "a type among the groups", _h5(committed, sound)
    for text in ("a\nb", "\x1b[2J", "a" * 10**4, "\u202e"):
        yield f"name {text[:12]!r}", _h5(named(text), sound)
    for link in (
        h5py.SoftLink("/"),
        h5py.SoftLink(f"/{name}x"),
        h5py.ExternalLink("/etc/passwd", "/"),
    ):
        yield (
            f"a {type(link).__name__} to {link.path}",
            replaced(lambda file, link=link: file.__setitem__(name, link)),
        )
    yield (
        "values in another file",
        dataset(shape=(3,), dtype="f4", external=[("/etc/passwd", 0, 12)]),
    )

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "a", (3,))
        file.create_virtual_dataset(name, layout)

    yield "values of other datasets", replaced(virtual)
    yield "no values", dataset(dtype="f4", shape=None)
    yield "texts", dataset(data=["a" * 1000] * 1000)
    yield (
        "texts of a fixed length",
        dataset(shape=(10,), dtype="S1000000000", chunks=(1,)),
    )
    yield "references", dataset(shape=(5,), dtype=h5py.ref_dtype)
    yield "a structure", dataset(shape=(5,), dtype=[("a", "f4")])
    yield "integers", dataset(data=np.ones((2, 2), "i4"))
    yield (
        "a large shape",
        dataset(shape=(10**6, 10**6), dtype="f4", chunks=(100, 100)),
    )
    yield (
        "a large shape without chunks",
        dataset(shape=(10**5, 10**5), dtype="f4"),
    )
    yield (
        "a compressed gigabyte",
        dataset(
            data=np.zeros((2**14, 2**13), "f8"),
            compression=9,
            chunks=(2**12, 2**13),
        ),
    )

    def layered(file):
        # Each of the filters expands a thousand times.
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((2**25,))
        for _ in range(3):
            properties.set_deflate(9)
        space = h5py.h5s.create_simple((2**25,))
        made = h5py.h5d.create(
            file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, properties
        )
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(2**25, "f4"))

    yield "layers of compression", replaced(layered)

    def attributes(value):
        def fill(file):
            for other in names:
                for attribute in ("keras_nfnet_checksum", "dtype"):
                    file[other].attrs.pop(attribute, None)
                    file[other].attrs[attribute] = value

        return _h5(fill, sound, libver="latest")

    yield "checksums of a number", attributes(3)
    yield "checksums of many texts", attributes(["a" * 10**4] * 100)
    yield "checksums of a long text", attributes("a" * 10**6)
    yield "checksums of many numbers", attributes(np.zeros(8000))
    yield "checksums of nothing", attributes(h5py.Empty("f4"))
    yield (
        "another HDF5 file",
        _h5(lambda file: file.create_dataset("a", data=1)),
    )
    yield "an empty HDF5 file", _h5(lambda file: None)
    yield (
        "a dataset in the place of the groups",
        _h5(lambda file: file.create_dataset(top, data=1)),
    )
    yield (
        "a link in the place of the groups",
        _h5(lambda file: file.__setitem__(top, h5py.SoftLink("/"))),
    )
    for value in (np.nan, np.inf):
        yield (
            f"a value of {value}",
            _h5(
                lambda file, value=value: file[name].__setitem__((0, 0), value),
                sound,
            ),
        )


def keras_files(sound):
    """`(name, bytes)` of hostile `.keras` files; `sound` is a sound one."""
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights, config = "model.weights.h5", "config.json"
    deflated = zipfile.ZIP_DEFLATED

    def changed(_compression=zipfile.ZIP_STORED, _change=None, **contents):
        new = {
            {"weights": weights, "config": config}.get(name, name): content
            for name, content in contents.items()
        }
        merged = {**members, **new}
        kept = [(n, c) for n, c in merged.items() if c is not None]
        return _zip(kept, _compression, _change)

    def configured(edit):
        tree = json.loads(members[config])
        return changed(config=json.dumps(edit(tree) or tree).encode())

    def layer(class_name, module="keras.layers", **fields):
        """The model with one more layer, which nothing uses."""
        given = {"module": module, "registered_name": None, **fields}

        def edit(tree):
            tree["config"]["layers"].append(
                {
                    "class_name": class_name,
                    "config": {"name": "evil"},
                    "name": "evil",
                    "inbound_nodes": [],
                    **given,
                }
            )

        return configured(edit)

    def sequential(*layers, shape=(None, 8)):
        first = _keras_layer("InputLayer", batch_shape=shape)
        tree = {
            **_keras_layer("Sequential", name="s", layers=[first, *layers]),
        }
        return changed(config=json.dumps(tree).encode())

    def flipped(name, place):
        def change(data):
            data = bytearray(data)
            data[data.index(members[name][:64]) + place] ^= 1
            return bytes(data)

        return change

    def directory(field, value, format="<I", which=0):
        """Changes a field of an entry in the list of members."""

        def change(data):
            data, place = bytearray(data), -1
            for _ in range(which + 1):
                place = data.index(b"PK\1\2", place + 1)
            struct.pack_into(format, data, place + field, value)
            return bytes(data)

        return change

    # What expands.
    spaces = itertools.repeat(b" " * 2**20, 300)
    text = [members[config], *spaces]
    yield "a configuration of 300 MB in 0.3", changed(deflated, config=text)
    yield "a configuration of 300 MB", changed(config=[*text])
    zeros = itertools.repeat(bytes(2**20), 300)
    yield "weights of 300 MB in 0.3", changed(deflated, weights=zeros)
    yield (
        "assets of 300 MB in 0.3",
        changed(deflated, **{"assets/a": itertools.repeat(bytes(2**20), 300)}),
    )
    for method in (deflated, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"compression {method}", changed(method)
    # What lies, in bytes 20 (stored size), 24 (size), 42 (place), 8 (flags).
    for field, value in ((20, 2**32 - 2), (24, 2**32 - 2), (42, 2**31)):
        yield (
            f"field {field} of {value}",
            changed(_change=directory(field, value)),
        )
    yield "overlapping members", changed(_change=directory(42, 0, which=1))
    yield "an encrypted member", changed(_change=directory(8, 1, "<H", 1))
    for name in members:
        for place in (0, 40):
            yield (
                f"{name} with byte {place} flipped",
                changed(_change=flipped(name, place)),
            )
    middle = len(members[weights]) // 2
    yield (
        "weights flipped in the middle",
        changed(_change=flipped(weights, middle)),
    )
    yield (
        "compressed weights flipped in the middle",
        changed(deflated, _change=lambda data: _xor(data, len(data) // 2)),
    )
    end = sound.rindex(b"PK\5\6")
    for field, value in ((12, 2**32 - 2), (16, 2**32 - 2), (10, 2**16 - 1)):
        cut = bytearray(sound)
        struct.pack_into("<I" if field > 10 else "<H", cut, end + field, value)
        yield f"field {field} of the end of {value}", bytes(cut)
    empty = [(f"assets/{i}", b"") for i in range(30_000)]
    yield "many members", _zip([*members.items(), *empty])
    for name in ("../evil", "/tmp/evil", "assets/../../evil", "a\nb", "C:\\a"):
        yield f"a member {name!r}", changed(**{name: b"x"})
    yield "a member twice", _zip([*members.items(), (config, members[config])])
    for name in members:
        yield f"no {name}", changed(**{name: None})
    yield "no members", _zip([])
    yield (
        "weights of NumPy",
        changed(**{weights: None, "model.weights.npz": next(look_alikes())[1]}),
    )
    for name, content in look_alikes():
        yield f"weights that are {name}", changed(weights=content)
        yield f"not a zip but {name}", content
    yield "a pickle", pickle.dumps({"a": 1})
    # Configurations.
    for name, content in {
        "nothing": b"",
        "no JSON": b"{",
        "not UTF-8": b"\xff\xfe",
        "a list": b"[]",
        "a number": b"3",
        "null": b"null",
        "an empty dictionary": b"{}",
        "deep lists": b"[" * 10**6 + b"]" * 10**6,
        "deep dictionaries": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        "rather deep lists": b"[" * 900 + b"]" * 900,
        "many lists": b"[" + b"[]," * 2_500_000 + b"[]]",
        "many digits": b'{"a":' + b"9" * 10**6 + b"}",
    }.items():
        yield f"configuration: {name}", changed(config=content)
    for field in ("class_name", "config", "module", "registered_name"):
        for value in (None, 3, [], {}, "a\nb", "x" * 10**5):
            yield (
                f"{field} of {str(value)[:9]!r}",
                configured(
                    lambda tree, field=field, value=value: {
                        **tree,
                        field: value,
                    }
                ),
            )
    for module, name in (
        ("os", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("keras.utils", "get_file"),
        ("keras.models", "load_model"),
        ("keras_nfnet", "train"),
        ("keras_nfnet.cli", "main"),
    ):
        yield f"a layer {module}.{name}", layer(name, module)
    yield "a function", layer("function", "builtins", config="exec")
    yield (
        "a lambda",
        layer(
            "Lambda",
            config={
                "name": "evil",
                "function": {
                    "class_name": "__lambda__",
                    "config": {
                        "code": "4wA=",
                        "defaults": None,
                        "closure": None,
                    },
                },
            },
        ),
    )
    yield (
        "a saved model",
        layer("TFSMLayer", config={"name": "evil", "filepath": "/tmp"}),
    )
    dense = functools.partial(_keras_layer, "Dense")
    yield "a layer of 10^10 weights", sequential(dense(units=10**10))
    yield (
        "two layers of 10^5 units",
        sequential(dense(units=10**5), dense(units=10**5)),
    )
    yield (
        "a layer of few and one of many",
        sequential(
            dense(units=3),
            _keras_layer("Embedding", input_dim=10**9, output_dim=9),
        ),
    )
    yield "20,000 layers", sequential(*[dense(units=8)] * 20_000)
    yield "2,000 layers", sequential(*[dense(units=8)] * 2_000)
    for value in (-1, 0, 1.5, "a", None, 10**400, [3], {}):
        yield f"units of {str(value)[:9]}", sequential(dense(units=value))
    nested = dense(units=8)
    for _ in range(300):
        nested = _keras_layer("Sequential", name="n", layers=[nested])
    yield "deep models", sequential(nested)
    for field, value in (
        ("bottleneck_ratio", 1e6),
        ("se_ratio", 1e7),
        ("group_width", 1),
        ("group_width", 0),
        ("filters", 10**7),
        ("kernel_size", [10**6, 10**6]),
        ("strides", [0, 0]),
        ("strides", 10**9),
        ("batch_shape", [10**9] * 4),
        ("units", 10**10),
        ("dtype", "float4"),
        ("name", "a/b\nc"),
    ):
        yield (
            f"every {field} of {value}",
            configured(
                lambda tree, field=field, value=value: _with(tree, field, value)
            ),
        )
    # The weights.
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        for name, content in hdf5s(archive.read(weights)):
            yield f"weights with {name}", changed(weights=content)


def _keras_layer(class_name, **config):
    return {
        "module": "keras" if class_name == "Sequential" else "keras.layers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def _with(tree, field, value):
    """A configuration with every value of that name another."""
    if isinstance(tree, list):
        return [_with(item, field, value) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: value if key == field else _with(item, field, value)
        for key, item in tree.items()
    }


def _xor(data, place):
    data = bytearray(data)
    data[place] ^= 1
    return bytes(data)


def mutations(sound, count, seed=0):
    """`(name, bytes)` of random damage: cuts, flipped bits, other bytes."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for i in range(count):
        data = bytearray(sound)
        # Half of it in the first bytes, where the structure is.
        end = min(len(data), 4000) if i % 2 else len(data)
        kind = ("cut", "bit", "bytes", "copy")[i // 2 % 4]
        for place in generator.integers(end, size=generator.integers(1, 5)):
            if kind == "cut":
                del data[place:]
            elif kind == "bit":
                data[place % len(data)] ^= 1 << int(generator.integers(8))
            elif kind == "bytes":
                data[place] = generator.choice([0, 1, 127, 128, 255])
            else:
                start = int(generator.integers(len(data)))
                data[place : place + 8] = data[start : start + 8]
            if kind == "cut":
                break
        yield f"{kind} {i}", bytes(data)


def sound_files(folder):
    """`{kind: bytes}` of the sound files of a small network."""
    from keras_nfnet import NFNet, NFNetConfig
    from keras_nfnet.weights import save, to_haiku_tree

    model = NFNet(
        NFNetConfig((16,), (1,), group_width=8), weights=None, classes=3
    )
    # A pickle of ours would be refused for its checksum.
    found = {"pickle": pickle.dumps(to_haiku_tree(model))}
    for kind, name in (
        ("safetensors", "w.safetensors"),
        ("hdf5", "w.weights.h5"),
    ):
        save(model, folder / name)
        found[kind] = (folder / name).read_bytes()
    model.save(folder / "m.keras")
    found["keras"] = (folder / "m.keras").read_bytes()
    return found


def corpus(sound, marker, kinds=None):
    """`(kind, name, bytes)` of every hostile file that is no mutation."""

    def evil():
        for name, value in calls(marker).items():
            for i, data in enumerate(placed(value)):
                yield f"{name} in place {i}", data

    makers = {
        "pickle that calls": evil,
        "pickle": pickles,
        "look-alike": look_alikes,
        "safetensors": lambda: safetensors(sound["safetensors"]),
        "hdf5": lambda: hdf5s(sound["hdf5"]),
        "keras": lambda: keras_files(sound["keras"]),
    }
    for kind, make in makers.items():
        if kinds is None or kind in kinds:
            for name, data in make():
                yield kind, name, data


# The worker: loads what it is told and says what came of it.

_PEAK = "/proc/self/status"


def memory(field):
    with open(_PEAK) as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024


def answer(take):
    """Reports what came of each path that comes on standard input.

    Args:
        take: Function from a path to a dictionary with its `outcomes`, and
            with the `seconds` where these are not all that passed.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # The peak starts at what is in use now.
        before, start = memory("VmRSS"), time.monotonic()
        report = take(line.rstrip("\n"))
        report.setdefault("seconds", time.monotonic() - start)
        report["bytes"] = memory("VmHWM") - before
        print(json.dumps(report), flush=True)


def _work():
    from keras_nfnet import NFNet, NFNetConfig
    from keras_nfnet.models.keras_file import load_keras_file
    from keras_nfnet.weights import convert, load

    model = NFNet(
        NFNetConfig((16,), (1,), group_width=8), weights=None, classes=3
    )

    def take_all(path):
        outcomes = []
        for name, take in (
            ("load", lambda path=path: load(model, path)),
            ("convert", lambda path=path: convert(path, f"{path}.out.npz")),
            ("keras", lambda path=path: load_keras_file(path, "MODEL")),
        ):
            if (name == "keras") is not path.endswith(".keras"):
                continue
            try:
                take()
                outcomes.append((name, "loaded", ""))
            except ValueError as error:
                outcomes.append((name, "refused", str(error)))
            except BaseException as error:  # Counted as a fault by its name.
                outcomes.append((name, f"{type(error).__name__}", str(error)))
        return {"outcomes": outcomes}

    answer(take_all)


class Worker:
    """A process that loads files, and is started anew when it must be.

    Args:
        environment: Variables for it beside those of this process.
        command: Its module of this package and that module's arguments.
    """

    def __init__(self, environment=None, command=("faults.hostile",)):
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._process = None

    def load(self, path, limit):
        """What came of loading: the worker's report, or how it ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=self._environment,
                cwd=pathlib.Path(__file__).parents[1],
            )
            assert self._process.stdout.readline() == "ready\n"
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        if select.select([self._process.stdout], [], [], limit)[0]:
            line = self._process.stdout.readline()
            if line:
                return json.loads(line)
        report = {
            "outcomes": [("any", "hang", "")],
            "seconds": limit,
            "bytes": 0,
        }
        if self._process.poll() is not None:
            report["outcomes"] = [("any", "crash", "")]
        self.stop()
        return report

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def problems(report, size):
    """What a report has that no hostile file may have."""
    found = []
    for way, outcome, message in report["outcomes"]:
        if outcome not in ("refused", "loaded"):
            found.append(f"{outcome} in {way}: {message[:200]}")
        if len(message.splitlines()) > 1 or len(message) > 3000:
            found.append(f"more than a line in {way}: {message[:200]!r}")
    if report["seconds"] > SECONDS:
        found.append(f"{report['seconds']:.1f} s")
    if report["bytes"] > TIMES_ITS_SIZE * size + SPARE_BYTES:
        found.append(f"{report['bytes'] / 2**20:.0f} MB")
    return found


def inject(files, folder, worker, say=lambda *_: None):
    """Loads files in a worker.

    Args:
        files: `(kind, name, bytes)` of each.
        folder: Where they are put, one at a time.
        worker: A `Worker`.
        say: Called with the kind, name, size and report of each.

    Returns:
        `{kind: counts and the largest seconds and bytes}`.
    """
    counts = {}
    for kind, name, data in files:
        path = folder / ("file.keras" if kind.startswith("keras") else "file")
        path.write_bytes(data)
        report = worker.load(path, 3 * SECONDS)
        row = counts.setdefault(
            kind,
            collections.Counter(
                dict.fromkeys(
                    ("injected", "refused", "loaded", "beyond bounds"), 0
                )
            ),
        )
        outcomes = {outcome for _, outcome, _ in report["outcomes"]}
        row["injected"] += 1
        row["loaded" if "loaded" in outcomes else "refused"] += not (
            outcomes - {"refused", "loaded"}
        )
        row["beyond bounds"] += bool(problems(report, len(data)))
        for measure in ("seconds", "bytes"):
            row[measure] = max(row[measure], report[measure])
        say(kind, name, len(data), report)
    return counts


def rows(full, folder, say):
    """The rows of the scorecard."""
    marker = folder / "ran"
    sound = sound_files(folder)
    kinds = None if full else ("pickle that calls", "safetensors", "hdf5")
    mutated = (
        (f"{kind}, mutated", name, data)
        for kind in (sound if full else ())
        for name, data in mutations(sound[kind], 500)
    )
    worker = Worker()
    try:
        counts = inject(
            itertools.chain(corpus(sound, marker, kinds), mutated),
            folder,
            worker,
            lambda kind, name, size, report: [
                say(f"{kind}: {name}: {problem}")
                for problem in problems(report, size)
            ],
        )
    finally:
        worker.stop()
    for kind, row in counts.items():
        outcomes = {
            "refused in one line": row["refused"],
            "loaded": row["loaded"],
            "beyond the bounds": row["beyond bounds"],
        }
        yield Row(
            f"files: {kind}",
            outcomes,
            "beyond the bounds" if row["beyond bounds"] else "",
            f"at most {row['seconds']:.1f} s, {row['bytes'] >> 20} MB",
        )
    ran = marker.exists()
    yield Row(
        "any of them runs code",
        {"ran code": int(ran), "ran nothing": int(not ran)},
        "code was run" if ran else "",
    )


if __name__ == "__main__":
    _work()
