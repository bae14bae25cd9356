"""Recipes by name: one readable file each."""

import importlib
import pkgutil


def names():
    """Names of all recipes, sorted.

    Returns:
        A list of strings.

    Example:

    >>> from keras_nfnet.training import recipes
    >>> recipes.names()[:3]
    ['digits', 'f0', 'f1']
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def recipe(name):
    """The recipe of a name.

    Args:
        name: One of `recipes.names()`, such as `"f0"`.

    Returns:
        A `keras_nfnet.Recipe`.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> from keras_nfnet.training import recipes
    >>> recipes.recipe("f1").size
    224
    """
    return _module(name).RECIPE


def summary(name):
    """The first line of a recipe's description."""
    return _module(name).__doc__.splitlines()[0]


def _module(name):
    if name not in names():
        raise ValueError(
            f"A recipe must be one of {', '.join(names())}. Received: {name!r}"
        )
    return importlib.import_module(f"{__name__}.{name}")
