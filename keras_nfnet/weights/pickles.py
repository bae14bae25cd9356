"""A safe reader of DeepMind's parameter pickles, `F*_haiku.npz`.

They are `dill` pickles: loading one imports and calls whatever it names.
This reader is Python's own unpickler with fewer opcodes. A name becomes an
inert `_Name` and a call an inert `_Call`, so that nothing is imported,
looked up or called, and neither jax, haiku nor dill is needed. Arrays are
made from plain bytes and checked sizes.

NOTE: it builds on the pure-Python form, `pickle._Unpickler`, whose opcodes
are a table that a subclass can replace, and whose memo is a dictionary. The
memo of the C form is an array, which a few bytes can make gigabytes large.
"""

import dataclasses
import math
import os
import pickle

import numpy as np

from keras_nfnet.weights.check import Entry

_NUMPY = ("numpy.core", "numpy._core")
_RECONSTRUCT = {f"{root}.multiarray._reconstruct" for root in _NUMPY}
_SCALAR = {f"{root}.multiarray.scalar" for root in _NUMPY}
_FROM_BUFFER = {f"{root}.numeric._frombuffer" for root in _NUMPY}
# dill's and jax's helpers around numpy's `_reconstruct`: both take its name,
# its arguments and the array's state first.
_WRAPPED = {
    "dill._dill._create_array",
    "dill.dill._create_array",
    "jax._src.array._reconstruct_array",
    "jax._src.device_array.reconstruct_device_array",
}
_HAIKU = "haiku._src.data_structures"
_MAPPINGS = {
    "collections.OrderedDict",
    f"{_HAIKU}.FlatMapping",
    f"{_HAIKU}.FlatMap",
    f"{_HAIKU}.frozendict",
}
_OTHERS = {
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.bool",
    "ml_dtypes.bfloat16",
    "_codecs.encode",
}
_ALLOWED = (
    _RECONSTRUCT | _SCALAR | _FROM_BUFFER | _WRAPPED | _MAPPINGS | _OTHERS
)
# Code in the pickle -> (numpy dtype to read with, name).
_DTYPES = {
    "f2": ("f2", "float16"),
    "f4": ("f4", "float32"),
    "f8": ("f8", "float64"),
    "bfloat16": ("u2", "bfloat16"),
}
_OPCODES = """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT
    BININT BININT1 BININT2 LONG1 FLOAT BINFLOAT BINBYTES SHORT_BINBYTES
    BINBYTES8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST LIST
    APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS
    GET BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL"""
# A published file takes about 25 steps per array; F6 has 2,500 arrays and
# names of 50 characters.
_MOST_STEPS = 1_000_000
_MOST_ARRAYS = 20_000
_LONGEST_NAME = 200
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
        return _entries(_Reader(file).load())
    except ValueError:
        raise
    except Exception as error:  # Python's unpickler raises almost any.
        raise ValueError(
            f"it is not a whole pickle ({type(error).__name__}: {error})"
        ) from error


class _Name(str):
    """What the pickle names and this reader never looks up."""

    __slots__ = ()


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class _Call:
    """A call that the pickle asks for and this reader does not make."""

    name: _Name
    arguments: tuple
    state: object = None  # What `__setstate__` would get.


class _Mapping(dict):
    """A dictionary whose keys are names, each of them set once."""

    def __setitem__(self, key, value):
        # A key of another type may be costly to hash.
        if type(key) is not str or len(key) > _LONGEST_NAME:
            raise ValueError(
                "its dictionaries must have names of at most "
                f"{_LONGEST_NAME} characters as keys"
            )
        if key in self:
            raise ValueError(f"it has the key {key!r} twice")
        super().__setitem__(key, value)


class _Opcodes(dict):
    """The opcodes that a parameter file needs; counts the steps taken."""

    def __init__(self, opcodes):
        super().__init__(opcodes)
        self.left = _MOST_STEPS

    def __getitem__(self, code):
        self.take(1)
        return super().__getitem__(code)

    def __missing__(self, code):
        raise ValueError(
            f"it has the opcode {bytes([code])!r}, which no parameter file "
            "needs"
        )

    def take(self, steps):
        self.left -= steps
        if self.left < 0:
            raise ValueError("it takes more steps than any parameter file")


class _Bytes:
    """A file that never sets aside more memory than it has bytes left."""

    def __init__(self, file):
        self._file = file
        self._left = os.fstat(file.fileno()).st_size - file.tell()

    def read(self, size):
        if size > self._left:
            raise EOFError("it ends too early")
        self._left -= size
        return self._file.read(size)

    def readline(self):
        line = self._file.readline()
        self._left -= len(line)
        return line


