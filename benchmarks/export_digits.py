"""Does an export decide as the model does? Top-1 agreement on the digits.

    python benchmarks/export_digits.py --work build/export_digits

Trains the recipe `digits`, exports it in every format and precision, and
compares the best class on the held-out digits with the Keras model's. int8
is calibrated with 100 training digits. Writes
benchmarks/results/export_digits.md.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_nfnet import export
from keras_nfnet.data import decode_picture, evaluation_picture
from keras_nfnet.data.pipeline import load_split
from keras_nfnet.export import comparison, onnx_file, saved_model, tflite
from keras_nfnet.export.contract import contract_of
from keras_nfnet.training import recipes

DIGITS = recipes.recipe("digits")
RESULTS = pathlib.Path(__file__).parent / "results"
JOBS = [
    (export.to_saved_model, saved_model.runner, "SavedModel", "float32"),
    (export.to_onnx, onnx_file.runner, "ONNX", "float32"),
    (export.to_onnx, onnx_file.runner, "ONNX", "float16"),
    (export.to_onnx, onnx_file.runner, "ONNX", "int8"),
    (export.to_tflite, tflite.runner, "TFLite", "float32"),
    (export.to_tflite, tflite.runner, "TFLite", "float16"),
    (export.to_tflite, tflite.runner, "TFLite", "dynamic_int8"),
    (export.to_tflite, tflite.runner, "TFLite", "int8"),
]


def trained(work):
    """The digits network, trained once."""
    file = work / "digits.keras"
    if not file.exists():
        from keras_nfnet import train

        train(DIGITS, data_dir=str(work / "data")).model.save(file)
    return keras.models.load_model(file, compile=False)


def views(work, split, most=None):
    """Pixels and labels of a split, as the model's evaluation sees them."""
    examples, _ = load_split(DIGITS.data, split, str(work / "data"))
    pixels, labels = [], []
    for encoded, label in examples.take(most or -1):
        picture = decode_picture(encoded.numpy())
        pixels.append(
            evaluation_picture(picture, DIGITS.size, DIGITS.evaluation_margin)
        )
        labels.append(int(label))
    return np.clip(np.stack(pixels), 0, 255), np.array(labels)


def main():
    from pages import argument_parser

    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = trained(options.work)
    pixels, labels = views(options.work, DIGITS.test_split)
    calibration, _ = views(options.work, DIGITS.train_split, 100)
    wanted = comparison.expected(model, pixels, contract_of(model))
    result = {
        "digits": len(labels),
        "right": float(np.mean(wanted.argmax(-1) == labels)),
        "exports": {},
    }
    for write, runner, form, precision in JOBS:
        path = str(options.work / f"{form}_{precision}")
        arguments = {"size": DIGITS.size, "overwrite": True}
        if form != "SavedModel":
            arguments["precision"] = precision
        if precision == "int8":
            arguments["calibration"] = calibration
        report = write(model, path, **arguments)
        run = runner(path)
        got = np.concatenate([run(x[None]) for x in pixels])
        result["exports"][f"{form} {precision}"] = {
            "agreement": float(np.mean(got.argmax(-1) == wanted.argmax(-1))),
            "right": float(np.mean(got.argmax(-1) == labels)),
            "difference": float(np.abs(got - wanted).max()),
            "bytes": report.size,
        }
    text = table(result)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export_digits.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    (RESULTS / "export_digits.md").write_text(text)
    print(text)


def table(result):
    lines = [
        "# The trained digits network in every format",
        "",
        f"{result['digits']} held-out digits; the Keras model has "
        f"{result['right']:.2%} right.",
        "",
        "| | top-1 agreement | right | largest difference of a probability "
        "| kB |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["exports"].items():
        lines.append(
            f"| {name} | {row['agreement']:.2%} | {row['right']:.2%} | "
            f"{row['difference']:.1e} | {row['bytes'] / 1e3:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
