"""Writes a SavedModel of a variant for TensorFlow Serving.

    python export/to_saved_model.py F0 serving/nfnet_f0/1
    python export/to_saved_model.py F1 serving/flowers/1 \
        --weights flowers.weights.h5 --labels flowers.txt
"""

import argparse
import sys


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description="Write a SavedModel that takes pixels or encoded pictures."
    )
    parser.add_argument("variant", help="a variant's name, such as F0 or F4+")
    parser.add_argument("directory", help="where to write the SavedModel")
    parser.add_argument(
        "--weights",
        default="imagenet",
        help='"imagenet" (default) or a weight file',
    )
    parser.add_argument(
        "--labels",
        help="text file with one class name a line; default: ImageNet's",
    )
    parser.add_argument(
        "--classes",
        type=int,
        help="classes of the weights; default: as many as labels, or 1000",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="pixels that encoded pictures are brought to; default: the "
        "variant's test size",
    )
    options = parser.parse_args(arguments)

    # Slow to import, and not needed for --help.
    import keras_nfnet
    from keras_nfnet.data.labels import read_labels
    from keras_nfnet.export import to_saved_model

    try:
        labels = read_labels(options.labels) if options.labels else None
        classes = options.classes or (len(labels) if labels else 1000)
        model = keras_nfnet.NFNet(
            options.variant, weights=options.weights, classes=classes
        )
        report = to_saved_model(
            model, options.directory, labels=labels, size=options.size
        )
    except (ValueError, RuntimeError) as error:
        print(f"to_saved_model.py: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
