"""Writes an ONNX file of a model for ONNX Runtime and others.

    python export/to_onnx.py F0
    python export/to_onnx.py F0 --out f0_int8.onnx --precision int8 \
        --calibration images/
"""

import sys

from keras_nfnet.export.command import main

if __name__ == "__main__":
    sys.exit(main("onnx", __doc__))
