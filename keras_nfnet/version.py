"""The version, without importing Keras."""

__version__ = "1.0.0rc2"
