"""What a network does to its signal, what it costs, and its twin with BN."""

from keras_nfnet.diagnostics.batch_normalized_twin import (
    batch_normalized_twin,
    use_statistics_of,
)
from keras_nfnet.diagnostics.cost import count_macs, variant_table
from keras_nfnet.diagnostics.normalizer_free import (
    VarianceReport,
    check_normalizer_free,
)
from keras_nfnet.diagnostics.signal_propagation import signal_propagation

__all__ = [
    "VarianceReport",
    "batch_normalized_twin",
    "check_normalizer_free",
    "count_macs",
    "signal_propagation",
    "use_statistics_of",
    "variant_table",
]
