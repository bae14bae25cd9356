"""`import keras_nfnet` is light."""

import json
import subprocess
import sys

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
