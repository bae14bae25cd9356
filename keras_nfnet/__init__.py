"""Normalizer-Free Networks for Keras 3.

`VARIANTS` maps the variants' names, `"F0"` … `"F7+"`, to their
`NFNetConfig`; `__version__` is the package's version.

Reference: Brock et al. 2021, arXiv:2102.06171 and arXiv:2101.08692.
"""

from keras_nfnet import export, layers, weights
from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.data.labels import decode_predictions
from keras_nfnet.data.preprocessing import preprocess_input
from keras_nfnet.diagnostics import check_normalizer_free, signal_propagation
from keras_nfnet.export.folding import fold
from keras_nfnet.layers.sharding import layout_map
from keras_nfnet.models import constructors
from keras_nfnet.models.body import features
from keras_nfnet.models.constructors import *  # noqa: F403
from keras_nfnet.models.low_rank import enable_lora
from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.optimizers import (
    SGDAGC,
    WarmupCosine,
    adaptive_clip,
    with_agc,
)
from keras_nfnet.training.ema import ema_model
from keras_nfnet.training.recipe import Recipe
from keras_nfnet.training.run import train
from keras_nfnet.variants import VARIANTS
from keras_nfnet.version import __version__

__all__ = [
    "SGDAGC",
    "VARIANTS",
    "NFNet",
    "NFNetConfig",
    "Recipe",
    "WarmupCosine",
    "__version__",
    "adaptive_clip",
    "check_normalizer_free",
    "decode_predictions",
    "ema_model",
    "enable_lora",
    "export",
    "features",
    "fold",
    "layers",
    "layout_map",
    "preprocess_input",
    "signal_propagation",
    "train",
    "weights",
    "with_agc",
    *constructors.__all__,
]
