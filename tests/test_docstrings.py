"""Every public name says what it is, takes, returns, refuses and comes from.

And shows it: each example runs by itself, in a folder with nothing but the
digits in `data`, after `import keras, keras_nfnet` and `import numpy as np`.
"""

import ast
import doctest
import importlib.util
import inspect
import pkgutil
import re
import textwrap

import keras
import numpy as np
import pytest

import keras_nfnet

# Public too, though no `__all__` names them.
MORE = (
    "keras_nfnet.diagnostics.signal_propagation.SignalPropagation",
    "keras_nfnet.models.classifier.NFNetModel.compile",
    "keras_nfnet.models.nf_block.NFBlock",
    "keras_nfnet.training.recipes.names",
    "keras_nfnet.training.recipes.recipe",
)
# These refuse nothing: they have no Raises.
REFUSE_NOTHING = {
    "keras_nfnet.diagnostics.VarianceReport",
    "keras_nfnet.data.imagenet_labels",
    "keras_nfnet.diagnostics.signal_propagation.SignalPropagation",
    "keras_nfnet.diagnostics.variant_table",
    "keras_nfnet.export.ExportReport",
    "keras_nfnet.training.recipes.names",
}
# These follow nobody's paper or code: they have no Reference.
OWN = {
    "keras_nfnet.data.decode_picture",
    "keras_nfnet.data.set_max_pixels",
    "keras_nfnet.export.ExportReport",
    "keras_nfnet.training.recipes.names",
    "keras_nfnet.training.recipes.recipe",
    "keras_nfnet.weights.convert",
    "keras_nfnet.weights.load",
    "keras_nfnet.weights.save",
}
# What the examples need beyond the packages of `dev`.
NEEDS = {"keras_nfnet.export.to_openvino": "openvino"}
# Run on JAX, by another test.
ON_JAX = {"keras_nfnet.layout_map": "test_sharding.py"}
# What the description of an argument must say, by the argument's name.
MUST_SAY = {
    "its shape": (
        r"`\(.*\)`|\bshape\b|`\{.*\}`",
        *("calibration", "gain", "gradient", "image", "images", "input_shape"),
        *("kernel", "parameter", "preds", "tree", "x"),
    ),
    "its unit: pixels, or bytes": (
        r"[Pp]ixels|px|bytes",
        *("evaluation_margin", "height", "margin", "size", "test_size"),
        *("train_size",),
    ),
    "its unit: steps": (
        r"[Ss]teps",
        *("save_every", "total_steps", "warmup_steps"),
    ),
    "its unit: epochs": (r"[Ee]poch", "epochs", "warmup_epochs"),
    "whether the batch is global or of one replica": (
        r"global|Global|replica",
        *("batch_size", "gradient"),
    ),
    "its range": (
        r"above 0|or more|[\[(]0, 1[\])]|\b[01] to \d",
        *("alpha", "classes", "clipping", "drop_rate", "ema_decay", "eps"),
        *("group_width", "label_smoothing", "max_corrupt", "momentum", "peak"),
        *("rate", "ratio", "sam_rho", "se_ratio", "stochastic_depth_rate"),
        *("top", "weight_decay"),
    ),
}

SECTION = re.compile(
    r"^(Args|Attributes|Input shape|Output shape|Returns|Raises|Example|NOTE"
    r"|Reference):\s",
    re.MULTILINE,
)


def packages():
    """The package and those in it that say what is public."""
    inside = pkgutil.walk_packages(keras_nfnet.__path__, "keras_nfnet.")
    names = ["keras_nfnet", *(found.name for found in inside if found.ispkg)]
    if importlib.util.find_spec("keras_hub") is None:
        # Its own docstrings are tried by make test-hub.
        names.remove("keras_nfnet.hub")
    found = map(importlib.import_module, names)
    return [package for package in found if hasattr(package, "__all__")]


def public():
    """Public functions and classes, each by the first name it goes by."""
    found = {name: pkgutil.resolve_name(name) for name in MORE}
    for package in packages():
        for name in package.__all__:
            value = getattr(package, name)
            if callable(value) and value not in found.values():
                found[f"{package.__name__}.{name}"] = value
    return found


PUBLIC = public()
CLASSES = [name for name in PUBLIC if inspect.isclass(PUBLIC[name])]
# Builders of the variants: F0's example runs, the others take minutes and
# gigabytes together.
NOT_RUN = [
    name
    for name in PUBLIC
    if re.fullmatch(r"keras_nfnet\.NFNetF\d(Plus)?", name)
    and name != "keras_nfnet.NFNetF0"
]


def sections(value):
    """`(what comes first, {section: text})` of a docstring."""
    first, *rest = SECTION.split(inspect.getdoc(value) or "")
    return first, dict(zip(rest[::2], rest[1::2], strict=True))


def entries(text):
    """`{name: description}` of what a section lists."""
    _, *parts = re.split(r"^    \*{0,2}(\w+): ", text, flags=re.MULTILINE)
    texts = (" ".join(text.split()) for text in parts[1::2])
    return dict(zip(parts[::2], texts, strict=True))


