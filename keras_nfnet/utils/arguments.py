"""Refuses a bad argument by name. Every public function uses these.

Each function returns the value in a form that can be saved: NumPy numbers
count as numbers and become Python's. Booleans are no numbers.
"""

import functools
import math
import numbers
import os
import reprlib
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_nfnet.utils.files import place

# No backend holds larger integers.
_INT64 = 2**63 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


def refuse(name, value, expected, cause=None, optional=False):
    """Raises the error of a bad argument.

    Args:
        name: Name of the argument.
        value: What the caller passed.
        expected: What it must be, in words.
        cause: An error that led to this one, or `None`.
        optional: Whether it may also be `None`.

    Raises:
        ValueError: Always.
    """
    expected += ", or `None`" if optional else ""
    shown = " ".join(_SHORT.repr(value).split())
    raise ValueError(
        f"`{name}` must be {expected}. Received: {name}={shown}"
    ) from cause


def number(name, value, accepts=None, expected="", optional=False):
    """Returns a finite number in a range, or refuses it.

    Args:
        name: Name of the argument.
        value: What the caller passed.
        accepts: A function from the number to whether it is in range, or
            `None` for all.
        expected: The range in words, such as `"above 0"`.
        optional: Whether `None` is allowed.

    Raises:
        ValueError: If the value is no finite number in the range.
    """
    if value is None and optional:
        return None
    number = _item(value)
    if (
        not isinstance(number, numbers.Real)
        or isinstance(number, bool)
        or not math.isfinite(number)
        or not (accepts is None or accepts(number))
    ):
        expected = f"a finite number {expected}".rstrip()
        refuse(name, value, expected, optional=optional)
    return number


def positive(name, value, optional=False):
    """Returns a number above 0, or refuses it."""
    return number(name, value, lambda v: v > 0, "above 0", optional)


def not_negative(name, value, optional=False):
    """Returns a number that is 0 or more, or refuses it."""
    return number(name, value, lambda v: v >= 0, "that is 0 or more", optional)


def probability(name, value, optional=False):
    """Returns a number in [0, 1), or refuses it."""
    return number(name, value, lambda v: 0 <= v < 1, "in [0, 1)", optional)


def fraction(name, value, optional=False):
    """Returns a number in (0, 1], or refuses it."""
    return number(name, value, lambda v: 0 < v <= 1, "in (0, 1]", optional)


def integer(name, value, least=1, most=None, optional=False):
    """Returns an integer from `least` to `most`, or refuses it.

    Raises:
        ValueError: If the value is no integer in the range.
    """
    if value is None and optional:
        return None
    number = _item(value)
    if (
        not isinstance(number, numbers.Integral)
        or isinstance(number, bool)
        or not least <= number <= (_INT64 if most is None else most)
    ):
        if most is not None:
            expected = f"an integer from {least} to {most}"
        elif least == 1:
            expected = "a positive integer"
        else:
            expected = f"an integer, {least} or more"
        refuse(name, value, expected, optional=optional)
    return int(number)


def count(name, value, optional=False):
    """Returns an integer that is 0 or more, or refuses it."""
    return integer(name, value, least=0, optional=optional)


def integers(name, value, count=2):
    """Returns a tuple of positive integers.

    Args:
        name: Name of the argument.
        value: `count` integers, or one that stands for all.
        count: How many. `None` for one or more, of which one alone does not
            stand for all.

    Raises:
        ValueError: If the value is neither.
    """
    one = count and isinstance(_item(value), numbers.Integral)
    expected = f"a positive integer or {count} of them"
    if count is None:
        expected = "a tuple of positive integers"
    try:
        values = (value,) * count if one else sequence(name, value)
        if count and len(values) != count:
            raise ValueError
        return tuple(integer(name, each) for each in values)
    except ValueError:
        refuse(name, value, expected)


def sequence(name, value, expected="a list or tuple that is not empty"):
    """Returns a tuple of what a list, tuple or array holds, or refuses it."""
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        refuse(name, value, expected)
    return tuple(value)


def axes(name, value, rank):
    """Returns axes as a sorted tuple of integers from 0, or refuses them.

    Args:
        name: Name of the argument.
        value: One axis or several, below 0 from the last.
        rank: Axes that there are.

    Raises:
        ValueError: If the value does not name axes, each once.
    """
    many = isinstance(value, Iterable) and not isinstance(value, dict)
    entries = list(value) if many else [value]
    try:
        found = sorted(
            integer(name, entry, -rank, rank - 1) % rank for entry in entries
        )
    except ValueError:
        found = None
    if found is None or len(set(found)) < len(found):
        refuse(name, value, f"axes of a tensor of {rank}, each once, or `None`")
    return tuple(found)


