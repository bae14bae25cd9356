"""Every public name carries types; `typed_use.py` tries them."""

import importlib
import inspect

import keras
import pytest
from test_public_names import RC1

from keras_nfnet import NFNet
from keras_nfnet.models import constructors
from keras_nfnet.utils.types import Constructor, ResNetConstructor

MODULES = sorted(
    {path.rpartition(".")[0] for path in RC1["names"]}
    | {
        "keras_nfnet.data.graph_preprocessing",
        "keras_nfnet.models.constructors",
    }
)
MORE = (
    ("keras_nfnet.diagnostics.signal_propagation", "SignalPropagation"),
    ("keras_nfnet.models.classifier", "NFNetModel"),
    ("keras_nfnet.training.evaluate", "evaluate_source"),
    *(("keras_nfnet.training.recipes", n) for n in ("recipe", "names")),
)


def public():
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            yield module, name
    yield from MORE


def keras_has(cls, name):
    """Whether a method is one of Keras's, whose types are Keras's."""
    return hasattr(keras.Layer, name) or any(
        name in vars(base)
        for base in cls.__mro__
        if base.__module__.startswith("keras.")
    )


def functions_of(thing):
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            if name != "__init__" and (
                name.startswith("_") or keras_has(thing, name)
            ):
                continue
            member = getattr(member, "fget", member)
            if inspect.isfunction(member):
                yield f"{thing.__name__}.{name}", member
    elif callable(thing):
        yield thing.__name__, thing


@pytest.mark.parametrize(("module", "name"), sorted(set(public())))
def test_arguments_and_results_of_a_public_name_have_types(module, name):
    thing = getattr(importlib.import_module(module), name)
    for path, function in functions_of(thing):
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty
            and parameter.name != "self"
        ]
        assert not untyped, (path, untyped)
        assert signature.return_annotation is not signature.empty, path


@pytest.mark.parametrize("name", constructors.__all__)
def test_a_constructors_type_is_its_signature(name):
    construct = getattr(constructors, name)
    kind = ResNetConstructor if name.startswith("NFResNet") else Constructor
    typed = dict(inspect.signature(kind.__call__).parameters)
    del typed["self"]
    found = inspect.signature(construct).parameters
    assert list(typed) == list(found)
    for argument, parameter in typed.items():
        assert parameter.kind == found[argument].kind
        if argument != "name":
            assert parameter.default == found[argument].default
        if argument != "use_se":
            of_nfnet = inspect.signature(NFNet).parameters[argument]
            assert parameter.annotation == of_nfnet.annotation


def test_keras_methods_are_told_from_own_ones():
    layer = importlib.import_module("keras_nfnet.layers").ScaledWSConv2D
    assert keras_has(layer, "call") and issubclass(layer, keras.Layer)
    assert not keras_has(layer, "standardized_kernel")
