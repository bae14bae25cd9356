"""A safe reader of DeepMind's parameter pickles, `F*_haiku.npz`.

They are `dill` pickles, whose loading imports and calls what they name.
Here nothing of them is imported or called, and neither jax, haiku nor dill
is needed: `opcodes.walk` notes what the pickle asks for, and this module
recognizes the notes that mean "an array" or "a mapping" and builds those
from checked sizes and plain bytes.
"""

import math

import numpy as np

from keras_nfnet.weights.check import Entry
from keras_nfnet.weights.opcodes import Call, Name, walk

_NUMPY = ("numpy.core", "numpy._core")
_RECONSTRUCT = {f"{root}.multiarray._reconstruct" for root in _NUMPY}
_SCALAR = {f"{root}.multiarray.scalar" for root in _NUMPY}
_FROM_BUFFER = {f"{root}.numeric._frombuffer" for root in _NUMPY}
_DTYPE = {"numpy.dtype"}
_ENCODE = {"_codecs.encode"}
# dill's and jax's helpers around numpy's `_reconstruct`; both take its name,
# its arguments and the array's state first.
_WRAPPED = {
    "dill._dill._create_array",
    "dill.dill._create_array",
    "jax._src.array._reconstruct_array",
    "jax._src.device_array.reconstruct_device_array",
}
_MAPPINGS = {
    "collections.OrderedDict",
    "builtins.dict",
    "haiku._src.data_structures.FlatMapping",
    "haiku._src.data_structures.FlatMap",
    "haiku._src.data_structures.frozendict",
    "haiku._src.data_structures.to_immutable_dict",
    "haiku._src.data_structures.to_mutable_dict",
}
_PASSIVE = {"numpy.ndarray", "numpy.bool", "ml_dtypes.bfloat16"}
_ALLOWED = frozenset().union(
    _RECONSTRUCT,
    _SCALAR,
    _FROM_BUFFER,
    _DTYPE,
    _ENCODE,
    _WRAPPED,
    _MAPPINGS,
    _PASSIVE,
)
# Code in the pickle -> (numpy dtype to read with, name).
_DTYPES = {
    "f2": ("f2", "float16"),
    "f4": ("f4", "float32"),
    "f8": ("f8", "float64"),
    "bfloat16": ("u2", "bfloat16"),
}
_MOST_AXES = 8


def read_haiku_pickle(file):
    """Reads a pickle of `{module: {parameter: array}}`.

    Args:
        file: A binary file at the pickle's start. It is read whole; the
            arrays are views of the bytes read.

    Returns:
        `{"module:parameter": Entry}`.

    Raises:
        ValueError: If it is not such a pickle, is truncated, or asks for
            anything else. Nothing that it names is ever called.
    """
    try:
        root = walk(file, lambda *name: ".".join(name) in _ALLOWED)
        return _entries(root)
    except (RecursionError, MemoryError, OverflowError) as error:
        raise ValueError("it is larger or deeper than any can be") from error


def _entries(root):
    entries, known = {}, {}
    for module, parameters in _mapping(root).items():
        parameters = _mapping(parameters)
        if not parameters:
            entries[module] = Entry((0,), "nothing", lambda: np.zeros(0))
        for parameter, value in parameters.items():
            name = f"{module}:{parameter}"
            try:
                # Two entries may share one array.
                if id(value) not in known:
                    known[id(value)] = _array_entry(value)
                entries[name] = known[id(value)]
            except ValueError as error:
                raise ValueError(f"{name[:120]}: {error}") from error
    return entries


def _mapping(value, depth=0):
    """The dict that a dict, a noted dict or haiku's mapping stands for."""
    if type(value) is dict:
        return value
    if type(value) is not Call or str(value.name) not in _MAPPINGS or depth > 4:
        raise ValueError("it must be {module: {parameter: array}}")
    sources = [argument for argument in value.arguments if argument != ()]
    state = value.state
    # An object's state is (its __dict__, its slots), or its __dict__ alone.
    for part in state if type(state) is tuple else (state,):
        if type(part) is dict:
            sources += [
                part[name] for name in ("_mapping", "_storage") if name in part
            ]
    found = dict(value.items)
    for source in sources:
        if type(source) is list:
            source = _pairs(source)
        found.update(_mapping(source, depth + 1))
    return found


