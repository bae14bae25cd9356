"""An inert walk over a pickle's opcodes: it notes calls and makes none.

This is not an unpickler. Every "call this" of the pickle becomes a `Call`
that says what was named and with which arguments; names outside of an
allow-list are refused.
"""

import os
import pickletools

# A published file has about 25 opcodes per array and F7 about 3,400 arrays.
_MOST_OPCODES = 2_000_000
_VALUES = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING
    BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8""".split()
)
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_MARK = object()


class Name:
    """What the pickle names and this reader never looks up."""

    __slots__ = ("module", "name")

    def __init__(self, module, name):
        self.module = module
        self.name = name

    def __str__(self):
        return f"{self.module}.{self.name}"


class Call:
    """A call that the pickle asks for and this reader does not make."""

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name, arguments):
        self.name = name
        self.arguments = arguments
        self.state = None  # Of BUILD: what `__setstate__` would get.
        self.items = {}  # Of SETITEMS, for the kinds of dictionary.


class _Window:
    """A file whose reads never ask for more than is there.

    A pickle can announce a string of any length, for which a plain read
    would set memory aside.
    """

    def __init__(self, file):
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def tell(self):
        return self._file.tell()

    def read(self, size):
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

    def readline(self):
        data = self._file.readline(self._left)
        self._left -= len(data)
        return data


def walk(file, allowed):
    """What a pickle describes, as dicts, lists, tuples, values and `Call`s.

    Args:
        file: A binary file at the pickle's start.
        allowed: `allowed(module, name)` says whether that may be named.

    Returns:
        The pickle's one object.

    Raises:
        ValueError: If it is not a complete pickle, or needs more than this
            reader does.
    """
    machine = _Machine(allowed)
    opcodes = pickletools.genops(_Window(file))
    for count, (opcode, argument, _) in enumerate(opcodes):
        if count > _MOST_OPCODES:
            raise ValueError("it has more steps than any parameter file")
        try:
            if machine.step(opcode.name, argument):
                return machine.result()
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"its step {count} ({opcode.name}) has nothing to work on"
            ) from error
    raise ValueError("it ends before its end mark")


class _Machine:
    def __init__(self, allowed):
        self._allowed = allowed
        self._stack = []
        self._memo = {}

    def result(self):
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise ValueError("it does not describe one object")
        return self._stack[0]

    def step(self, name, argument):
        """Does one opcode; returns whether it was the last."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name == "STOP":
            return True
        elif name not in ("PROTO", "FRAME"):
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise ValueError(
                    f"it uses the step {name}, which no parameter file needs"
                )
            method(argument)
        return False

    def _pop(self):
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError("a mark")
        return value

    def _top(self):
        if self._stack[-1] is _MARK:
            raise IndexError("a mark")
        return self._stack[-1]

    def _pop_to_mark(self):
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                values = self._stack[position + 1 :]
                del self._stack[position:]
                return values
        raise IndexError("no mark")

    def _do_mark(self, _):
        self._stack.append(_MARK)

    def _do_pop(self, _):
        self._stack.pop()

    def _do_pop_mark(self, _):
        self._pop_to_mark()

    def _do_dup(self, _):
        self._stack.append(self._top())

    # The memo.

    def _do_memoize(self, _):
        self._memo[len(self._memo)] = self._top()

    def _do_put(self, index):
        self._memo[int(index)] = self._top()

    _do_binput = _do_long_binput = _do_put

    def _do_get(self, index):
        self._stack.append(self._memo[int(index)])

    _do_binget = _do_long_binget = _do_get

    # Containers.

    def _do_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_list(self, _):
        self._stack.append(self._pop_to_mark())

    def _do_dict(self, _):
        values = self._pop_to_mark()
        self._stack.append({})
        self._set_items(values)

    def _do_tuple1(self, _):
        self._stack.append((self._pop(),))

    def _do_tuple2(self, _):
        last = self._pop()
        self._stack.append((self._pop(), last))

    def _do_tuple3(self, _):
        last, middle = self._pop(), self._pop()
        self._stack.append((self._pop(), middle, last))

    def _do_append(self, _):
        self._extend([self._pop()])

    def _do_appends(self, _):
        self._extend(self._pop_to_mark())

    def _extend(self, values):
        target = self._top()
        if type(target) is not list:
            raise TypeError("not a list")
        target.extend(values)

    def _do_setitem(self, _):
        value = self._pop()
        self._set_items([self._pop(), value])

    def _do_setitems(self, _):
        self._set_items(self._pop_to_mark())

    def _set_items(self, values):
        target = self._top()
        if type(target) is Call:
            target = target.items
        if type(target) is not dict or len(values) % 2:
            raise TypeError("not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Names only: a hostile key may be costly to hash.
            if type(key) is not str:
                raise ValueError(
                    "its dictionaries must have names as keys; one is of "
                    f"type {type(key).__name__}"
                )
            if key in target:
                raise ValueError(f"it has the key {key[:80]!r} twice")
            target[key] = value

    # Names and calls.

    def _do_global(self, argument):
        # genops joins the two with a space.
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _do_stack_global(self, _):
        name = self._pop()
        self._name(self._pop(), name)

    def _name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise TypeError("not a name")
        if not self._allowed(module, name):
            raise ValueError(
                f"it asks for {f'{module}.{name}'[:120]!r}, which no "
                "parameter file needs; nothing of it was run"
            )
        self._stack.append(Name(module, name))

    def _do_reduce(self, _):
        arguments, name = self._pop(), self._pop()
        if type(name) is not Name or type(arguments) is not tuple:
            raise TypeError("not a name and its arguments")
        self._stack.append(Call(name, arguments))

    _do_newobj = _do_reduce

    def _do_build(self, _):
        state, target = self._pop(), self._top()
        if type(target) is not Call or target.state is not None:
            raise TypeError("not a new object")
        target.state = state
