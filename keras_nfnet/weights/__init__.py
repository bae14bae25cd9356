"""Reading, checking and writing the weights of the networks."""

from keras_nfnet.weights.load import load, load_haiku_tree
from keras_nfnet.weights.save import convert, save, to_haiku_tree

__all__ = ["convert", "load", "load_haiku_tree", "save", "to_haiku_tree"]
