"""The former place of `keras_nfnet.utils.files.replacing`."""

from keras_nfnet.utils.files import replacing

__all__ = ["replacing"]
