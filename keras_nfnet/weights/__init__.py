"""Reading, checking and writing the weights of the networks."""

from keras_nfnet.weights.convert import convert
from keras_nfnet.weights.haiku import load_haiku_tree, to_haiku_tree
from keras_nfnet.weights.load import load
from keras_nfnet.weights.save import save

__all__ = ["convert", "load", "load_haiku_tree", "save", "to_haiku_tree"]
