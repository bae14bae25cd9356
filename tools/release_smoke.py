"""What an installed wheel must do; `tools/release_check.py` runs this.

    KERAS_BACKEND=jax python -I release_smoke.py VERSION FOLDER

It runs isolated (`-I`), in an environment with nothing but the wheel and
what it asks for, and in a folder from which the source tree cannot be seen.
Prints one line per check; the first that fails ends it.
"""

import contextlib
import importlib.metadata
import io
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np


def main(version, folder):
    import keras

    import keras_nfnet

    package = pathlib.Path(keras_nfnet.__file__).parent
    installed = pathlib.Path(sysconfig.get_path("purelib"))
    check(
        package.parent.resolve() == installed.resolve(),
        f"keras_nfnet comes from {package}",
    )
    found = (keras_nfnet.__version__, importlib.metadata.version("keras-nfnet"))
    check(found == (version, version), f"version, module and metadata: {found}")
    check((package / "py.typed").is_file(), "py.typed is installed")
    check(
        importlib.metadata.metadata("keras-nfnet")["License-Expression"]
        == "Apache-2.0",
        "the licence is in the metadata",
    )
    one_hot = np.eye(1000, dtype="float32")[[207]]
    label = keras_nfnet.decode_predictions(one_hot, top=1)[0][0][1]
    check(label == "golden_retriever", f"label 207 is {label}")

    model = keras_nfnet.NFNet(
        keras_nfnet.NFNetConfig((16, 32), (1, 1), group_width=8),
        weights=None,
        classes=10,
        classifier_activation=None,
        input_shape=(32, 32, 3),
    )
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    images = keras_nfnet.preprocess_input(pixels.astype("float32"))
    model.compile(
        keras_nfnet.SGDAGC(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    step = model.train_on_batch(images, np.arange(4), return_dict=True)
    loss = float(step["loss"])
    check(np.isfinite(loss), f"a training step: loss {loss:.3f}")
    before = model.predict(images, verbose=0)
    check(
        before.shape == (4, 10) and np.isfinite(before).all(),
        f"predicts logits of shape {before.shape}",
    )
    file = pathlib.Path(folder) / "model.keras"
    model.save(file)
    after = keras.models.load_model(file).predict(images, verbose=0)
    check(np.array_equal(before, after), f"saves and loads {file.name}")

    script = pathlib.Path(sysconfig.get_path("scripts")) / "keras-nfnet"
    check(run(script, "--version").strip().endswith(version), "--version")
    check("71,489,284" in run(script, "info"), "keras-nfnet info")
    for command in (
        *("", "demo", "predict", "train", "evaluate", "report", "export"),
    ):
        text = help_of(command)
        check("usage: keras-nfnet" in text, f"keras-nfnet {command} --help")


def check(holds, text):
    print(f"    {'ok' if holds else 'FAILED'}: {text}", flush=True)
    if not holds:
        sys.exit(1)


def run(*command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True
    )
    if done.returncode:
        check(False, f"{' '.join(done.args)}\n{done.stderr}")
    return done.stdout


def help_of(command):
    """The help of a command, in this process: starting one takes seconds."""
    from keras_nfnet.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            main([*command.split(), "--help"])
        except SystemExit as stop:
            check(not stop.code, f"{command} --help: status {stop.code}")
    return printed.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
