"""`keras-nfnet train`, `keras-nfnet evaluate` and `keras-nfnet report`."""

import argparse
import os
import sys

from keras_nfnet.training import recipes


def add_commands(commands, command):
    """Adds them to the command line.

    Args:
        commands: What `argparse`'s `add_subparsers` returned.
        command: A function of `commands`, name, function and text that adds
            one.
    """
    train = command(
        commands, "train", _train, "train a network as a recipe says"
    )
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.epilog = "recipes:\n" + "\n".join(
        f"  {name:20s} {recipes.summary(name)}" for name in recipes.names()
    )
    _add_recipe(train, "recipe")
    train.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the run (default: runs/ and the recipe's name); if "
        "there is a run of the same recipe, goes on with it",
    )
    train.add_argument(
        "--save-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="steps between checkpoints (default: 1000; and each epoch)",
    )

    evaluate = command(
        commands, "evaluate", _evaluate, "evaluate a run, a model or weights"
    )
    evaluate.add_argument(
        "source",
        metavar="SOURCE",
        help='a run\'s folder, a .keras file, a file of weights or "imagenet"',
    )
    _add_recipe(evaluate, "--recipe")
    evaluate.add_argument(
        "--batch-size",
        type=int,
        help="images of one batch (default: 64 for each device)",
    )
    evaluate.add_argument(
        "--ema",
        action="store_true",
        help="of a run's folder, take the average of the weights",
    )
    evaluate.add_argument(
        "--input-range",
        choices=("imagenet", "0-255"),
        help="what the model takes: normalized images or pixels (default: "
        "found out)",
    )
    evaluate.add_argument(
        "--report",
        metavar="PATH.html",
        help="write a page with confusions, the worst errors and accuracy by "
        "class; one file that opens offline",
    )
    evaluate.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes in the report: a text file, one a line "
        "(default: the data's)",
    )

    report = command(
        commands,
        "report",
        _report,
        "write the page of a run: curves, clipping by stage, signal "
        "propagation, recipe",
    )
    report.description += (
        " One file that opens offline, also of a run that is not finished; a "
        "finished one has left it as report.html. For errors and confusions "
        "see evaluate --report."
    )
    report.add_argument("run_folder", metavar="RUN", help="a run's folder")
    report.add_argument(
        "--out",
        metavar="PATH.html",
        help="the page (default: report.html in the run's folder)",
    )


def _add_recipe(parser, argument):
    needed = "" if argument == "recipe" else " (default: the run's)"
    parser.add_argument(
        argument,
        metavar="RECIPE",
        help=f"name of a recipe, or a TOML file with one{needed}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="another value of the recipe, such as epochs=3, "
        "augmentation.mixup=0 or clipping=none; may be given often",
    )
    parser.add_argument(
        "--strategy",
        metavar="{auto,one,mirrored,multi_worker,tpu}",
        help="devices (default: the recipe's, which is auto)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where TFDS keeps data sets"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def recipe_of(options):
    """The recipe that the command line names, with its settings."""
    from keras_nfnet.training.recipe import read_recipe, with_settings

    name = options.recipe
    if name in recipes.names():
        recipe = recipes.recipe(name)
    elif os.path.exists(name):
        recipe = read_recipe(name)
    else:
        raise ValueError(
            f"RECIPE must be one of {', '.join(recipes.names())}, or a TOML "
            f"file. Received: {name!r}"
        )
    settings = list(options.settings)
    if options.strategy:
        settings.append(f'strategy="{options.strategy}"')
    return with_settings(recipe, settings)


def _train(options):
    from keras_nfnet.training.run import train
    from keras_nfnet.training.stop import TrainingStopped

    recipe = recipe_of(options)
    directory = options.out or os.path.join("runs", recipe.name)
    try:
        result = train(
            recipe,
            directory,
            data_dir=options.data_dir,
            verbose=0 if options.quiet else "auto",
            save_every=options.save_every,
        )
    except TrainingStopped as stopped:
        print(f"keras-nfnet: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    rows = [
        ("held-out accuracy", f"{100 * result.accuracy:.2f}%"),
        ("held-out loss", f"{result.loss:.4f}"),
        ("held-out examples", f"{result.examples:,}"),
        ("parameters", f"{result.model.count_params():,}"),
        ("steps", f"{result.steps:,}"),
    ]
    if result.ema_accuracy is not None:
        rows.insert(
            1, ("with averaged weights", f"{100 * result.ema_accuracy:.2f}%")
        )
    rows += [(f"corrupt, {k}", line) for k, line in result.corrupt.items()]
    _print(rows)
    print(f"\nresults in {directory}/")
    return 0


def _evaluate(options):
    from keras_nfnet.training.directory import recipe_of_run
    from keras_nfnet.training.evaluate import evaluate_source, shown

    if not options.recipe and (options.settings or options.strategy):
        options.recipe = recipe_of_run(options.source)
    recipe = recipe_of(options) if options.recipe else None
    values = evaluate_source(
        options.source,
        recipe,
        data_dir=options.data_dir,
        average=options.ema,
        batch_size=options.batch_size,
        progress=not options.quiet,
        input_range=options.input_range,
        report=options.report,
        labels=options.labels,
    )
    _print(shown(values))
    if options.report:
        print(f"\nreport in {options.report}")
    return 0


def _report(options):
    from keras_nfnet.training.directory import report_run

    print(f"report in {report_run(options.run_folder, options.out)}")
    return 0


def _print(rows):
    print()
    for name, value in rows:
        print(f"{name:24s} {value}")