class _Reader(pickle._Unpickler):
    def __init__(self, file):
        super().__init__(_Bytes(file))
        self.dispatch = _Opcodes(self.dispatch)

    def load(self):
        root = super().load()
        if self.stack or self.metastack:
            raise ValueError("it does not describe one object")
        return root

    def find_class(self, module, name):
        name = f"{module}.{name}"
        if name not in _ALLOWED:
            raise ValueError(
                f"it asks for {name[:120]!r}, which no parameter file needs; "
                "nothing of it was run"
            )
        return _Name(name)

    def load_put(self):
        # Large numbers can be made to share a hash.
        index = int(self.readline())
        if not 0 <= index <= _MOST_STEPS:
            raise ValueError("its memo is larger than any parameter file's")
        self.memo[index] = self.stack[-1]

    def load_empty_dictionary(self):
        self.append(_Mapping())

    def load_dict(self):
        items, mapping = self.pop_mark(), _Mapping()
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[key] = value
        self.append(mapping)

    def load_reduce(self):
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not _Name or type(arguments) is not tuple:
            raise TypeError("a call needs a name and its arguments")
        if name not in _MAPPINGS:
            self.append(_Call(name, arguments))
        elif not arguments:
            self.append(_Mapping())
        else:  # The mapping itself: copies would add up.
            (mapping,) = arguments
            self.append(_checked(mapping))

    def load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Call and target.state is None:
            target.state = state
            return
        # The `__dict__` of one of haiku's mappings, or that and its slots.
        parts = state if type(state) is tuple else (state,)
        self.dispatch.take(len(parts))
        for part in parts:
            for name in {"_mapping", "_storage"} & _checked(part or {}).keys():
                self.dispatch.take(len(_checked(part[name])))
                for key, value in part[name].items():
                    _checked(target)[key] = value

    dispatch = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[
            getattr(pickle, name)[0]
        ]
        for name in _OPCODES.split()
    }
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8
    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _checked(mapping):
    if type(mapping) is not _Mapping:
        raise ValueError("it must be {module: {parameter: array}}")
    return mapping


def _entries(root):
    entries, known = {}, {}
    for module, parameters in _checked(root).items():
        if not _checked(parameters):
            entries[module] = Entry((0,), "nothing", lambda: np.zeros(0))
        for parameter, value in parameters.items():
            name = f"{module}:{parameter}"
            try:
                # Two entries may share one array.
                if id(value) not in known:
                    known[id(value)] = _entry(value)
                entries[name] = known[id(value)]
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from error
            if len(entries) > _MOST_ARRAYS:
                raise ValueError("it has more arrays than any network")
    return entries


def _entry(value):
    """Checks the description of an array; its values are read when asked."""
    if type(value) is float:
        return Entry((), "float64", lambda: np.asarray(value))
    data, shape, dtype, fortran = _parts(value)
    if (
        type(shape) is not tuple
        or len(shape) > _MOST_AXES
        or not all(type(side) is int and 0 <= side < 2**31 for side in shape)
    ):
        raise ValueError("an array's shape must be a few positive integers")
    code, name = _dtype(dtype)
    count = math.prod(shape)
    size = count * np.dtype(code).itemsize
    match data:
        # Protocols before 3 store bytes as text to be encoded.
        case _Call("_codecs.encode", (str() as data, "latin1"), None):
            pass
        case bytes():
            pass
        case _:
            raise ValueError(
                "an array's values must be bytes. Received: "
                f"{type(data).__name__}"
            )
    if len(data) != size:
        raise ValueError(
            f"an array of shape {shape} and type {name} has {size} bytes. "
            f"Received: {len(data)} bytes"
        )

    def read():
        plain = data if type(data) is bytes else data.encode("latin1")
        array = np.frombuffer(plain, code, count)
        if name == "bfloat16":  # The upper half of a float32.
            array = (array.astype("u4") << 16).view("f4")
        return array.reshape(shape, order="F" if fortran else "C")

    return Entry(shape, name, read)


def _parts(value):
    """`(bytes, shape, dtype, is Fortran order)` of an array's description."""
    match value:
        case _Call(name, (_Name() as made_by, _, state, *_), None) if (
            name in _WRAPPED and made_by in _RECONSTRUCT
        ):
            pass
        case _Call(name, _, state) if name in _RECONSTRUCT:
            pass
        case _Call(name, (dtype, data), None) if name in _SCALAR:
            state = (1, (), dtype, False, data)
        case _Call(name, (data, dtype, shape, "C" | "F" as order), None) if (
            name in _FROM_BUFFER
        ):
            state = (1, shape, dtype, order == "F", data)
        case _:
            state = None
    match state:
        case (_, shape, dtype, int() as fortran, data):
            return data, shape, dtype, bool(fortran)
    raise ValueError(
        f"an array was expected. Received: {type(value).__name__}"
        + (f" of {value.name}" if type(value) is _Call else "")
    )


def _dtype(value):
    """`(numpy dtype to read with, name)` of a dtype's description."""
    match value:
        case _Call("numpy.dtype", (_Name("ml_dtypes.bfloat16"), *_), state):
            code = "bfloat16"
        case _Call("numpy.dtype", (str() as code, *_), state):
            pass
        case _:
            raise ValueError("an array's type is misshapen")
    match state:
        case None:
            order = "<"
        # (version, byte order, subdtype, names, fields, ...)
        case (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
            pass
        case _:
            raise ValueError("an array's type is misshapen")
    if code[:1] in ("<", ">", "="):
        order, code = code[0], code[1:]
    if code not in _DTYPES:
        raise ValueError(
            "an array's type must be float16, bfloat16, float32 or float64. "
            f"Received: {code[:40]!r}"
        )
    read_as, name = _DTYPES[code]
    # "=" and "|" in a file can only mean the writer's order, little-endian
    # on every machine that these files come from.
    return (">" if order == ">" else "<") + read_as, name
