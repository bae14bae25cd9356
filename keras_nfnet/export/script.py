"""What the thin scripts in `export/` run."""

import argparse
import os
import sys


def main(form, text, arguments=None):
    """Exports to one format; returns the exit status, 2 on bad input.

    Args:
        form: A format of `keras-nfnet export`.
        text: The script's docstring.
        arguments: Of the command line; `None` for the process's.
    """
    from keras_nfnet.export.command import add_arguments, export

    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    options.format = form
    # TensorFlow's start-up notes are not for users of a command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return reported(lambda: print(export(options)))


def reported(work):
    """Runs a function; 0, or 2 with one line on what to mend."""
    try:
        work()
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        line = " ".join(str(error).split())
        name = os.path.basename(sys.argv[0])
        print(f"{name}: error: {line}", file=sys.stderr)
        return 2
    return 0
