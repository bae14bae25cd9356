"""Data: labels, preprocessing, and input pipelines of TFDS data sets.

The modules on TFDS and TensorFlow (`digits`, `pipeline`, `augmentation`,
`graph_preprocessing`) are imported only where they are used.
"""

from keras_nfnet.data.labels import decode_predictions, imagenet_labels
from keras_nfnet.data.preprocessing import (
    decode_picture,
    evaluation_picture,
    preprocess_input,
)

__all__ = [
    "decode_picture",
    "decode_predictions",
    "evaluation_picture",
    "imagenet_labels",
    "preprocess_input",
]