def arguments(value):
    """Names of what a function, a method or a class takes."""
    function = value.__init__ if inspect.isclass(value) else value
    names = inspect.signature(function).parameters
    return [name for name in names if name != "self"]


def returns_something(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(
        isinstance(node, ast.Return) and node.value is not None
        for node in ast.walk(tree)
    )


def begins_with_a_sentence(text):
    """Whether the first line ends in a full stop and stands alone."""
    line, *more = text.rstrip().split("\n")
    return line.endswith(".") and not "".join(more[:1])


def problems_of(name):
    """What the docstring of a public name lacks, in words."""
    value = PUBLIC[name]
    first, has = sections(value)
    if not begins_with_a_sentence(first):
        yield "it must begin with a line that ends in a full stop"
    said = entries(has.get("Args") or has.get("Attributes", ""))
    if list(said) != arguments(value):
        yield f"Args must be, in this order, {', '.join(arguments(value))}"
    for what, (pattern, *names) in MUST_SAY.items():
        for argument in said:
            if argument in names and not re.search(pattern, said[argument]):
                yield f"Args must say of `{argument}` {what}"
    if inspect.isclass(value):
        if issubclass(value, keras.layers.Layer):
            for section in {"Input shape", "Output shape"} - has.keys():
                yield f"a layer must have the section {section}"
    elif ("Returns" in has) != returns_something(value):
        yield "Returns must be there if something is returned, and only then"
    if name in REFUSE_NOTHING:
        if "Raises" in has:
            yield "it has Raises: take it off REFUSE_NOTHING"
    elif "ValueError" not in entries(has.get("Raises", "")):
        yield "Raises must say when there is a ValueError"
    source = r"arXiv:\d{4}\.\d{4,5}|the authors' |`keras(_hub)?\."
    if name in OWN:
        if "Reference" in has:
            yield "it has a Reference: take it off OWN"
    elif not re.search(source, has.get("Reference", "")):
        yield "Reference must be a paper, the authors' code or a name of Keras"
    examples = doctest.DocTestParser().get_examples(has.get("Example", ""))
    if not any(example.want for example in examples):
        yield "Example must show an output"


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_complete(name):
    problems = list(problems_of(name))
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Where the digits are: TFDS prints when it writes a data set."""
    from keras_nfnet.data.pipeline import load_split

    data_dir = tmp_path_factory.mktemp("data")
    load_split("nf_digits", "test", str(data_dir))
    return data_dir


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", [n for n in PUBLIC if n not in (*NOT_RUN, *ON_JAX)]
)
def test_example_runs(name, digits, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(digits)
    # The example of `variant_table` shows F0's row; all take 10 s.
    monkeypatch.setattr(
        "keras_nfnet.diagnostics.cost.VARIANTS",
        {"F0": keras_nfnet.VARIANTS["F0"]},
    )
    _, has = sections(PUBLIC[name])
    names = {"keras": keras, "keras_nfnet": keras_nfnet, "np": np}
    example = doctest.DocTestParser().get_doctest(
        has["Example"], names, name, None, 0
    )
    printed = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=printed.append)
    assert not runner.failures, "".join(printed)


@pytest.mark.parametrize("name", NOT_RUN)
def test_example_of_a_builder_is_that_of_f0(name):
    _, has = sections(PUBLIC[name])
    _, has_f0 = sections(keras_nfnet.NFNetF0)
    builder = name.removeprefix("keras_nfnet.")
    assert has["Example"].replace(builder, "NFNetF0") == has_f0["Example"]


@pytest.mark.parametrize("name", CLASSES)
def test_methods_of_our_own_say_what_they_do(name):
    """What Keras calls, such as `build`, is described there."""
    inherited = {
        member for base in PUBLIC[name].__mro__[1:] for member in dir(base)
    }
    silent = [
        member
        for member, value in vars(PUBLIC[name]).items()
        if (inspect.isfunction(value) or isinstance(value, property))
        and not member.startswith("_")
        and member not in inherited
        and not inspect.getdoc(value)
    ]
    assert not silent, f"without a docstring: {', '.join(silent)}"


@pytest.mark.parametrize("package", packages(), ids=lambda p: p.__name__)
def test_package_describes_itself_and_its_public_values(package):
    text = package.__doc__ or ""
    assert begins_with_a_sentence(text), (
        "it must begin with a line that ends in a full stop"
    )
    for name in package.__all__:
        value = getattr(package, name)
        if not callable(value) and not inspect.ismodule(value):
            assert f"`{name}`" in text, f"it must say what `{name}` is"


def test_lists_of_this_file_name_what_exists():
    """A row for a name that is gone would check nothing."""
    taken = {a for value in PUBLIC.values() for a in arguments(value)}
    checked = {a for _, *names in MUST_SAY.values() for a in names}
    gone = (checked - taken) | ((REFUSE_NOTHING | OWN) - PUBLIC.keys())
    assert not gone, f"not there: {', '.join(sorted(gone))}"
