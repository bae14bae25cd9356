"""Adaptive gradient clipping and what the papers train with."""

from keras_nfnet.optimizers.clipping import adaptive_clip, unitwise_norm
from keras_nfnet.optimizers.schedule import WarmupCosine
from keras_nfnet.optimizers.sgd import SGDAGC

__all__ = ["SGDAGC", "WarmupCosine", "adaptive_clip", "unitwise_norm"]
