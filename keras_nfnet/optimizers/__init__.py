"""Adaptive gradient clipping and what the papers train with."""

from keras_nfnet.optimizers.any_optimizer import register_all, with_agc
from keras_nfnet.optimizers.clipping import adaptive_clip, unitwise_norm
from keras_nfnet.optimizers.schedule import WarmupCosine
from keras_nfnet.optimizers.sgd import SGDAGC

__all__ = [
    "SGDAGC",
    "WarmupCosine",
    "adaptive_clip",
    "unitwise_norm",
    "with_agc",
]

# A file that holds one must load in a process that never called `with_agc`.
register_all()
