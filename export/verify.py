"""Compares an artifact with the model it came from, by its own runtime.

python export/verify.py nfnet_f0.onnx F0
python export/verify.py serving/digits/1 digits.keras
python export/verify.py f0.tflite F0 --precision dynamic_int8
"""

import argparse
import os
import sys

from keras_nfnet.export.command import (
    FORMATS,
    add_model_arguments,
    model_of,
    reported,
    verify,
)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", metavar="ARTIFACT", help="what to run")
    add_model_arguments(parser)
    parser.add_argument(
        "--precision",
        default="float32",
        choices=FORMATS["tflite"].PRECISIONS,
        help="of the artifact; sets the bound (default: float32)",
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return reported(
        lambda: print(
            verify(options.artifact, model_of(options), options.precision)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
