"""The one place that refuses `channels_first`."""

import keras


def require_channels_last(data_format=None):
    """Returns `"channels_last"`, or refuses anything else.

    Args:
        data_format: `None` for `keras.config.image_data_format()`.

    Raises:
        ValueError: If the format is not `"channels_last"`.
    """
    if data_format is None:
        data_format = keras.config.image_data_format()
    if data_format != "channels_last":
        raise ValueError(
            'keras_nfnet supports `data_format="channels_last"` only; '
            'call `keras.config.set_image_data_format("channels_last")`. '
            f"Received: data_format={data_format!r}"
        )
    return data_format
