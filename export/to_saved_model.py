"""Writes a SavedModel of a model for TensorFlow Serving.

    python export/to_saved_model.py F0
    python export/to_saved_model.py F1 --out serving/flowers/1 \
        --weights flowers.weights.h5 --labels flowers.txt
    python export/to_saved_model.py digits.keras
"""

import sys

from keras_nfnet.export.command import main

if __name__ == "__main__":
    sys.exit(main("saved_model", __doc__))
