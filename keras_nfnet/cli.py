"""The command line, thin: `keras-nfnet demo | train | predict | …`."""

import argparse
import os
import sys

from keras_nfnet.bench.command import add_parser as add_bench
from keras_nfnet.export.command import add_parser as add_export
from keras_nfnet.export.command import pixels_or_fraction
from keras_nfnet.training.command import add_commands as add_training
from keras_nfnet.version import __version__


def main(arguments=None):
    """Runs one command; returns its exit status.

    0 on success, 2 with one line on bad input, 1 where the demo misses its
    accuracy.
    """
    for stream in (sys.stdout, sys.stderr):
        # A console that lacks a character must not end a command that did
        # its work. Not every stream can be reconfigured, such as a test's.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    # TensorFlow's start-up notes are not for users of a command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        line = " ".join(str(error).split())
        print(f"keras-nfnet: error: {line}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"keras-nfnet: error: {error.name} is not installed; "
            "pip install 'keras-nfnet[train,export]' brings all that the "
            "commands need",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-nfnet",
        description="Normalizer-Free Networks for Keras 3.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = _command(
        commands,
        "demo",
        _demo,
        "train a small NFNet on handwritten digits, export it, predict",
    )
    demo.add_argument(
        "--out", default="demo", metavar="DIR", help="results (default: demo)"
    )

    add_training(commands, _command)

    info = _command(
        commands, "info", _info, "table of all variants, from the models"
    )
    info.add_argument(
        "--json", action="store_true", help="print JSON, not a table"
    )

    predict = _command(commands, "predict", _predict, "top classes of images")
    predict.add_argument("images", nargs="+", metavar="IMAGE")
    predict.add_argument(
        "--model",
        default="F0",
        help="variant, such as F1, or a .keras file (default: F0)",
    )
    predict.add_argument(
        "--weights",
        default="imagenet",
        help='"imagenet" or a file of weights (default: imagenet)',
    )
    predict.add_argument(
        "--size", type=int, help="pixels (default: the model's test size)"
    )
    predict.add_argument(
        "--top", type=int, default=5, help="classes to print (default: 5)"
    )
    predict.add_argument(
        "--classes", type=int, help="classes of the weights (default: 1000)"
    )
    predict.add_argument(
        "--margin",
        type=pixels_or_fraction,
        help="pixels to resize beyond the size before the centre is cropped, "
        "or a crop fraction such as 0.9 (default: as the model was evaluated, "
        "or 32)",
    )
    predict.add_argument(
        "--input-range",
        choices=("imagenet", "0-255"),
        help="what a .keras file takes: normalized images or pixels "
        "(default: found out)",
    )
    predict.add_argument(
        "--labels",
        help="text file, one name a line (default: the labels.txt beside a "
        ".keras file, or ImageNet's)",
    )

    add_export(commands)
    add_bench(commands, _command)

    convert = _command(
        commands,
        "convert",
        _convert,
        "convert weights between DeepMind's, timm's and our own files",
    )
    convert.add_argument("source", metavar="IN", help="file to read")
    convert.add_argument(
        "destination",
        metavar="OUT",
        help="*.npz (DeepMind's), *.safetensors or *.weights.h5",
    )
    convert.add_argument(
        "--layout",
        choices=("keras_nfnet", "timm"),
        help="keys of a .safetensors file (default: keras_nfnet)",
    )
    return parser


def _command(commands, name, run, text):
    command = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    command.set_defaults(run=run)
    return command


def _demo(options):
    from keras_nfnet.demo import TARGET, demo

    accuracy = demo(options.out)
    if accuracy < TARGET:
        print(
            f"keras-nfnet: the accuracy is below {100 * TARGET:.1f}%",
            file=sys.stderr,
        )
        return 1
    return 0


def _info(options):
    from keras_nfnet.diagnostics import variant_table

    rows = variant_table()
    if options.json:
        import json

        print(json.dumps(rows, indent=1))
        return 0
    print(
        f"{'variant':15s} {'parameters':>13s} {'train px':>8s} "
        f"{'GMACs':>8s} {'test px':>8s} {'GMACs':>8s} {'dropout':>8s} "
        f"{'top-1 %':>8s}  weights"
    )
    for row in rows:
        top1 = "–" if row["top1"] is None else f"{row['top1']:g}"
        print(
            f"{row['variant']:15s} {row['parameters']:13,d} "
            f"{row['train_size']:8d} {row['train_gmacs']:8.2f} "
            f"{row['test_size']:8d} {row['test_gmacs']:8.2f} "
            f"{row['drop_rate']:8.1f} {top1:>8s}  "
            f"{'published' if row['weights'] else '–'}"
        )
    return 0


def _predict(options):
    from keras_nfnet.predict import format_predictions, predict

    predictions = predict(
        options.images,
        variant=options.model,
        weights=options.weights,
        size=options.size,
        top=options.top,
        labels=options.labels,
        classes=options.classes,
        margin=options.margin,
        input_range=options.input_range,
    )
    print(format_predictions(options.images, predictions))
    return 0


def _convert(options):
    from keras_nfnet.weights import convert

    report = convert(options.source, options.destination, layout=options.layout)
    variant = report["variant"] or "another network"
    print(
        f"{variant}: {report['arrays']} arrays, "
        f"{report['parameters']:,} parameters, {report['from']} → "
        f"{report['to']}: {report['destination']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
