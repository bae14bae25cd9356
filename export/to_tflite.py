"""Writes a TFLite file of a model for LiteRT.

    python export/to_tflite.py F0 --precision dynamic_int8
    python export/to_tflite.py F0 --out f0_int8.tflite --precision int8 \
        --calibration images/
"""

import sys

from keras_nfnet.export.command import main

if __name__ == "__main__":
    sys.exit(main("tflite", __doc__))
