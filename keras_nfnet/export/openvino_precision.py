"""8-bit weights and activations of an OpenVINO model, by NNCF."""

import contextlib
import logging
import os

import numpy as np
import openvino


def quantized(model, calibration):
    """The model in int8.

    Weights per output channel and signed, activations per tensor: with a
    zero point where they have both signs. Their ranges are those of least
    squared error over all pictures. NNCF's default is the mean of each
    picture's range, which cuts off what single pictures have beyond it (F0's
    logits on other pictures: a cosine of 0.9987 with the float ones, 0.9994
    by histograms). Below a cosine of 0.999 on `calibration` NNCF ranks the
    layers by what they cost, and leaves the worst in float until it is
    reached. Of a network that came through ONNX it leaves the gates of
    squeeze-and-excite in float: there the weights alone are of 8 bits.

    Args:
        model: A float32 `openvino.Model`.
        calibration: Float32 pixels `(pictures, height, width, channels)`.

    Returns:
        The model, and the names of the layers that are left in float.
    """
    import nncf
    from nncf.quantization import range_estimator

    ranges = range_estimator.RangeEstimatorParametersSet.HISTOGRAM
    pictures = [picture[None] for picture in calibration]
    options = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(pictures),
    }
    # The control takes its parameters under another name.
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=ranges
    )
    with _quiet(nncf):
        result = nncf.quantize(
            model,
            nncf.Dataset(pictures),
            advanced_parameters=advanced,
            **options,
        )
        kept = ()
        judged = _judged(model, pictures[:_JUDGED])
        if _cosine(_compiled(result), judged)[0] < COSINE:
            before = _quantized_layers(result)
            result = nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(pictures),
                nncf.Dataset(judged, lambda item: item[0]),
                _cosine,
                # A tenth is left to the weights of the gates.
                max_drop=0.9 * (1 - COSINE),
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=(
                    nncf.AdvancedAccuracyRestorerParameters(
                        ranking_subset_size=len(judged)
                    )
                ),
                **options,
            )
            after = set(_quantized_layers(result))
            kept = tuple(name for name in before if name not in after)
        return (
            nncf.compress_weights(
                result,
                mode=nncf.CompressWeightsMode.INT8_SYM,
                ignored_scope=nncf.IgnoredScope(names=list(kept)),
            ),
            kept,
        )


# What is asked of int8, and on how many pictures it is measured.
COSINE = 0.999
_JUDGED = 16


def _compiled(model):
    return openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )


def _outputs(compiled, picture):
    return [np.float64(value).ravel() for value in compiled(picture).values()]


def _judged(model, pictures):
    """`[(picture, outputs)]` of the float model."""
    compiled = _compiled(model)
    return [(picture, _outputs(compiled, picture)) for picture in pictures]


def _cosine(compiled, judged):
    """Least cosine of an output, all pictures together; and of each picture."""
    pairs = [
        (_outputs(compiled, picture), wanted) for picture, wanted in judged
    ]
    together = [
        _cosine_of(*map(np.concatenate, zip(*output, strict=True)))
        for output in zip(
            *(zip(got, wanted, strict=True) for got, wanted in pairs),
            strict=True,
        )
    ]
    each = [min(map(_cosine_of, got, wanted)) for got, wanted in pairs]
    return min(together), each


def _cosine_of(got, wanted):
    length = np.linalg.norm(got) * np.linalg.norm(wanted)
    if not length:
        return float(np.array_equal(got, wanted))
    return float(got @ wanted / length)


def _quantized_layers(model):
    """Names of the operations on 8-bit activations."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if any(map(_is_quantized, node.input_values()))
    ]


def _is_quantized(value):
    node = value.get_node()
    return (
        node.get_type_name() == "FakeQuantize"
        # Weights have 8 bits beside float activations too.
        and node.input_value(0).get_node().get_type_name() != "Constant"
    )


@contextlib.contextmanager
def _quiet(nncf):
    """Without NNCF's notes and bars of progress."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
        ):
            yield
    finally:
        nncf.set_log_level(level)
