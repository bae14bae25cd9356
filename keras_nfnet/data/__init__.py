"""Data: labels, preprocessing, augmentation, and input pipelines.

The modules on TFDS and TensorFlow (`digits`, `sources`, `pipeline` and what
it is made of) are imported only where they are used.
"""

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.data.decoding import decode_picture, set_max_pixels
from keras_nfnet.data.labels import decode_predictions, imagenet_labels
from keras_nfnet.data.preprocessing import evaluation_picture, preprocess_input

__all__ = [
    "Augmentation",
    "decode_picture",
    "decode_predictions",
    "evaluation_picture",
    "imagenet_labels",
    "preprocess_input",
    "set_max_pixels",
]
