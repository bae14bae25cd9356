"""Holds what was written against the model it came from."""

import os
import time

import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import evaluation_picture, preprocess_input
from keras_nfnet.export.report import ExportReport
from keras_nfnet.export.staging import size_of
from keras_nfnet.models.output import activation_of

# Side of the pictures for a model of any resolution that names no variant:
# F0's test size.
DEFAULT_SIZE = 256
# Largest difference over the largest output. Float16 keeps 11 bits,
# bfloat16 8, and graphs fuse what eager execution rounds.
_LARGEST = {"float32": 1e-4, "float16": 2e-2}
_LARGEST_HALF = 2e-2
# int8 differs everywhere a little: what counts is the direction. A first
# try on F0 had 0.9994; a file whose scales are wrong is far below.
_COSINE = 0.97


def photographs():
    """Two real photographs, uint8 `(427, 640, 3)`, from scikit-learn."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def pictures(size):
    """Four uint8 pictures of a size: two real, one smooth, one noise.

    Args:
        size: `(height, width)` in pixels.

    Returns:
        A uint8 array `(4, height, width, 3)`, the same in every run.
    """
    real = [
        np.clip(evaluation_picture(photograph, size), 0, 255)
        for photograph in photographs()
    ]
    smooth = np.linspace(0, 255, size[0])[:, None, None] * np.ones((*size, 3))
    noise = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    return np.stack([*real, smooth, noise]).astype("uint8")


def expected(model, pixels):
    """The model's own outputs on uint8 or float pixels, as float32."""
    images = preprocess_input(np.asarray(pixels, "float32"))
    outputs = model(images, training=False)
    return np.asarray(ops.convert_to_numpy(ops.cast(outputs, "float32")))


def compare(run, model, pixels):
    """Runs an export and its model on one picture, then on the others.

    Args:
        run: Function of float32 pixels `(batch, height, width, 3)`.
        model: The Keras model.
        pixels: uint8 `(4, height, width, 3)`.

    Returns:
        Outputs of `run` and of the model, and the seconds `run` took for
        the first picture, when it was warm.
    """
    pixels = np.asarray(pixels, "float32")
    got = [np.asarray(run(batch)) for batch in (pixels[:1], pixels[1:])]
    started = time.perf_counter()
    run(pixels[:1])
    seconds = time.perf_counter() - started
    wanted = [expected(model, batch) for batch in (pixels[:1], pixels[1:])]
    return np.concatenate(got), np.concatenate(wanted), seconds


def checked(run, outputs, *, size, **about):
    """Runs an export and its model on `pictures(size)` and checks it.

    Args:
        run: Function of float32 pixels `(batch, height, width, 3)`.
        outputs: The Keras model, or a function called as it is.
        size: `(height, width)` in pixels.
        **about: What else `report` takes.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the export differs by more than its bound.
    """
    got, wanted, seconds = compare(run, outputs, pictures(size))
    return report(got, wanted, seconds=seconds, size=size, **about)


def report(got, wanted, *, model, path, target, precision, seconds, size):
    """Checks outputs against the bound of their precision.

    Args:
        got: Outputs of the export.
        wanted: The model's.
        model: The Keras model.
        path: Where the export lies now.
        target: Where it will be.
        precision: As in `ExportReport`.
        seconds: Per picture.
        size: `(height, width)` of the pictures.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the export differs by more than its bound.
    """
    difference = float(np.abs(got - wanted).max())
    norms = np.linalg.norm(got) * np.linalg.norm(wanted)
    # Zeros have no direction: equal if both are zeros, else nothing alike.
    cosine = float(np.vdot(got, wanted) / norms if norms else difference == 0)
    if precision in _LARGEST:
        bound = _LARGEST[precision]
        if is_half(model):
            bound = max(bound, _LARGEST_HALF)
        bound *= float(np.abs(wanted).max())
        # Written so that NaN fails.
        if not difference <= bound:
            raise ValueError(
                f"The {precision} export must give the model's outputs to "
                f"within {bound:.2g}. Received: a largest difference of "
                f"{difference:.2g}; nothing was written"
            )
    elif not cosine >= _COSINE:
        raise ValueError(
            f"The {precision} export must give outputs of a cosine of at "
            f"least {_COSINE} with the model's. Received: {cosine:.4f}; "
            "nothing was written. Calibrate with pictures like those to "
            "be classified, or take a wider precision"
        )
    agreement = np.mean(_best(got, model) == _best(wanted, model))
    return ExportReport(
        path=os.path.abspath(target),
        size=size_of(path),
        largest_difference=difference,
        top1_agreement=float(agreement),
        pictures=len(got),
        seconds_per_picture=seconds,
        input_size=tuple(size),
        precision=precision,
        cosine=cosine,
    )


def _best(outputs, model):
    """The best class of each picture."""
    if outputs.shape[-1] > 1:
        return outputs.argmax(axis=-1)
    # One unit tells two classes apart.
    return outputs[..., 0] > (0 if activation_of(model) == "linear" else 0.5)


def is_half(model):
    """Whether a layer of the model computes in a half type."""
    return any(
        layer.compute_dtype in ("float16", "bfloat16")
        for layer in model._flatten_layers()
    )
