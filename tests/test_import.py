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