def _pairs(pairs):
    if not all(
        type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str
        for pair in pairs
    ):
        raise ValueError("it must be {module: {parameter: array}}")
    return dict(pairs)


def _array_entry(value):
    """Checks the note of one array; the values are read when asked for."""
    if type(value) is float:
        return Entry((), "float64", lambda: np.asarray(value))
    data, shape, (code, name), fortran = _describe(value)
    count = math.prod(shape)
    size = np.dtype(code).itemsize
    if len(data) != count * size:
        raise ValueError(
            f"an array of shape {shape} and type {name} has "
            f"{count * size} bytes. Received: {len(data)} bytes"
        )

    def read():
        array = np.frombuffer(data, code, count)
        if name == "bfloat16":  # The upper half of a float32.
            array = (array.astype("u4") << 16).view("f4")
        return array.reshape(shape, order="F" if fortran else "C")

    return Entry(shape, name, read)


def _describe(value):
    """`(bytes, shape, dtype, is Fortran order)` of an array's note."""
    if type(value) is not Call:
        raise ValueError(
            f"an array was expected. Received: {type(value).__name__}"
        )
    name, arguments = str(value.name), value.arguments
    state = value.state
    if name in _WRAPPED:
        if (
            len(arguments) not in (3, 4)
            or type(arguments[0]) is not Name
            or str(arguments[0]) not in _RECONSTRUCT
            or state is not None
        ):
            raise ValueError(f"the array made by {name} is misshapen")
        name, state = str(arguments[0]), arguments[2]
    if name in _RECONSTRUCT:
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("an array has no state of five parts")
        _, shape, dtype, fortran, data = state
    elif name in _SCALAR and len(arguments) == 2:
        (dtype, data), shape, fortran = arguments, (), False
    elif name in _FROM_BUFFER and len(arguments) == 4:
        data, dtype, shape, order = arguments
        if order not in ("C", "F"):
            raise ValueError("an array's order must be 'C' or 'F'")
        fortran = order == "F"
    else:
        raise ValueError(f"an array was expected. Received: {name}")
    if (
        type(shape) is not tuple
        or len(shape) > _MOST_AXES
        or not all(type(side) is int and 0 <= side < 2**31 for side in shape)
    ):
        raise ValueError("an array's shape must be a few whole numbers")
    if type(fortran) not in (bool, int):
        raise ValueError("an array's order must be true or false")
    return _bytes(data), shape, _dtype(dtype), bool(fortran)


def _bytes(data):
    # Protocols before 3 store bytes as text to be encoded.
    if (
        type(data) is Call
        and str(data.name) in _ENCODE
        and len(data.arguments) == 2
        and all(type(argument) is str for argument in data.arguments)
        and data.arguments[1] == "latin1"
    ):
        try:
            return data.arguments[0].encode("latin1")
        except UnicodeEncodeError as error:
            raise ValueError("an array's bytes are not latin-1") from error
    if type(data) not in (bytes, bytearray):
        raise ValueError(
            f"an array's values must be bytes. Received: {type(data).__name__}"
        )
    return data


def _dtype(note):
    """`(numpy dtype to read with, name)` of a dtype's note."""
    if (
        type(note) is not Call
        or str(note.name) not in _DTYPE
        or not note.arguments
    ):
        raise ValueError("an array's type is misshapen")
    code, state = note.arguments[0], note.state
    if type(code) is Name and str(code) == "ml_dtypes.bfloat16":
        code = "bfloat16"
    order = "<"
    if state is not None:
        # (version, byte order, subdtype, names, fields, ...)
        if (
            type(state) is not tuple
            or len(state) < 5
            or any(part is not None for part in state[2:5])
        ):
            raise ValueError("an array's type is misshapen")
        order = state[1]
    if type(code) is str and code[:1] in ("<", ">", "="):
        order, code = code[0], code[1:]
    if type(code) is not str or code not in _DTYPES:
        raise ValueError(
            "an array's type must be float16, bfloat16, float32 or float64. "
            f"Received: {str(code)[:40]!r}"
        )
    if type(order) is not str or order not in ("<", ">", "=", "|"):
        raise ValueError("an array's byte order is misshapen")
    read_as, name = _DTYPES[code]
    # "=" and "|" in a file can only mean the writer's order, little-endian
    # on every machine that these files come from.
    return (">" if order == ">" else "<") + read_as, name
