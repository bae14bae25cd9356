"""One whole run: recipe → pipeline → model → optimizer → checkpoint."""

import contextlib
import dataclasses
from dataclasses import dataclass

import keras
import numpy as np

from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.optimizers import SGDAGC, WarmupCosine
from keras_nfnet.training.batches import (
    TrainingData,
    batch_of_one_step,
    evaluation_data,
    progress_bar,
)
from keras_nfnet.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves.

    Attributes:
        model: The trained model, ending in probabilities.
        history: Per-epoch values by name, as in `keras.callbacks.History`;
            those of held-out data begin with `val_`, or `ema_val_` for the
            average of the weights.
        accuracy: Top-1 accuracy on the test split, in [0, 1].
        loss: Loss on the test split, without label smoothing.
        label_names: One name per class.
        examples: Examples of the test split.
        ema_model: A model of the average of the weights, or `None`.
        ema_accuracy: Its top-1 accuracy, or `None`.
        corrupt: One line on pictures that could not be decoded, by split;
            empty where all could.
        steps: Steps made, in all processes that worked on the run.
    """

    model: keras.Model
    history: dict
    accuracy: float
    loss: float
    label_names: tuple
    examples: int
    ema_model: keras.Model | None = None
    ema_accuracy: float | None = None
    corrupt: dict = dataclasses.field(default_factory=dict)
    steps: int = 0


def train(
    recipe,
    directory=None,
    data_dir=None,
    verbose="auto",
    callbacks=(),
    save_every=1000,
):
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
            them, `results.json` and `training.png`. `None` to keep nothing.
        data_dir: Where TFDS keeps data sets; `None` for its default.
        verbose: As for `keras.Model.fit`; by default a progress bar.
        callbacks: Further Keras callbacks. They see a resumed run begin
            anew.
        save_every: Steps between checkpoints, 1 or more; one more is saved
            at the end of each epoch.

    Returns:
        A `TrainingResult`: the trained `model`, its `history`, `accuracy`
        and `loss` on the test split, and more.

    Raises:
        ValueError: If the recipe does not fit the data, the devices or the
            run in `directory`.
        TrainingDiverged: If the loss or a weight is not finite; a
            `ValueError` of `keras_nfnet.training.stop`.
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
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"`recipe` must be a `Recipe`. Received: recipe={recipe!r}"
        )
    if isinstance(save_every, bool) or not (
        isinstance(save_every, int) and save_every > 0
    ):
        raise ValueError(
            "`save_every` must be a whole number of steps above 0. "
            f"Received: save_every={save_every!r}"
        )
    from keras_nfnet.training.directory import RunDirectory
    from keras_nfnet.training.distribution import engine_for

    batch_size = batch_of_one_step(recipe)
    # Before anything else: TensorFlow's workers meet here or never.
    engine = engine_for(recipe.strategy, batch_size)
    if recipe.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(RunDirectory(directory, recipe, engine.chief))
        stack.enter_context(engine.running())
        return _train(
            recipe, run, engine, data_dir, verbose, callbacks, save_every
        )


def _train(recipe, run, engine, data_dir, verbose, callbacks, save_every):
    from keras_nfnet.training.callbacks import EvaluateEachEpoch, KeepTrack
    from keras_nfnet.training.evaluation import Evaluation
    from keras_nfnet.training.state import restore_state
    from keras_nfnet.training.stop import SignalFlag

    batch_size = batch_of_one_step(recipe)
    checkpoint = run.restore()
    step = checkpoint.step if checkpoint else 0
    data = TrainingData(recipe, batch_size, data_dir)
    info, steps = data.info, data.steps
    evaluation, test_info = evaluation_data(recipe, batch_size, data_dir)
    if verbose and engine.chief:
        print(info.summary(), test_info.summary(), sep="\n")

    # Here and not before: writing a data set draws from the same generators.
    keras.utils.set_random_seed(recipe.seed)
    with engine.scope():
        model = build(recipe, steps, load_weights=checkpoint is None)
    if checkpoint is not None:
        images = np.zeros((batch_size, recipe.size, recipe.size, 3), "float32")
        labels = np.zeros((batch_size, recipe.classes), "float32")
        restore_state(model, checkpoint.arrays, batch=(images, labels))

    flag = SignalFlag()
    evaluate = EvaluateEachEpoch(
        lambda model: Evaluation(model, engine, batch_size),
        evaluation,
        with_average=recipe.ema_decay is not None,
        progress=progress_bar(test_info.examples, batch_size)
        if verbose
        else None,
    )
    track = KeepTrack(
        steps,
        run.path is not None,
        run.checkpoints,
        run.metadata,
        save_every,
        flag,
        engine.workers,
        checkpoint,
        run.log,
    )
    report = _ReportCorrupt(data, test_info.corrupt, verbose)
    own = [evaluate, *callbacks, *run.callbacks(), track, report]

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
        epoch, behind = divmod(step, steps)
        if behind:  # The rest of the epoch in which the run was stopped.
            fit(epoch, epoch + 1, steps - behind)
            epoch += 1
        if epoch < recipe.epochs:
            fit(epoch, recipe.epochs, steps)
    if not step < recipe.epochs * steps:
        # All was done before: only the average's model is to be made.
        evaluate.set_model(model)
        evaluate.evaluate()

    last = track.history[-1]
    result = TrainingResult(
        model=model,
        history=_by_name(track.history),
        accuracy=last["val_accuracy"],
        loss=last["val_loss"],
        label_names=info.label_names,
        examples=test_info.examples,
        ema_model=evaluate.average,
        ema_accuracy=last.get("ema_val_accuracy"),
        corrupt=report.lines(),
        steps=track.step,
    )
    run.finish(result)
    return result


def build(recipe, steps_per_epoch, load_weights=True):
    """The recipe's model, compiled with its optimizer and loss.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Steps of `fit` in one epoch.
        load_weights: Whether to load the weights that the recipe starts
            from.

    Raises:
        ValueError: If the weights do not fit, or the devices cannot do what
            the recipe asks for.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        model = NFNet(
            recipe.model,
            weights=None,
            classes=recipe.classes,
            input_shape=_input_shape(recipe),
            name=recipe.name,
            drop_rate=recipe.drop_rate,
            stochastic_depth_rate=recipe.stochastic_depth_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)
    if recipe.weights is not None and load_weights:
        from keras_nfnet.weights import load
        from keras_nfnet.weights.load import classes_in

        classes = classes_in(recipe.weights)
        load(model, recipe.weights, new_head=classes != recipe.classes)
    parts = recipe.gradient_accumulation_steps or 1
    steps_per_epoch //= parts
    model.compile(
        optimizer=SGDAGC(
            WarmupCosine(
                recipe.peak_learning_rate,
                total_steps=recipe.epochs * steps_per_epoch,
                warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            ),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            clipping=recipe.clipping,
            eps=recipe.eps,
            ema_decay=recipe.ema_decay,
            gradient_accumulation_steps=parts if parts > 1 else None,
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        sam_rho=recipe.sam_rho,
        sam_fraction=recipe.sam_fraction,
    )
    return model


class _ReportCorrupt(keras.callbacks.Callback):
    """Says at the end of each epoch what could not be decoded."""

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


def _input_shape(recipe):
    if recipe.test_size in (None, recipe.size):
        return (recipe.size, recipe.size, 3)
    return None  # Trained and tested at different sizes.


def _by_name(history):
    names = dict.fromkeys(name for row in history for name in row)
    return {name: [row.get(name) for row in history] for name in names}
