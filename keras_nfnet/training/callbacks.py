"""What happens during `fit`: evaluation, the log, checkpoints."""

import collections
import csv
import math

import keras
import numpy as np
from keras import ops

from keras_nfnet.models.classifier import clipped_by_stage
from keras_nfnet.models.train_step import skipped_steps
from keras_nfnet.training.ema import ema_model
from keras_nfnet.training.state import restore_state, state_of
from keras_nfnet.training.stop import TrainingDiverged, TrainingStopped
from keras_nfnet.utils.files import replacing

# Steps between two looks at the logs, each of which waits for the device.
_LOOK_EVERY = 10
# Optimizer steps of which `Recipe.max_skipped_steps` may be skipped.
_WINDOW = 100


class _Interrupted(Exception):
    """A signal came within an evaluation."""


class EvaluateEachEpoch(keras.callbacks.Callback):
    """Adds `val_…` to an epoch's logs, and `ema_val_…` for the average.

    And `clipped_stem` … `clipped_head`, the fractions of units that the last
    step clipped, by stage.

    Args:
        evaluation: A function from a model to an `Evaluation` of it.
        dataset: The batches to evaluate on.
        with_average: Whether the optimizer keeps an average.
        progress: A function that wraps batches, or `None`.
        track: The run's `KeepTrack`, which a signal tells to stop within an
            evaluation; `None` lets evaluations end.
    """

    def __init__(
        self, evaluation, dataset, with_average, progress=None, track=None
    ):
        super().__init__()
        self._track = track
        self._make = evaluation
        self._dataset = dataset
        self._with_average = with_average
        self._progress = progress
        self._evaluations = {}
        self.average = None

    def on_epoch_end(self, epoch, logs=None):
        fractions = clipped_by_stage(self.model.optimizer)
        logs.update({k: float(v) for k, v in fractions.items()})
        try:
            logs.update(self.evaluate(self._stoppable))
        except _Interrupted:  # The run ends; it evaluates when it goes on.
            self._track.stop_before_evaluation(logs)

    def _stoppable(self, batches):
        for batch in self._progress(batches) if self._progress else batches:
            if self._track is not None and self._track.is_told_to_stop:
                raise _Interrupted
            yield batch

    def evaluate(self, progress=None):
        """`{"val_loss": …, "ema_val_loss": …}` of the model as it is."""
        progress = progress or self._progress
        logs = self._evaluate(self.model, "val", progress)
        if self._with_average:
            self.average = ema_model(self.model, into=self.average)
            logs.update(self._evaluate(self.average, "ema_val", progress))
        return logs

    def _evaluate(self, model, prefix, progress):
        if prefix not in self._evaluations:
            self._evaluations[prefix] = self._make(model)
        logs = self._evaluations[prefix](self._dataset, progress)
        return {f"{prefix}_{name}": value for name, value in logs.items()}


class NoteStep(keras.callbacks.Callback):
    """Tells a `SignalFlag` of each step, before any other callback runs.

    Args:
        flag: The `SignalFlag`.
    """

    def __init__(self, flag):
        super().__init__()
        self._flag = flag

    def on_train_batch_end(self, batch, logs=None):
        self._flag.stepped = True


