"""8-bit weights and activations of an OpenVINO model, by NNCF."""

import contextlib
import logging
import os


def quantized(model, calibration):
    """The model in int8.

    Weights per output channel and signed, activations per tensor: with a
    zero point where they have both signs (F0's logits: a cosine of 0.9993
    with the float ones, 0.9991 without). NNCF leaves the gates of
    squeeze-and-excite in float, since they multiply whole channels: there
    the weights alone are of 8 bits.

    Args:
        model: A float32 `openvino.Model`.
        calibration: Float32 pixels `(pictures, height, width, channels)`.
    """
    import nncf

    with _quiet(nncf):
        quantized = nncf.quantize(
            model,
            nncf.Dataset([picture[None] for picture in calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
        )
        return nncf.compress_weights(
            quantized, mode=nncf.CompressWeightsMode.INT8_SYM
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
