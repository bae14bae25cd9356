"""Refuses arguments of optimizers by name."""

import math
import numbers

import numpy as np


def number(name, value, accepts, expected, optional=False):
    """Returns a number in a form that can be saved, or refuses it.

    Args:
        name: Name of the argument.
        value: What the user passed. NumPy numbers count as numbers, bools
            do not.
        accepts: A function from the number to whether it is in range.
        expected: The range in words, such as `"above 0"`.
        optional: Whether `None` is allowed.

    Raises:
        ValueError: If the value is no finite number in the range.
    """
    if value is None and optional:
        return None
    if (
        isinstance(value, bool | np.bool_)
        or not isinstance(value, numbers.Real)
        or not math.isfinite(value)
        or not accepts(value)
    ):
        alternative = ", or `None`" if optional else ""
        raise ValueError(
            f"`{name}` must be a finite number {expected}{alternative}. "
            f"Received: {name}={value!r}"
        )
    return value.item() if isinstance(value, np.generic) else value


def positive(name, value, optional=False):
    """Returns a number above 0."""
    return number(name, value, lambda v: v > 0, "above 0", optional)


def not_negative(name, value, optional=False):
    """Returns a number that is 0 or more."""
    return number(name, value, lambda v: v >= 0, "that is 0 or more", optional)


def checked_rate(value):
    """Returns a rate as Keras takes it: a float, a schedule or a function."""
    if callable(value):
        return value
    return float(not_negative("learning_rate", value))
