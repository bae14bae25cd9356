"""What a network does to its signal, and what it costs."""

from keras_nfnet.diagnostics.cost import count_macs, variant_table
from keras_nfnet.diagnostics.signal_propagation import signal_propagation

__all__ = ["count_macs", "signal_propagation", "variant_table"]
