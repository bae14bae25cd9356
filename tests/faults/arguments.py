"""Wrong arguments to everything public, and what came of each.

By a table of what each argument must be, with values that it must refuse,
and by values that hypothesis draws. NumPy's numbers must be taken as numbers.
"""

import collections
import contextlib
import dataclasses
import io
import math
import os
import reprlib

import hypothesis
import keras
import numpy as np
from hypothesis import strategies

import keras_nfnet
from faults.scorecard import Row
from keras_nfnet import data, diagnostics, export, layers, optimizers, weights
from keras_nfnet.block_spec import Stem
from keras_nfnet.models.nf_block import NFBlock

TITLE = "Wrong arguments"
PROMISE = (
    "A wrong argument is a `ValueError` or a `TypeError` that names it.\n"
    "A number of NumPy is taken as a number."
)

NAN, INF = math.nan, math.inf
_NO_NUMBERS = ("x", "", b"1", True, NAN, INF, -INF, 1j, [], {}, object())
_NO_TEXTS = (3, 1.5, True, b"x", [], {}, object())


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an argument must be.

    Args:
        wrong: Values that must be refused.
        drawn: A strategy of more of them, or `None`.
        right: A value of NumPy that must be taken, or `None`.
        optional: Whether `None` is right.
    """

    wrong: tuple
    drawn: object = None
    right: object = None
    optional: bool = False

    @property
    def or_none(self):
        return dataclasses.replace(self, optional=True)

    @property
    def values(self):
        return self.wrong if self.optional else (*self.wrong, None)


_drawn_no_number = strategies.one_of(
    strategies.text(),
    strategies.binary(),
    strategies.booleans(),
    strategies.complex_numbers(),
    strategies.lists(strategies.text(), max_size=3),
    strategies.dictionaries(strategies.text(), strategies.none(), max_size=2),
)


def _outside(low, high, open_low=False, open_high=False):
    """Numbers outside an interval, and what is no finite number."""

    def is_wrong(value):
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        return not (math.isfinite(value) and above and below)

    parts = [strategies.floats().filter(is_wrong)]
    if low > -INF:
        parts.append(strategies.integers(max_value=math.ceil(low) - 1))
        parts.append(
            strategies.floats(
                max_value=low, exclude_max=not open_low, width=32
            ).map(np.float32)
        )
    return strategies.one_of(*parts, _drawn_no_number)


def _integers_below(least):
    return strategies.one_of(
        strategies.integers(max_value=least - 1),
        strategies.integers(-1000, least - 1).map(np.int64),
        strategies.floats().filter(lambda v: v != v or v != int_or_none(v)),
        _drawn_no_number,
    )


def int_or_none(value):
    return int(value) if math.isfinite(value) else None


POSITIVE_INTEGER = Kind(
    (0, -1, 1.5, np.int64(0), np.float32(-1), *_NO_NUMBERS),
    _integers_below(1),
    np.int64(2),
)
COUNT = Kind(
    (-1, 1.5, np.int64(-1), *_NO_NUMBERS), _integers_below(0), np.int64(2)
)
POSITIVE = Kind(
    (0, -1, np.float32(-1), np.float32(NAN), *_NO_NUMBERS),
    _outside(0, INF, open_low=True),
    np.float32(0.5),
)
NOT_NEGATIVE = Kind(
    (-1, -0.1, np.float32(-1), *_NO_NUMBERS),
    _outside(0, INF),
    np.float32(0.5),
)
NUMBER = Kind(_NO_NUMBERS, _drawn_no_number, np.float32(0.5))
PROBABILITY = Kind(
    (-0.1, 1, 1.5, np.float32(-1), *_NO_NUMBERS),
    _outside(0, 1, open_high=True),
    np.float32(0.5),
)
FRACTION = Kind(
    (-0.1, 0, 1.5, np.float32(-1), *_NO_NUMBERS),
    _outside(0, 1, open_low=True),
    np.float32(0.5),
)
INSIDE = Kind(
    (0, 1, 1.5, -0.1, *_NO_NUMBERS),
    _outside(0, 1, open_low=True, open_high=True),
    np.float32(0.5),
)
BOOLEAN = Kind(
    ("no", "False", "", 2, 1.5, NAN, [], {}, b"", object()),
    strategies.one_of(
        strategies.text(), strategies.floats(), strategies.integers(min_value=2)
    ),
    np.bool_(True),
)
CHOICE = Kind(
    ("nosuch", "", 3, 1.5, True, b"same", [], {}, object()),
    strategies.text(min_size=8),
)
# Of what Keras looks up: a number that is not 1 or 0, too.
LOOKED_UP = Kind(("nosuch", 3, 1.5, [], object()), strategies.text(min_size=12))
TEXT = Kind(("", *_NO_TEXTS), None)
PATH = Kind(("", 3, 1.5, True, [], {}, object()), None)
MODEL = Kind(("model", 3, True, [], {}, object(), keras.layers.ReLU()), None)
FUNCTION = Kind(("print", 3, True, [], {}, object()), None)
INTEGERS = Kind(
    ("x", "ab", (), [], (0,), (1.5,), (-1, 2), ("a",), 3, True, {}, object()),
    None,
)
PAIR = Kind((0, -1, 1.5, "x", "ab", (1, 2, 3), (0, 1), True, {}, object()))
NUMBERS = Kind(("x", [], [[]], ["a"], {}, object(), b"x"), None)
AXES = Kind(("x", 9, -9, 1.5, True, (0, 0), (0, "a"), {}, object()), None)
SHAPE = Kind(
    ((3,), (32, 32), (0, 32, 3), (32, 32, None), "abc", 32, (1.5, 32, 3), {}),
)


# What a block and the configuration of a network have in common.
_ARCHITECTURE = {
    "alpha": POSITIVE,
    "bottleneck_ratio": POSITIVE,
    "group_width": POSITIVE_INTEGER.or_none,
    "se_ratio": POSITIVE,
    "stochastic_depth_rate": PROBABILITY,
    "use_two_convs": BOOLEAN,
    "activation": LOOKED_UP.or_none,
    "attention": CHOICE.or_none,
    "attention_position": CHOICE,
    "shortcut": CHOICE,
    "skip": CHOICE,
    "gain_in": CHOICE,
    "eps": POSITIVE,
    "eps_mode": CHOICE,
    "padding": CHOICE,
    "channel_multiple": POSITIVE_INTEGER,
    "rescale_stochastic_depth": BOOLEAN,
}


@dataclasses.dataclass
class Call:
    """Something public.

    Args:
        function: What is called.
        given: Arguments that are right.
        kinds: `{argument: Kind}` of those that are tried.
        costs: Whether an accepted call costs seconds: no value of
            hypothesis is then drawn, and no right one tried.
        is_slow: Whether a refused one does, too.
    """

    function: object
    given: dict
    kinds: dict
    costs: bool = False
    is_slow: bool = False

    def __call__(self, **changed):
        with contextlib.redirect_stdout(io.StringIO()):
            return self.function(**{**self.given, **changed})


def _layer_kinds(**more):
    return {"eps": POSITIVE, "gain_initializer": LOOKED_UP, **more}


def _convolution(layer, **more):
    return Call(layer, {"filters": 4, "kernel_size": 3}, _layer_kinds(**more))


def _layers():
    mixins = {
        name: _convolution(getattr(layers, name))
        for name in dir(layers)
        if name.startswith("ScaledWSConv") and name != "ScaledWSConv2D"
    }
    for name in ("ScaledWSDepthwiseConv1D", "ScaledWSDepthwiseConv2D"):
        mixins[name] = Call(
            getattr(layers, name), {"kernel_size": 3}, _layer_kinds()
        )
    for name in ("ScaledWSSeparableConv1D", "ScaledWSSeparableConv2D"):
        mixins[name] = _convolution(getattr(layers, name))
    kernel = np.ones((3, 3, 4, 8), "float32")
    x = keras.Input((8, 8, 4))
    return {
        **mixins,
        "ScaledWSDense": Call(
            layers.ScaledWSDense, {"units": 4}, _layer_kinds()
        ),
        "ScaledWSConv2D": _convolution(
            layers.ScaledWSConv2D,
            filters=POSITIVE_INTEGER,
            kernel_size=PAIR,
            strides=PAIR,
            padding=CHOICE,
            groups=Kind(POSITIVE_INTEGER.wrong, POSITIVE_INTEGER.drawn),
            use_bias=BOOLEAN,
            kernel_initializer=LOOKED_UP.or_none,
            bias_initializer=LOOKED_UP,
            data_format=CHOICE.or_none,
            eps_mode=CHOICE,
            scale=NUMBER,
            dilation_rate=PAIR,
            kernel_regularizer=LOOKED_UP.or_none,
            bias_regularizer=LOOKED_UP.or_none,
            kernel_constraint=LOOKED_UP.or_none,
            bias_constraint=LOOKED_UP.or_none,
        ),
        "ScaledActivation": Call(
            layers.ScaledActivation,
            {},
            {
                "activation": LOOKED_UP.or_none,
                "scale": NUMBER,
                "use_gain": BOOLEAN,
            },
        ),
        "SqueezeExcite": Call(
            layers.SqueezeExcite,
            {},
            {
                "ratio": POSITIVE,
                "scale": NUMBER,
                "multiple": POSITIVE_INTEGER,
            },
        ),
        "EfficientChannelAttention": Call(
            layers.EfficientChannelAttention, {}, {"scale": NUMBER}
        ),
        "StochasticDepth": Call(
            layers.StochasticDepth,
            {"rate": 0.1},
            {
                "rate": PROBABILITY,
                "seed": COUNT.or_none,
                "rescale": BOOLEAN,
            },
        ),
        "SkipInit": Call(
            layers.SkipInit, {}, {"scale": NUMBER, "initializer": LOOKED_UP}
        ),
        "Residual": Call(
            layers.Residual,
            {},
            {
                "activation": LOOKED_UP.or_none,
                "alpha": POSITIVE,
                "expected_variance": POSITIVE,
                "name": TEXT,
            },
        ),
        "Residual.__call__": Call(
            lambda **k: layers.Residual()(x, [keras.layers.ReLU()], **k),
            {},
            {
                "alpha": POSITIVE.or_none,
                "stochastic_depth_rate": PROBABILITY,
                "shortcut": FUNCTION.or_none,
            },
        ),
        "activation_gain": Call(
            layers.activation_gain, {}, {"activation": LOOKED_UP.or_none}
        ),
        "standardize": Call(
            layers.standardize,
            {"kernel": kernel},
            {
                "kernel": NUMBERS,
                "gain": Kind(NUMBERS.wrong, optional=True),
                "eps": POSITIVE,
                "eps_mode": CHOICE,
                "axis": AXES.or_none,
            },
        ),
        "NFBlock": Call(
            NFBlock,
            {"filters": 8, "group_width": 4},
            {
                **_ARCHITECTURE,
                "filters": POSITIVE_INTEGER,
                "strides": Kind((0, 3, "2", None, 1.5, [], (1, 2), NAN)),
                "beta": POSITIVE,
                "seed": COUNT.or_none,
                "stage": POSITIVE_INTEGER.or_none,
                "first_dilation": POSITIVE_INTEGER,
                "dilation_rate": POSITIVE_INTEGER,
            },
        ),
    }


def _models(model):
    network = {
        "include_top": BOOLEAN,
        "weights": Kind(("nosuch", "", 3, True, [], object()), optional=True),
        "input_tensor": Kind(("x", 3, [], np.ones(3)), optional=True),
        "input_shape": SHAPE.or_none,
        "pooling": CHOICE.or_none,
        "classes": POSITIVE_INTEGER,
        "classifier_activation": LOOKED_UP.or_none,
        "name": TEXT.or_none,
        "drop_rate": PROBABILITY.or_none,
        "stochastic_depth_rate": PROBABILITY.or_none,
        "activation": LOOKED_UP.or_none,
        "width": POSITIVE,
        "output_stride": Kind((0, 4, 64, "32", 31.5, None, [], NAN)),
    }
    config = {
        **_ARCHITECTURE,
        "widths": INTEGERS,
        "depths": INTEGERS,
        "drop_rate": PROBABILITY,
        "train_size": POSITIVE_INTEGER.or_none,
        "test_size": POSITIVE_INTEGER.or_none,
        "final_conv_mult": POSITIVE.or_none,
        "final_filters": POSITIVE_INTEGER.or_none,
        "stem": Kind(("x", 3, [], object())),
        "first_stride": Kind((0, 3, "2", None, 1.5, [], NAN)),
        "bottleneck_of": CHOICE,
        "head_initializer": CHOICE,
        "rand_augment": Kind(("ab", 3, (1,), (-1, 5), (4, NAN)), optional=True),
        "crop_fraction": FRACTION.or_none,
    }
    block = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    return {
        "NFNetConfig": Call(
            keras_nfnet.NFNetConfig,
            {"widths": (8, 16), "depths": (1, 1)},
            config,
        ),
        "Stem": Call(
            Stem,
            {},
            {
                "filters": Kind(("x", (), 3, (0,), ("a",), (1.5, NAN))),
                "strides": INTEGERS,
                "kernel_size": POSITIVE_INTEGER,
                "max_pool": BOOLEAN,
            },
        ),
        "NFNet": Call(
            keras_nfnet.NFNet,
            {"config": block, "weights": None},
            {
                "config": Kind(("nosuch", 3, (), object())),
                **network,
            },
            costs=True,
        ),
        **{
            name: Call(
                getattr(keras_nfnet, name),
                {"weights": None, "width": 0.1},
                {
                    "include_top": BOOLEAN,
                    "classes": POSITIVE_INTEGER,
                    **({"use_se": BOOLEAN} if name == "NFResNet50" else {}),
                },
                costs=True,
            )
            for name in ("NFNetF0", "NFResNet50", "ECANFNetL0")
        },
        "features": Call(
            keras_nfnet.features,
            {"model": model},
            {
                "model": MODEL,
                "levels": Kind(("P9", 3, (), ("P9",), (3,)), optional=True),
            },
        ),
        "fold": Call(
            keras_nfnet.fold,
            {"model": model},
            {
                "model": MODEL,
                "dtype": Kind(("nosuch", 3, [], object()), optional=True),
            },
            costs=True,
        ),
        "compile": Call(
            lambda **k: model.compile(
                keras_nfnet.SGDAGC(0.1), "categorical_crossentropy", **k
            ),
            {},
            {
                "sam_rho": POSITIVE.or_none,
                "sam_fraction": FRACTION,
                "clipped_by_stage": BOOLEAN,
            },
        ),
    }


def _optimizers():
    shared = {
        "learning_rate": NOT_NEGATIVE,
        "clipping": POSITIVE.or_none,
        "eps": POSITIVE,
        "exclude_from_clipping": Kind((3, 1.5, [3], {}, object()), None),
        "ema_decay": INSIDE.or_none,
        "weight_decay": NOT_NEGATIVE.or_none,
        "gradient_accumulation_steps": Kind(
            (0, 1, -2, 2.5, "4", True, [], NAN), optional=True
        ),
        "name": TEXT.or_none,
    }
    shared["exclude_from_clipping"] = shared["exclude_from_clipping"].or_none
    tensor = np.ones((3, 4), "float32")
    calls = {
        "SGDAGC": Call(
            keras_nfnet.SGDAGC,
            {"learning_rate": 0.1},
            {
                **shared,
                "momentum": PROBABILITY,
                "nesterov": BOOLEAN,
                "exclude_from_decay": Kind(
                    (3, 1.5, [3], object()), None, None, True
                ),
            },
        ),
        "WarmupCosine": Call(
            keras_nfnet.WarmupCosine,
            {"peak": 0.1, "total_steps": 10, "warmup_steps": 2},
            {
                "peak": NOT_NEGATIVE,
                "total_steps": Kind(POSITIVE.wrong, POSITIVE.drawn),
                "warmup_steps": Kind((-1, 10, 11, *_NO_NUMBERS)),
                "name": TEXT,
            },
        ),
        "with_agc": Call(
            keras_nfnet.with_agc,
            {},
            {
                "optimizer_class": Kind(
                    ("AdamW", 3, object, keras.optimizers.SGD(0.1), print)
                )
            },
        ),
        "adaptive_clip": Call(
            keras_nfnet.adaptive_clip,
            {"gradient": tensor, "parameter": tensor},
            {
                "gradient": NUMBERS,
                "parameter": NUMBERS,
                "clipping": POSITIVE,
                "eps": POSITIVE,
                "axis": AXES.or_none,
            },
        ),
        "unitwise_norm": Call(
            optimizers.unitwise_norm,
            {"x": tensor},
            {"x": NUMBERS, "axis": AXES.or_none},
        ),
    }
    for name in ("SGD", "Adam", "AdamW", "Lion", "RMSprop"):
        calls[f"with_agc({name})"] = Call(
            keras_nfnet.with_agc(getattr(keras.optimizers, name)),
            {"learning_rate": 0.1},
            shared,
        )
    return calls


def _data(folder):
    image = np.zeros((40, 50, 3), "uint8")
    source = {"name": "nf_digits", "split": "test", "data_dir": str(folder)}
    size = Kind(
        (0, -1, 1.5, "x", (32,), (32, 32, 3), (0, 32), True, {}, object())
    )
    batches = {
        "name": Kind(("", "nosuch", 3, None, [], object())),
        "split": Kind(("", "nosuch", 3, None, [], object())),
        "size": size,
        "batch_size": POSITIVE_INTEGER,
        "max_corrupt": Kind((-0.1, 1.5, *_NO_NUMBERS)),
        "data_dir": Kind((3, [], object()), optional=True),
    }
    return {
        "preprocess_input": Call(
            keras_nfnet.preprocess_input,
            {"x": image},
            {
                "x": Kind(
                    (*NUMBERS.wrong, np.ones((4, 4)), np.ones((4, 4, 2)))
                ),
                "data_format": CHOICE.or_none,
            },
        ),
        "decode_predictions": Call(
            keras_nfnet.decode_predictions,
            {"preds": np.zeros((1, 1000), "float32")},
            {
                "preds": Kind(
                    (*NUMBERS.wrong, np.ones((1, 10)), np.ones(1000))
                ),
                "top": Kind((1001, *POSITIVE_INTEGER.wrong), None, np.int64(3)),
            },
        ),
        "evaluation_picture": Call(
            data.evaluation_picture,
            {"image": image, "size": 32},
            {
                "image": Kind((*NUMBERS.wrong, np.ones((4, 4)))),
                "size": size,
                "margin": Kind(
                    (-1, 1.5, -0.5, *_NO_NUMBERS), None, np.int64(8)
                ),
            },
        ),
        "decode_picture": Call(
            data.decode_picture,
            {},
            {"source": Kind((3, 1.5, [], {}, object()))},
        ),
        "set_max_pixels": Call(
            data.set_max_pixels,
            {},
            {
                "pixels": Kind(
                    (2**31, *POSITIVE_INTEGER.wrong),
                    POSITIVE_INTEGER.drawn,
                    np.int64(10**8),
                )
            },
        ),
        "Augmentation": Call(
            data.Augmentation,
            {},
            {
                "randaugment_magnitude": Kind(
                    (-1, 31, *_NO_NUMBERS), None, np.float32(5)
                ),
                "randaugment_layers": COUNT,
                "mixup": NOT_NEGATIVE,
                "cutmix": NOT_NEGATIVE,
                "flip": BOOLEAN,
                "crop_area": Kind(
                    (0, 1, "ab", (1,), (0, 1), (0.5, 2), (NAN, 1))
                ),
                "crop_aspect": Kind(
                    (0, 1, "ab", (1,), (0, 1), (2, 1), (1, NAN))
                ),
            },
        ),
        "load_split": Call(
            _pipeline("load_split"),
            {"name": "nf_digits", "split": "test", "data_dir": str(folder)},
            {key: batches[key] for key in ("name", "split", "data_dir")},
            costs=True,
            is_slow=True,
        ),
        "training_dataset": Call(
            _pipeline("training_dataset"),
            {**source, "size": 32, "batch_size": 8},
            {
                **batches,
                "batch_size": Kind((10**9, *POSITIVE_INTEGER.wrong)),
                "seed": COUNT,
                "augment": Kind(("nosuch", 3, [], object()), optional=True),
                "first_step": COUNT,
                "shard": Kind((3, (1,), (2, 2), (0, 3), (0.5, 2), "ab", None)),
            },
            costs=True,
            is_slow=True,
        ),
        "evaluation_dataset": Call(
            _pipeline("evaluation_dataset"),
            {**source, "size": 32, "batch_size": 8},
            {**batches, "margin": Kind((-1, 1.5, *_NO_NUMBERS))},
            costs=True,
            is_slow=True,
        ),
    }


def _pipeline(name):
    def call(**arguments):
        from keras_nfnet.data import pipeline

        return getattr(pipeline, name)(**arguments)

    return call


def _recipe():
    given = {
        "name": "one",
        "model": "F0",
        "data": "nf_digits",
        "classes": 10,
        "size": 32,
        "batch_size": 8,
        "epochs": 6,
    }
    return Call(
        keras_nfnet.Recipe,
        given,
        {
            "name": TEXT,
            "model": Kind(("nosuch", 3, None, (), object())),
            "data": TEXT,
            "train_split": TEXT,
            "test_split": TEXT,
            "classes": POSITIVE_INTEGER,
            "size": POSITIVE_INTEGER,
            "batch_size": POSITIVE_INTEGER,
            "epochs": Kind(POSITIVE_INTEGER.wrong, POSITIVE_INTEGER.drawn),
            "test_size": POSITIVE_INTEGER.or_none,
            "evaluation_margin": COUNT,
            "max_corrupt": Kind((-0.1, 1.5, *_NO_NUMBERS), None, np.float32(0)),
            "augmentation": Kind(("nosuch", 3, [], object()), optional=True),
            "weights": Kind((3, True, [], object()), optional=True),
            "new_head": BOOLEAN.or_none,
            "drop_rate": PROBABILITY.or_none,
            "stochastic_depth_rate": PROBABILITY.or_none,
            "learning_rate": POSITIVE,
            "warmup_epochs": NOT_NEGATIVE,
            "momentum": PROBABILITY,
            "weight_decay": NOT_NEGATIVE,
            "clipping": POSITIVE.or_none,
            "eps": POSITIVE,
            "label_smoothing": PROBABILITY,
            "ema_decay": INSIDE.or_none,
            "sam_rho": POSITIVE.or_none,
            "sam_fraction": FRACTION,
            "gradient_accumulation_steps": POSITIVE_INTEGER.or_none,
            "precision": CHOICE,
            "max_skipped_steps": COUNT,
            "strategy": CHOICE,
            "deterministic": BOOLEAN,
            "seed": COUNT,
        },
    )


def _whole_way(model, folder):
    path = str(folder / "file")
    shared = {
        "model": MODEL,
        "labels": Kind((3, ("a",), ["a", 3], "nosuch.txt"), optional=True),
        "size": Kind((0, -1, 1.5, "x", (32,), True, object()), optional=True),
        "margin": Kind((-1, 1.5, "x", True, [], NAN), optional=True),
        "overwrite": BOOLEAN,
        "progress": FUNCTION.or_none,
        "input_range": CHOICE.or_none,
    }
    files = {
        **shared,
        "path": PATH,
        "precision": CHOICE,
    }
    calls = {
        "to_saved_model": Call(
            export.to_saved_model,
            {"model": model, "directory": path},
            {**shared, "directory": PATH, "outputs": CHOICE.or_none},
            costs=True,
        ),
        "to_tflite": Call(
            export.to_tflite,
            {"model": model, "path": f"{path}.tflite", "precision": "float32"},
            files,
            costs=True,
        ),
        "to_onnx": Call(
            export.to_onnx,
            {"model": model, "path": f"{path}.onnx"},
            {
                **files,
                "opset": Kind((0, 16, 999, 17.5, "17", True), optional=True),
            },
            costs=True,
        ),
        "to_openvino": Call(
            export.to_openvino,
            {"model": model, "path": f"{path}.xml"},
            files,
            costs=True,
        ),
        "weights.load": Call(
            weights.load,
            {"model": model, "source": path},
            {
                "model": MODEL,
                "source": Kind(("", 3, None, [], True)),
                "new_head": BOOLEAN,
            },
            costs=True,
        ),
        "weights.save": Call(
            weights.save,
            {"model": model, "path": f"{path}.safetensors"},
            {"model": MODEL, "path": PATH, "layout": CHOICE.or_none},
            costs=True,
        ),
        "weights.convert": Call(
            weights.convert,
            {"source": path, "destination": f"{path}.safetensors"},
            {
                "source": Kind(("", 3, None, [], True)),
                "destination": PATH,
                "layout": CHOICE.or_none,
            },
            costs=True,
        ),
        "weights.load_haiku_tree": Call(
            weights.load_haiku_tree,
            {"model": model, "tree": {}},
            {"model": MODEL, "tree": Kind((3, "x", [], {"a": 1}, object()))},
            costs=True,
        ),
        "weights.to_haiku_tree": Call(
            weights.to_haiku_tree, {"model": model}, {"model": MODEL}
        ),
        "ema_model": Call(
            keras_nfnet.ema_model,
            {"model": model},
            {"model": MODEL},
            costs=True,
        ),
        "signal_propagation": Call(
            keras_nfnet.signal_propagation,
            {"model": model},
            {
                "model": MODEL,
                "x": Kind(
                    (*NUMBERS.wrong, np.ones((2, 8, 8, 5))), None, None, True
                ),
            },
            costs=True,
        ),
        "check_normalizer_free": Call(
            keras_nfnet.check_normalizer_free,
            {"model": model},
            {
                "model": MODEL,
                "tolerance": POSITIVE,
                "x": Kind(
                    (*NUMBERS.wrong, np.ones((2, 8, 8, 5))), None, None, True
                ),
            },
            costs=True,
        ),
        "count_macs": Call(
            diagnostics.count_macs,
            {"model": model, "height": 32, "width": 32},
            {
                "model": MODEL,
                "height": POSITIVE_INTEGER,
                "width": POSITIVE_INTEGER,
            },
            costs=True,
        ),
        "batch_normalized_twin": Call(
            diagnostics.batch_normalized_twin,
            {
                "config": keras_nfnet.NFNetConfig((8,), (1,), group_width=4),
                "input_shape": (16, 16, 3),
                "classes": 2,
            },
            {
                "config": Kind(("nosuch", 3, (), object())),
                "input_shape": SHAPE,
                "classes": POSITIVE_INTEGER,
            },
            costs=True,
        ),
        "train": Call(
            keras_nfnet.train,
            {
                "recipe": keras_nfnet.Recipe(**_recipe().given),
                "directory": path,
            },
            {
                "recipe": Kind(("nosuch", 3, None, {}, object())),
                "save_every": POSITIVE_INTEGER,
                "data": Kind((3, "x", object()), optional=True),
                "callbacks": Kind((3, "x", [3], object())),
                "verbose": Kind(("nosuch", 7, -1, 1.5, [], object())),
                "directory": Kind((3, [], object(), True), optional=True),
            },
            costs=True,
        ),
    }
    return calls


def table(folder):
    """`{name: Call}` of everything public."""
    config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    model = keras_nfnet.NFNet(config, weights=None, classes=2)
    return {
        **_layers(),
        **_models(model),
        **_optimizers(),
        **_data(folder),
        "Recipe": _recipe(),
        **_whole_way(model, folder),
    }


def outcome(call, argument, value):
    """`"refused by name"`, `"refused without the name"` or `"accepted"`."""
    try:
        call(**{argument: value})
    except (ValueError, TypeError) as error:
        named = argument in str(error)
        lines = len(str(error).strip().splitlines())
        if named and lines < 4:
            return "refused by name"
        return "refused without the name"
    except Exception as error:
        return f"another error, {type(error).__name__}"
    return "accepted"


def drawn(call, argument, count):
    """Outcomes of `count` values that hypothesis draws."""
    seen = []

    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(call.kinds[argument].drawn)
    def draw(value):
        seen.append((value, outcome(call, argument, value)))

    draw()
    return seen


def rows(full, folder, say):
    """The rows of the scorecard."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    by_table, by_drawing = collections.Counter(), collections.Counter()
    numpy_numbers = collections.Counter()
    for name, call in table(folder).items():
        if call.is_slow and not full:
            continue
        for argument, kind in call.kinds.items():
            results = [
                (value, outcome(call, argument, value), by_table)
                for value in kind.values
            ]
            if kind.drawn is not None and not call.costs:
                results += [
                    (*each, by_drawing)
                    for each in drawn(call, argument, 30 if full else 3)
                ]
            for value, came, counter in results:
                counter[came] += 1
                if came != "refused by name":
                    say(f"{name}({argument}={reprlib.repr(value)}): {came}")
            if kind.right is not None and not call.costs:
                came = outcome(call, argument, kind.right)
                numpy_numbers[came] += 1
                if came != "accepted":
                    say(f"{name}({argument}={kind.right!r}): {came}")
    for injected, counter, promised in (
        ("wrong arguments, by a table", by_table, "refused by name"),
        ("wrong arguments, drawn by hypothesis", by_drawing, "refused by name"),
        ("numbers of NumPy", numpy_numbers, "accepted"),
    ):
        others = sum(counter.values()) - counter[promised]
        yield Row(
            injected,
            dict(counter),
            f"{others} came to something else" if others else "",
        )
