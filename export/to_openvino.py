"""Writes OpenVINO's .xml and .bin of a model.

    python export/to_openvino.py F0
    python export/to_openvino.py F0 --out f0_int8.xml --precision int8 \
        --calibration images/
"""

import sys

from keras_nfnet.export.command import main

if __name__ == "__main__":
    sys.exit(main("openvino", __doc__))
