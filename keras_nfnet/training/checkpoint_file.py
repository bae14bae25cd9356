"""One checkpoint as one file: safetensors with a checksum over all of it."""

import hashlib
import json
import os
import re
import struct

import numpy as np

_LARGEST_HEADER = 100_000_000  # Of the safetensors format.
_PIECE = 8 * 2**20  # Bytes read at a time.
_KEY = "keras_nfnet_checkpoint"
_DIGEST_KEY = "keras_nfnet_checkpoint_sha256"
_DIGEST = re.compile(rb'"%s":"([0-9a-f]{64})"' % _DIGEST_KEY.encode())
_DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


def lay_out(step, arrays, metadata):
    """Checks everything before a byte is written.

    Args:
        step: Of the checkpoint.
        arrays: `{name: array}`.
        metadata: What JSON can hold.

    Returns:
        The first bytes of the file, in which the checksum is still zeros,
        and the arrays in the order of the file.

    Raises:
        ValueError: Naming what cannot be saved.
    """
    try:
        # The digest is found by its key in quotes, which the escapes of a
        # JSON text within a JSON text cannot contain.
        text = json.dumps({"step": step, "metadata": dict(metadata or {})})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "`metadata` must be a dictionary that JSON can hold "
            f"({error}). Received: metadata={metadata!r}"
        ) from error
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or name in ("", "__metadata__"):
            raise ValueError(
                "`arrays` must have names that are strings, not empty and "
                f"not '__metadata__'. Received: name={name!r}"
            )
        if array.dtype.name not in _DTYPES:
            raise ValueError(
                f"`arrays` must be of one of the types {sorted(_DTYPES)}. "
                f"Received: {name!r} of type {array.dtype}"
            )
    # The widest first, so that every array is aligned.
    names = sorted(arrays, key=lambda n: (-arrays[n].itemsize, n))
    arrays = {name: arrays[name] for name in names}
    header = {"__metadata__": {_KEY: text, _DIGEST_KEY: "0" * 64}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > _LARGEST_HEADER:
        raise ValueError(
            "`arrays` and `metadata` must leave a header of at most "
            f"{_LARGEST_HEADER} bytes. Received: {len(encoded)} bytes"
        )
    head = struct.pack("<Q", len(encoded)) + encoded
    return head, list(arrays.values())


def write(path, head, arrays):
    """Writes what `lay_out` returned, and the checksum, to a new file."""
    # NOTE: not `safetensors.numpy.save_file`: a kill would leave behind its
    # temporary file, whose name we could not recognize.
    digest = hashlib.sha256(head)
    with open(path, "xb") as file:
        file.write(head)
        for array in arrays:
            array = np.ascontiguousarray(array)
            if array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("<"))
            data = array.reshape(-1).view(np.uint8).data
            digest.update(data)
            file.write(data)
        file.seek(_DIGEST.search(head).start(1))
        file.write(digest.hexdigest().encode())


def check(path):
    """Reads every byte of a file and compares with its checksum.

    Raises:
        ValueError: Saying what is wrong with it.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("it is truncated or not a safetensors file")
        head = start + file.read(length)
        match = _DIGEST.search(head)
        if match is None:
            raise ValueError("its header is damaged: no checksum is there")
        # The checksum itself is hashed as zeros.
        digest = hashlib.sha256(head[: match.start(1)])
        digest.update(b"0" * 64 + head[match.end(1) :])
        while piece := file.read(_PIECE):
            digest.update(piece)
    if match[1] != digest.hexdigest().encode():
        raise ValueError("it is not what was saved (checksum)")


def read(path, step):
    """Reads a file once every byte of it is checked.

    Args:
        path: The file.
        step: The step that its name tells.

    Returns:
        Its `{name: array}` and its metadata.

    Raises:
        ValueError: Saying what is wrong with it.
        OSError: If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    check(path)
    try:
        with safe_open(path, framework="np") as file:
            told = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if told.get("step") != step:
                raise ValueError(
                    f"it was saved at step {told.get('step')}, which its "
                    "name does not tell"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"it is damaged ({error})") from error
    return arrays, told["metadata"]
