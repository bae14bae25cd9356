"""8-bit weights and activations of an OpenVINO model, by NNCF."""

import logging


def quantized(model, calibration):
    """The model in int8.

    Args:
        model: A float32 `openvino.Model`.
        calibration: Float32 pixels `(pictures, height, width, channels)`.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset([picture[None] for picture in calibration]),
        subset_size=len(calibration),
    )
