"""What happens during `fit`: evaluation, the log, checkpoints."""

import collections
import math

import keras
from keras import ops

from keras_nfnet.models.classifier import clipped_by_stage
from keras_nfnet.models.train_step import skipped_steps
from keras_nfnet.training.ema import ema_model
from keras_nfnet.training.evaluate import Evaluation
from keras_nfnet.training.state import restore_state, state_of
from keras_nfnet.training.stop import TrainingDiverged, TrainingStopped

# Steps between two looks at the logs, each of which waits for the device.
_LOOK_EVERY = 10
# Optimizer steps of which `Recipe.max_skipped_steps` may be skipped.
_WINDOW = 100


class EvaluateEachEpoch(keras.callbacks.Callback):
    """Adds `val_…` to an epoch's logs, and `ema_val_…` for the average.

    And `clipped_stem` … `clipped_head`, the fractions of units that the last
    step clipped, by stage.

    Args:
        engine: The `Engine`.
        dataset: The batches to evaluate on.
        batch_size: Images of one global batch.
        with_average: Whether the optimizer keeps an average.
        progress: A function that wraps batches.
        track: The run's `KeepTrack`. A signal tells it to stop within an
            evaluation.
    """

    def __init__(
        self, engine, dataset, batch_size, with_average, progress, track
    ):
        super().__init__()
        self._engine = engine
        self._dataset = dataset
        self._batch_size = batch_size
        self._with_average = with_average
        self._progress = progress
        self._track = track
        self._evaluations = {}
        self.average = None

    def on_epoch_end(self, epoch, logs=None):
        fractions = clipped_by_stage(self.model.optimizer)
        logs.update({k: float(v) for k, v in fractions.items()})

        def stoppable(batches):
            for batch in self._progress(batches):
                # The run evaluates when it is resumed.
                if self._track.is_told_to_stop:
                    self._track.stop_before_evaluation(logs)
                yield batch

        logs.update(self.evaluate(stoppable))

    def evaluate(self, progress=None):
        """`{"val_loss": …, "ema_val_loss": …}` of the model as it is."""
        models = {"val": self.model}
        if self._with_average:
            self.average = ema_model(self.model, into=self.average)
            models["ema_val"] = self.average
        logs = {}
        for prefix, model in models.items():
            if prefix not in self._evaluations:
                self._evaluations[prefix] = Evaluation(
                    model, self._engine, self._batch_size
                )
            evaluation = self._evaluations[prefix]
            found = evaluation(self._dataset, progress or self._progress)
            logs.update({f"{prefix}_{k}": value for k, value in found.items()})
        return logs


class KeepTrack(keras.callbacks.Callback):
    """Counts steps, and saves checkpoints so that a run can be resumed.

    A checkpoint is saved every `save_every` steps, at the end of each epoch,
    and where a signal came. The run ends where too many steps were skipped,
    where no step of an epoch counts, and where a weight is not finite; then
    the last good checkpoint stays.

    Args:
        run: The `RunDirectory`.
        recipe: The `Recipe`.
        steps_per_epoch: Steps of one epoch.
        save_every: Steps between checkpoints.
        flag: A `SignalFlag`.
        workers: Processes of the run. All of them gather the state, since
            that sums metrics over them, at the same steps; so with several a
            signal waits for the next checkpoint that is due.
        checkpoint: The `Checkpoint` to go on from, or `None`.

    Attributes:
        step: Steps made since the run began, in whichever process.
        history: One `{name: value}` for each whole epoch.
        unevaluated: The logs of an epoch whose evaluation was interrupted,
            or `None`.
        ended: Whether the run was over before it was resumed.
    """

    def __init__(
        self,
        run,
        recipe,
        steps_per_epoch,
        save_every,
        flag,
        workers,
        checkpoint,
    ):
        super().__init__()
        self._run = run
        self._keeps = run.path is not None
        self._steps_per_epoch = steps_per_epoch
        self._save_every = save_every
        self._flag = flag
        self._alone = workers == 1
        # One of several workers waits for the others.
        flag.stepped = not self._alone
        self._begun = checkpoint
        self._max_skipped = recipe.max_skipped_steps
        self._window = _WINDOW * (recipe.gradient_accumulation_steps or 1)
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
            if self._keeps:
                self.refuse_weights()
            self.save()
            self._stop_if_told()

    def on_epoch_end(self, epoch, logs=None):
        self._refuse_epoch(logs)
        self.end_epoch(logs, ended=self.model.stop_training)
        self._stop_if_told()

    def end_epoch(self, logs, ended=False):
        """Keeps the logs of a whole epoch, and saves."""
        self.unevaluated = None
        self.history.append(_plain(logs))
        self.save(ended)
        self._run.write_log(self.history)

    @property
    def is_told_to_stop(self):
        """Whether a signal came and the run can stop at once."""
        return self._flag.number is not None and self._alone

    def stop_before_evaluation(self, logs):
        """Saves the end of an epoch that is not evaluated yet, and stops.

        Raises:
            TrainingStopped: Always.
        """
        self._refuse_epoch(logs)
        self.unevaluated = _plain(logs)
        self.save()
        self._stop_if_told()

    def _refuse_epoch(self, logs):
        self._refuse_skips(logs)
        self.refuse_weights()
        if not math.isfinite(float(logs["loss"])):
            raise self._diverged("no step of the epoch had a finite loss")

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

    def save(self, ended=False):
        """Saves a checkpoint, if the run keeps them.

        Args:
            ended: Whether the run is over.
        """
        if not self._keeps:
            return
        facts = {"history": self.history}
        if ended:
            facts["ended"] = True
        if self.unevaluated is not None:
            facts["unevaluated"] = self.unevaluated
        self._run.save(self.step, state_of(self.model), **facts)

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
        kept = ". The last good checkpoint is kept" if self._keeps else ""
        return TrainingDiverged(
            f"Training has diverged: at step {self.step:,} {what}{kept}. Try "
            "a lower `learning_rate`, a smaller `clipping`, or another "
            "`precision`"
        )


def _plain(logs):
    """Logs as JSON can hold them: what is not finite becomes `None`."""
    values = {k: math.nan if v is None else float(v) for k, v in logs.items()}
    return {k: v if math.isfinite(v) else None for k, v in values.items()}
