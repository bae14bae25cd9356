"""One whole run: recipe → pipeline → model → optimizer → checkpoint."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_nfnet.models.output import probabilities_model
from keras_nfnet.training.build import TrainingData, build, evaluation_data
from keras_nfnet.training.recipe import Recipe
from keras_nfnet.utils.arguments import integer, one_of, path, refuse
from keras_nfnet.utils.types import Path


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves.

    Attributes:
        model: The trained classifier, which ends in probabilities and is not
            compiled.
        training_model: The model that was trained, which ends in logits: it
            is compiled, and has the layers and variables of `model`.
        history: Per-epoch values by name, as in `keras.callbacks.History`;
            those of held-out data begin with `val_`, or `ema_val_` for the
            average of the weights.
        accuracy: Top-1 accuracy of `model` on the test split, in [0, 1].
        loss: Its loss there, without label smoothing.
        evaluation: All that was measured on the test split in the end, on
            `model` (`val_…`) and on `ema_model` (`ema_val_…`).
        label_names: One name per class.
        examples: Examples of the test split.
        ema_model: A model of the average of the weights, or `None`.
        ema_accuracy: Its top-1 accuracy, or `None`.
        corrupt: One line on images that could not be decoded, by split;
            empty where all could.
        steps: Steps made, in all processes that worked on the run.
    """

    model: keras.Model
    training_model: keras.Model
    history: dict
    accuracy: float
    loss: float
    evaluation: dict
    label_names: tuple
    examples: int
    ema_model: keras.Model | None = None
    ema_accuracy: float | None = None
    corrupt: dict = dataclasses.field(default_factory=dict)
    steps: int = 0


