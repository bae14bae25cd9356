"""The version, without importing Keras."""

__version__ = "0.1.0"