class KeepTrack(keras.callbacks.Callback):
    """Counts steps, and saves checkpoints so that a run can be resumed.

    A checkpoint is saved every `save_every` steps, at the end of each epoch,
    and where a signal came. The run ends where too many steps were skipped,
    where no step of an epoch counts, and where a weight is not finite; then
    the last good checkpoint stays.

    Args:
        steps_per_epoch: Steps of one epoch.
        keeps: Whether the run keeps checkpoints.
        checkpoints: A `Checkpoints` to save to, or `None` if another
            process saves them.
        metadata: What is saved with each checkpoint.
        save_every: Steps between checkpoints.
        flag: A `SignalFlag`.
        workers: Processes of the run. All of them gather the state, since
            that sums metrics over them, at the same steps; so with several a
            signal waits for the next checkpoint that is due.
        checkpoint: The `Checkpoint` to go on from, or `None`.
        log: Path of the CSV to write, or `None`.
        max_skipped_steps: See `Recipe`.
        parts: Steps of `fit` in one step of the optimizer.

    Attributes:
        step: Steps made since the run began, in whichever process.
        history: One `{name: value}` for each whole epoch.
        unevaluated: The logs of an epoch whose evaluation was interrupted,
            or `None`.
        ended: Whether the run was over before it was resumed.
    """

    def __init__(
        self,
        steps_per_epoch,
        keeps,
        checkpoints,
        metadata,
        save_every,
        flag,
        workers=1,
        checkpoint=None,
        log=None,
        max_skipped_steps=10,
        parts=1,
    ):
        super().__init__()
        self._steps_per_epoch = steps_per_epoch
        self._keeps = keeps
        self._checkpoints = checkpoints
        self._alone = workers == 1
        # One of several workers waits for the others.
        flag.stepped = not self._alone
        self._metadata = metadata
        self._save_every = save_every
        self._flag = flag
        self._log = log
        self._begun = checkpoint
        self._max_skipped = max_skipped_steps
        self._window = _WINDOW * parts
        self._looks = collections.deque()
        metadata = checkpoint.metadata if checkpoint else {}
        self.step = checkpoint.step if checkpoint else 0
        self.history = metadata.get("history", [])
        self.ended = metadata.get("ended", False)
        self.unevaluated = metadata.get("unevaluated")

    def on_train_begin(self, logs=None):
        if not self._looks:
            skipped = int(skipped_steps(self.model.optimizer))
            self._looks.append((self.step, skipped))

    def on_epoch_begin(self, epoch, logs=None):
        # Keras has just reset the metrics: put back those of the steps that
        # this epoch has behind it.
        if self._begun is not None and self.step % self._steps_per_epoch:
            restore_state(self.model, self._begun.arrays)
        self._begun = None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        due = self._keeps and self.step % self._save_every == 0
        stopped = self._flag.number is not None and (self._alone or due)
        if stopped or due or self.step % _LOOK_EVERY == 0:
            self._refuse_skips(logs)
        # The end of an epoch saves, and stops, after its evaluation.
        if (stopped or due) and self.step % self._steps_per_epoch:
            self._save()
            self._stop_if_told()

    def on_epoch_end(self, epoch, logs=None):
        self._refuse_epoch(logs)
        self.end_epoch(logs, ended=self.model.stop_training)
        self._stop_if_told()

    def end_epoch(self, logs, ended=False):
        """Keeps the logs of a whole epoch, and saves."""
        self.unevaluated = None
        self.history.append(_plain(logs))
        self._save(ended)
        if self._log:
            write_log(self._log, self.history)

    @property
    def is_told_to_stop(self):
        """Whether the run can and shall stop where it is."""
        return self._flag.number is not None and self._alone

    def stop_before_evaluation(self, logs):
        """Saves the end of an epoch that is not evaluated yet, and stops.

        Raises:
            TrainingStopped: Always.
        """
        self._refuse_epoch(logs)
        self.unevaluated = _plain(logs)
        self._save()
        self._stop_if_told()

    def _refuse_epoch(self, logs):
        self._refuse_skips(logs)
        self.refuse_weights()
        if not math.isfinite(float(logs["loss"])):
            raise self._diverged("no step of the epoch had a finite loss")

    def save_the_end(self):
        """Saves the weights as the last callback left them."""
        self._save(ended=True)

    def refuse_weights(self):
        """Refuses weights that are not finite.

        Raises:
            TrainingDiverged: Naming the first.
        """
        if keras.backend.backend() == "jax":
            # Within `fit` the values are with the loop.
            self.model.jax_state_sync()
        for variable in self.model.weights:
            if not bool(ops.all(ops.isfinite(ops.cast(variable, "float32")))):
                raise self._diverged(
                    f"the weights {variable.path!r} are not finite"
                )

    def _stop_if_told(self):
        if self._flag.number is not None:
            raise TrainingStopped(self.step, self._flag.number, self._keeps)

    def _save(self, ended=False):
        if not self._keeps:
            return
        arrays = state_of(self.model)
        for name, array in arrays.items():
            # Others, such as `clipped_units`, say NaN for a skipped step.
            if name.startswith("model/") and not np.isfinite(array).all():
                raise self._diverged(f"the weights {name!r} are not finite")
        if self._checkpoints is not None:
            metadata = {**self._metadata, "history": self.history}
            if ended:
                metadata["ended"] = True
            if self.unevaluated is not None:
                metadata["unevaluated"] = self.unevaluated
            self._checkpoints.save(self.step, arrays, metadata)

    def _refuse_skips(self, logs):
        now = int(logs["skipped_steps"])
        self._looks.append((self.step, now))
        while self._looks[0][0] < self.step - self._window:
            self._looks.popleft()
        skipped = now - self._looks[0][1]
        if skipped > self._max_skipped:
            self.refuse_weights()
            raise self._diverged(
                f"{skipped} of the last {_WINDOW} optimizer steps were "
                "skipped, because their gradient was not finite "
                f"(max_skipped_steps={self._max_skipped})"
            )

    def _diverged(self, what):
        kept = ""
        if self._keeps:
            kept = ". The last good checkpoint is kept"
        return TrainingDiverged(
            f"Training has diverged: at step {self.step:,} {what}{kept}. Try "
            "a lower `learning_rate`, a smaller `clipping`, or another "
            "`precision`"
        )


def write_log(path, history):
    """Writes one row per epoch to a CSV, whole or not at all."""
    names = ["epoch", *dict.fromkeys(name for row in history for name in row)]
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for epoch, row in enumerate(history, 1):
                writer.writerow({"epoch": epoch, **row})


def _plain(logs):
    """Logs as JSON can hold them."""
    return {name: _finite_or_none(value) for name, value in logs.items()}


def _finite_or_none(value):
    value = float("nan" if value is None else value)
    return value if math.isfinite(value) else None
