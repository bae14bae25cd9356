"""Normalizer-Free Networks for Keras 3."""