def boolean(name, value, optional=False):
    """Returns `True` or `False`, or refuses the value."""
    if value is None and optional:
        return None
    if not isinstance(value, bool | np.bool_):
        refuse(name, value, "`True` or `False`", optional=optional)
    return bool(value)


def one_of(name, value, allowed):
    """Returns one of a few texts, numbers or `None`, or refuses the value."""
    kinds = (str, int, float, type(None))
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        or (value not in allowed)
    ):
        shown = ["`None`" if a is None else repr(a) for a in allowed]
        shown = [text.replace("'", '"') for text in shown]
        names = " or ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
        refuse(name, value, names)
    return value


def text(name, value, optional=False):
    """Returns a text that is not empty, or refuses the value."""
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value:
        refuse(name, value, "a text that is not empty", optional=optional)
    return str(value)


def array(name, value):
    """Returns numbers as a tensor of Keras's backend, or refuses them."""
    if keras.utils.is_keras_tensor(value):
        return value
    try:
        if not hasattr(value, "dtype"):
            value = np.asarray(value)
            if value.dtype == np.float64:
                value = value.astype(keras.config.floatx())
        if isinstance(value, np.ndarray) and value.dtype.kind in "OSUMmc":
            raise TypeError(f"of type {value.dtype}")
        if isinstance(value, np.ndarray) and not value.size:
            raise ValueError("no values")
        return ops.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        refuse(name, value, "an array or tensor of numbers", error)


def path(name, value, expected="the path of a file"):
    """Returns a path as the caller gave it, or refuses the value."""
    is_path = isinstance(value, str | os.PathLike)
    if not is_path or not str(value) or "\0" in str(value):
        refuse(name, value, expected)
    return value


def file_to_write(name, value, ending):
    """Returns an absolute path, or refuses it before long work begins.

    Args:
        name: Name of the argument.
        value: A path, as a string or `pathlib.Path`.
        ending: What it must end in, such as `".html"`. Its folder must exist.
    """
    expected = f"the path of a file that ends in {ending}, in a folder that "
    expected += "exists"
    file = place(path(name, value, expected))
    if (
        not file.endswith(ending)
        or os.path.isdir(file)
        or not os.path.isdir(os.path.dirname(file))
    ):
        refuse(name, value, expected)
    return file


def function(name, value, expected="a function, or `None`"):
    """Returns a function or `None`, or refuses the value."""
    if value is not None and not callable(value):
        refuse(name, value, expected)
    return value


def looked_up(name, value, get, expected, optional=False):
    """Returns what Keras finds under a name, or refuses it.

    Args:
        name: Name of the argument.
        value: A name, a description, or the object itself.
        get: Such as `keras.initializers.get`.
        expected: What the value must be, such as `"an initializer"`.
        optional: Whether `None` is allowed.
    """
    expected = f"{expected} that Keras knows"
    if value is None and not optional:
        refuse(name, value, expected)
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        refuse(name, value, expected, error, optional)


def initializer(name, value):
    """Returns an initializer, or refuses the value."""
    return looked_up(name, value, keras.initializers.get, "an initializer")


def regularizer(name, value):
    """Returns a regularizer or `None`, or refuses the value."""
    return looked_up(
        name, value, keras.regularizers.get, "a regularizer", optional=True
    )


def constraint(name, value):
    """Returns a constraint or `None`, or refuses the value."""
    return looked_up(
        name, value, keras.constraints.get, "a constraint", optional=True
    )


def learning_rate(value):
    """A rate as Keras takes it: a float, a schedule or a function."""
    if callable(value):
        return value
    return float(not_negative("learning_rate", value))


def check_fields(instance, checks):
    """Checks the fields of a frozen dataclass and keeps what comes of them.

    Args:
        instance: The dataclass.
        checks: `{field: function}`; each function takes a name and a value,
            as those above.
    """
    for field, check in checks.items():
        value = check(field, getattr(instance, field))
        object.__setattr__(instance, field, value)


def optional(check):
    """A check that lets `None` pass."""
    return functools.partial(check, optional=True)


def choice(*allowed):
    """A check of one of a few values."""
    return lambda name, value: one_of(name, value, allowed)


def _item(value):
    """A NumPy scalar as Python's, all else as it is."""
    return value.item() if isinstance(value, np.generic) else value
