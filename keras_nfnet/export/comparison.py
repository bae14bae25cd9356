"""Compares what was written with the model it came from."""

import dataclasses
import os
import time

import keras
import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import evaluation_picture
from keras_nfnet.export.contract import named
from keras_nfnet.export.folded_layers import HALF, copy_state
from keras_nfnet.export.folding import fold
from keras_nfnet.models.output import activation_of
from keras_nfnet.utils.files import place

# Height and width of the images for a model of any resolution that names
# no variant: F0's test size.
DEFAULT_SIZE = (256, 256)
# Largest difference over the largest output. Float16 keeps 11 bits,
# bfloat16 8, and graphs fuse what eager execution rounds.
_LARGEST = {"float32": 1e-4, "float16": 2e-2}
_LARGEST_HALF = 2e-2
# Every value of int8 differs a little, so the cosine is compared. F0 had
# 0.9994; a file with wrong scales is far below.
_COSINE = 0.97


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The outcome of an export, compared with the model it came from.

    Args:
        path: The file or directory written.
        size: Its bytes, all files together.
        largest_difference: Largest absolute difference of an output.
        top1_agreement: Fraction of the images with the same best class.
        pictures: Number of images compared.
        seconds_per_picture: Of the export, alone in its batch, on this
            machine. Of an ONNX file as it lies: ONNX Runtime is up to twice
            as fast where it may store the kernels once more, in a layout of
            its own, as it does by default.
        input_size: `(height, width)` in pixels of the comparison, and of
            what encoded images are brought to.
        precision: Of the weights: `"float32"`, `"float16"`,
            `"dynamic_int8"` or `"int8"`.
        cosine: Cosine of the outputs and the model's, all images together.
        float_layers: Names of the layers that an int8 export for OpenVINO
            left in float, since they cost too much agreement.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_onnx(model, "nfnet.onnx", size=32)
    >>> report.precision, report.pictures, report.input_size
    ('float32', 4, (32, 32))
    """

    path: str
    size: int
    largest_difference: float
    top1_agreement: float
    pictures: int
    seconds_per_picture: float
    input_size: tuple
    precision: str = "float32"
    cosine: float = 1.0
    float_layers: tuple = ()

    def __str__(self):
        return (
            f"{self.path}: {self.precision}, {self.size / 1e6:.1f} MB; "
            f"{self.pictures} images of {self.input_size[0]}x"
            f"{self.input_size[1]} px: largest difference "
            f"{self.largest_difference:.1e}, cosine {self.cosine:.6f}, top-1 "
            f"agreement {self.top1_agreement:.0%}, "
            f"{self.seconds_per_picture:.4f} s per image"
            + "; in float: " * bool(self.float_layers)
            + ", ".join(self.float_layers)
        )


def photographs():
    """Two real photographs, uint8 `(427, 640, 3)`, from scikit-learn."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def images(size):
    """Four uint8 images of a size: two real, one smooth, one noise.

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


def expected(model, pixels, contract):
    """The model's own outputs on pixels of 0–255, as float32, by name.

    Calls the model on one image at a time, to keep the activations of only
    one image in memory.
    """
    images = contract.images(pixels)
    return _joined(
        {
            name: ops.convert_to_numpy(ops.cast(value, "float32"))
            for name, value in named(
                model(images[index : index + 1], training=False)
            ).items()
        }
        for index in range(len(pixels))
    )


def checked_fold(model, contract, size):
    """The folded network, once it gives the model's outputs in float32.

    Args:
        model: The Keras model.
        contract: The model's `Contract`.
        size: `(height, width)` in pixels.

    Returns:
        The folded model and the model to compare exports with: `model`, or
        its copy in float32 where it computes in a half type.

    Raises:
        ValueError: If the outputs differ by more than the bound of float32.
    """
    folded, reference = fold(model, "float32"), in_float32(model)
    pixels = contract.pixels(np.asarray(images(size), "float32"))
    got = expected(folded, pixels, contract)
    for name, wanted in expected(reference, pixels, contract).items():
        _compared(
            name, got[name], wanted, reference, "float32", "folded network"
        )
    return folded, reference


def in_float32(model):
    """A copy that computes in float32, of a model that uses a half type.

    The rounding of a half type would hide errors of the export. A model with
    a layer that cannot be made from its configuration is returned unchanged,
    and compared within the wider bound of its half type.
    """
    if not is_half(model):
        return model

    def float32(layer):
        config = layer.get_config()
        if layer.compute_dtype in HALF:
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    try:
        copy = keras.models.clone_model(
            model, clone_function=float32, recursive=True
        )
        copy_state(model, copy)
    # Of any type: making a layer from its configuration runs the user's code.
    # The comparison is then with the model itself.
    except Exception:
        return model
    return copy


def is_half(model):
    """Whether a layer of the model computes in a half type."""
    return any(layer.compute_dtype in HALF for layer in model._flatten_layers())


def compare(run, outputs, pixels, contract):
    """Runs an export and its model on one image, then on the others.

    Args:
        run: Function of float32 pixels `(batch, height, width, channels)`.
        outputs: The Keras model, or a function called as it is.
        pixels: uint8 `(4, height, width, 3)`, RGB.
        contract: The model's `Contract`.

    Returns:
        Outputs of `run` and of the model, `{name: array}`, and the seconds
        `run` took for the first image, when it was warm.
    """
    pixels = contract.pixels(np.asarray(pixels, "float32"))
    batches = (pixels[:1], pixels[1:])
    got = [named(run(batch)) for batch in batches]
    started = time.perf_counter()
    run(pixels[:1])
    seconds = time.perf_counter() - started
    wanted = [expected(outputs, batch, contract) for batch in batches]
    return _joined(got), _joined(wanted), seconds


def _joined(batches):
    batches = list(batches)
    return {
        name: np.concatenate([np.asarray(batch[name]) for batch in batches])
        for name in batches[0]
    }


def report(got, wanted, seconds, *, model, path, target, precision, size):
    """Checks outputs against the bound of their precision.

    Args:
        got: Outputs of the export, `{name: array}`.
        wanted: The model's.
        seconds: Per image.
        model: The Keras model.
        path: Where the export is now.
        target: Where it will be moved to.
        precision: As in `ExportReport`.
        size: `(height, width)` of the images.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the export has other outputs, or one differs by more
            than its bound.
    """
    if got.keys() != wanted.keys():
        raise ValueError(
            f"The export must have the outputs {', '.join(wanted)}. "
            f"Received: {', '.join(got)}; nothing was written"
        )
    differences, cosines, agreements = [], [], []
    for name, ours in wanted.items():
        difference, cosine = _compared(name, got[name], ours, model, precision)
        differences.append(difference)
        cosines.append(cosine)
        same = _best(got[name], model) == _best(ours, model)
        agreements.append(np.mean(same))
    return ExportReport(
        path=place(target),
        size=size_of(path),
        largest_difference=max(differences),
        top1_agreement=float(np.mean(agreements)),
        pictures=len(ours),
        seconds_per_picture=seconds,
        input_size=tuple(size),
        precision=precision,
        cosine=min(cosines),
    )


def _compared(name, got, wanted, model, precision, what=None):
    """`(largest difference, cosine)` of one output, within the bounds."""
    what = what or f"{precision} export"
    if got.shape != wanted.shape:
        raise ValueError(
            f"The {what} must give {name!r} the shape "
            f"{wanted.shape}. Received: {got.shape}; nothing was written"
        )
    difference = float(np.abs(got - wanted).max())
    cosine = cosine_of(got, wanted)
    if precision in _LARGEST:
        bound = _LARGEST[precision]
        if is_half(model):
            bound = max(bound, _LARGEST_HALF)
        bound *= float(np.abs(wanted).max())
        # Written so that NaN fails.
        if not difference <= bound:
            raise ValueError(
                f"The {what} must give the model's outputs to "
                f"within {bound:.2g}. Received: a largest difference of "
                f"{difference:.2g} in {name!r}; nothing was written"
            )
    elif not cosine >= _COSINE:
        raise ValueError(
            f"The {what} must give outputs of a cosine of at "
            f"least {_COSINE} with the model's. Received: {cosine:.4f} in "
            f"{name!r}; nothing was written. Calibrate with images like "
            "those to be classified, or take a wider precision"
        )
    return difference, cosine


def cosine_of(got, wanted):
    """The cosine of two arrays of the same shape."""
    norms = np.linalg.norm(got) * np.linalg.norm(wanted)
    # Zeros have no direction: 1 if both are zeros, else 0.
    return float(
        np.vdot(got, wanted) / norms if norms else np.array_equal(got, wanted)
    )


def _best(outputs, model):
    """The best class of each image."""
    if outputs.shape[-1] > 1 or len(model.outputs) > 1:
        return outputs.argmax(axis=-1)
    # One unit tells two classes apart.
    return outputs[..., 0] > (0 if activation_of(model) == "linear" else 0.5)


def weights_of(path):
    """The file of weights that OpenVINO writes beside an `.xml` file."""
    return os.path.splitext(path)[0] + ".bin"


def size_of(path):
    """Bytes of a file, of an `.xml` with its weights, or of a directory."""
    paths = [path]
    if os.path.isdir(path):
        paths = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(path)
            for file in files
        ]
    elif str(path).endswith(".xml"):
        paths.append(weights_of(path))
    return sum(map(os.path.getsize, paths))
