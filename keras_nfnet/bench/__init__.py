"""Times of one network in every runtime: `keras-nfnet bench`."""
