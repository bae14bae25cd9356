"""`import keras_nfnet` is light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import keras_nfnet

OPTIONAL = (
    "tensorflow_datasets",
    "sklearn",
    "matplotlib",
    "huggingface_hub",
    "safetensors",
    "PIL",
    "keras_cv",
    "keras_hub",
    "tf2onnx",
    "dill",
    "haiku",
    "timm",
    "tqdm",
)


def test_import_loads_nothing_optional():
    program = (
        "import sys, json, keras; before = set(sys.modules); "
        "import keras_nfnet; "
        "[getattr(keras_nfnet, name) for name in keras_nfnet.__all__]; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    loaded = json.loads(output)
    assert "keras_nfnet.models.nfnet" in loaded
    assert not [name for name in loaded if name.split(".")[0] in OPTIONAL], (
        loaded
    )


def test_nothing_else_imports_the_module_for_keras_hub():
    folder = Path(keras_nfnet.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = ()
            if isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                found = [name.name for name in node.names]
            names = [n for n in found if n.startswith("keras_nfnet.hub")]
            assert not names or path.parent.name == "hub", (path, names)


def test_keras_hub_that_is_not_there_is_said_with_what_to_install(monkeypatch):
    # `None` is what Python takes for a module that cannot be found.
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.delitem(sys.modules, "keras_nfnet.hub", raising=False)
    with pytest.raises(ImportError, match=r"keras-nfnet\[hub\]"):
        import keras_nfnet.hub  # noqa: F401


def private_names_of_keras(source):
    """What a module imports or reads of Keras that Keras may change."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        for name in names:
            root, *parts = name.split(".")
            if root in ("keras", "ops", "tf_keras") and any(
                part == "src" or (part[0] == "_" and part[:2] != "__")
                for part in parts
            ):
                yield name


@pytest.mark.parametrize(
    "line",
    [
        "import keras.src.backend",
        "from keras.src import backend",
        "from keras._tf_keras import keras",
        "import keras; keras.src.backend",
    ],
)
def test_private_names_of_keras_are_found(line):
    assert list(private_names_of_keras(line))


def test_the_package_takes_nothing_private_from_keras():
    folder = Path(keras_nfnet.__file__).parent
    found = [
        f"{path.relative_to(folder)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in private_names_of_keras(path.read_text("utf-8"))
    ]
    assert not found