def train(
    recipe: Recipe,
    directory: Path | None = None,
    data_dir: Path | None = None,
    verbose: int | str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    save_every: int = 1000,
    *,
    data: Any = None,
    test_data: Any = None,
) -> TrainingResult:
    """Trains and evaluates a network as a recipe says.

    With a `directory` the run can be resumed: it saves checkpoints there,
    and called again with the same arguments it goes on from the last good
    one, to the same values as if it had never been stopped (bit for bit on
    CPU; on TensorFlow with `deterministic=True` in the recipe).

    Args:
        recipe: A `keras_nfnet.Recipe`.
        directory: Folder of the run, made if it is not there: `recipe.toml`,
            `checkpoints/`, `log.csv`, `tensorboard/`, and at the end
            `model.keras`, `weights.safetensors`, the same for the average of
            the weights, `labels.txt` and `preprocessing.json`, which go with
            them, `results.json`, `training.png` and `report.html`, which
            opens offline. `None` to keep nothing.
        data_dir: Where TFDS keeps data sets; `None` for its default.
        verbose: As for `keras.Model.fit`; by default a progress bar.
        callbacks: Further Keras callbacks. Their model ends in logits. They
            see a resumed run begin anew. What they do to the weights or to
            the end of the run is kept: the final evaluation is made after
            them, on the weights that are saved.
        save_every: Steps between checkpoints, 1 or more; one more is saved
            at the end of each epoch.
        data: Examples to train on in place of the recipe's: a
            `tf.data.Dataset` of `(image, label)`, not batched, each image
            normalized float32 `(size, size, 3)`, each label an integer or
            `classes` floats. They are not shuffled or augmented. For a run
            that is resumed they must come in the same order again. `None`
            for the recipe's data.
        test_data: Examples to evaluate on, of the same form; with `data`
            only, and needed there.

    Returns:
        A `TrainingResult`: the trained `model`, its `history`, `accuracy`
        and `loss` on the test split, and more.

    Raises:
        ValueError: If the recipe does not fit the data or the devices, or
            the run in `directory` is of another recipe or other data.
        TrainingDiverged: If a weight is not finite, or too many steps were
            skipped; a `ValueError` of `keras_nfnet.training.stop`.
        TrainingStopped: After SIGTERM or SIGINT, once all is saved; of the
            same module.

    Example:

    >>> from keras_nfnet.training.recipes import recipe
    >>> config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    >>> short = recipe("digits").replace(
    ...     model=config, epochs=1, warmup_epochs=0
    ... )
    >>> result = keras_nfnet.train(short, "run", data_dir="data", verbose=0)
    >>> result.steps, result.examples
    (22, 360)

    Reference: arXiv:2102.06171, section 6 and appendix A.
    """
    _refuse(recipe, directory, data_dir, callbacks, data, test_data)
    save_every = integer("save_every", save_every)
    if isinstance(verbose, bool):
        verbose = int(verbose)
    one_of("verbose", verbose, ("auto", 0, 1, 2))
    from keras_nfnet.training.callbacks import EvaluateEachEpoch, KeepTrack
    from keras_nfnet.training.directory import RunDirectory
    from keras_nfnet.training.distribution import engine_for
    from keras_nfnet.training.evaluate import progress_bar
    from keras_nfnet.training.state import restore_state
    from keras_nfnet.training.stop import SignalFlag

    # Of one step of `fit`, which takes a part of the optimizer's batch.
    batch_size = recipe.batch_size // (recipe.gradient_accumulation_steps or 1)
    # Before anything else: TensorFlow's workers meet here or never.
    engine = engine_for(recipe.strategy, batch_size)
    if recipe.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    with RunDirectory(directory, recipe, engine.chief) as run, engine.running():
        data = TrainingData(recipe, batch_size, data_dir, data)
        evaluation, test_info = evaluation_data(
            recipe, batch_size, data_dir, test_data
        )
        info, steps = data.info, data.steps
        checkpoint = run.restore({"training": info, "evaluation": test_info})
        step = checkpoint.step if checkpoint else 0
        if verbose and engine.chief:
            print(info.summary(), test_info.summary(), sep="\n")

        # Seed after preparing the data: preparing them consumes random numbers.
        keras.utils.set_random_seed(recipe.seed)
        with engine.scope():
            model = build(recipe, steps, load_weights=checkpoint is None)
        if checkpoint is not None:
            images = np.zeros(
                (batch_size, recipe.size, recipe.size, 3), "float32"
            )
            labels = np.zeros((batch_size, info.classes), "float32")
            restore_state(model, checkpoint.arrays, batch=(images, labels))

        flag = SignalFlag()
        track = KeepTrack(
            run, recipe, steps, save_every, flag, engine.workers, checkpoint
        )
        evaluate = EvaluateEachEpoch(
            engine,
            evaluation,
            batch_size,
            recipe.ema_decay is not None,
            progress_bar(test_info.examples, batch_size, bool(verbose)),
            track,
        )
        report = _ReportCorrupt(data, test_info.corrupt, verbose)
        # `flag` hears of a step before, and `track` after, any other callback.
        own = [
            keras.callbacks.LambdaCallback(on_train_batch_end=flag.note_step),
            evaluate,
            *callbacks,
            *run.callbacks(),
            track,
            report,
        ]

        def fit(first_epoch, epochs, steps_per_epoch):
            model.fit(
                engine.distributed(data.part(track.step)),
                initial_epoch=first_epoch,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=own,
                verbose=verbose,
                shuffle=False,  # The pipeline shuffles.
            )

        with flag.watching(), data.errors():
            if track.unevaluated is not None:
                # A signal stopped the run within the evaluation of an epoch.
                evaluate.set_model(model)
                track.set_model(model)
                track.end_epoch({**track.unevaluated, **evaluate.evaluate()})
            epoch, behind = divmod(step, steps)
            ended = track.ended
            if behind and not ended:  # The rest of the epoch it was stopped in.
                fit(epoch, epoch + 1, steps - behind)
                epoch += 1
                ended = model.stop_training
            if epoch < recipe.epochs and not ended:
                fit(epoch, recipe.epochs, steps)
        last = track.history[-1]
        if callbacks or track.ended or step >= recipe.epochs * steps:
            # The weights may be others than those of the last evaluation, and
            # a run that was over before has made none.
            for callback in (track, evaluate):
                callback.set_model(model)
            track.refuse_weights()
            if not track.ended:
                track.save(ended=True)
            last = evaluate.evaluate()
        measured = {
            name: value
            for name, value in last.items()
            if name.startswith(("val_", "ema_val_"))
        }
        names = dict.fromkeys(name for row in track.history for name in row)
        result = TrainingResult(
            model=probabilities_model(model),
            training_model=model,
            history={n: [row.get(n) for row in track.history] for n in names},
            accuracy=measured["val_accuracy"],
            loss=measured["val_loss"],
            evaluation=measured,
            label_names=info.label_names,
            examples=test_info.examples,
            ema_model=evaluate.average
            and probabilities_model(evaluate.average),
            ema_accuracy=measured.get("ema_val_accuracy"),
            corrupt=report.lines(),
            steps=track.step,
        )
        run.finish(result, with_signal=engine.workers == 1)
        return result


def _refuse(recipe, directory, data_dir, callbacks, data, test_data):
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"`recipe` must be a `Recipe`. Received: recipe={recipe!r}"
        )
    for name, value in (("directory", directory), ("data_dir", data_dir)):
        if value is not None:
            path(name, value, "the path of a folder, or `None`")
    if not isinstance(callbacks, list | tuple):
        refuse("callbacks", callbacks, "a list of Keras callbacks")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            refuse("callbacks", callback, "a list of Keras callbacks")
    if (data is None) != (test_data is None):
        raise ValueError(
            "`data` and `test_data` go together. Received: "
            f"data={data!r}, test_data={test_data!r}"
        )


class _ReportCorrupt(keras.callbacks.Callback):
    """Prints at the end of each epoch which images could not be decoded."""

    def __init__(self, data, evaluation, verbose):
        super().__init__()
        self._data = data
        self._evaluation = evaluation
        self._verbose = verbose
        self._said = {}

    def lines(self):
        """`{"training": line, "evaluation": line}`, where there is one."""
        lines = {
            "training": self._data.corrupt(),
            "evaluation": self._evaluation.summary(),
        }
        return {name: line for name, line in lines.items() if line}

    def on_epoch_end(self, epoch, logs=None):
        lines = self.lines()
        if self._verbose and lines != self._said:
            for name, line in lines.items():
                print(f"{name}: {line}")
            self._said = lines
