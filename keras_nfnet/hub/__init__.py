"""The networks as keras-hub's own: backbone, classifier, presets.

Optional, and imported by nothing else of the package. With this module
imported, `keras_hub.models.Backbone.from_preset` and
`ImageClassifier.from_preset` also read folders in timm's layout that hold one
of the networks.
"""

try:
    import keras_hub  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras_hub":
        raise
    raise ImportError(
        "`keras_nfnet.hub` needs keras-hub: pip install 'keras-nfnet[hub]'"
    ) from error

from keras_nfnet.hub import timm_folder
from keras_nfnet.hub.backbone import NFNetBackbone
from keras_nfnet.hub.classifier import (
    NFNetImageClassifier,
    NFNetImageClassifierPreprocessor,
    NFNetImageConverter,
)

timm_folder.install()

__all__ = [
    "NFNetBackbone",
    "NFNetImageClassifier",
    "NFNetImageClassifierPreprocessor",
    "NFNetImageConverter",
]
