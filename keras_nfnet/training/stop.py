"""Ways in which a run ends before its last step."""

import contextlib
import os
import signal
import threading


class TrainingStopped(Exception):
    """A signal ended the run, after a checkpoint if it keeps them.

    Attributes:
        step: Steps made.
        signal: Number of the signal.
        saved: Whether they are in a checkpoint.
    """

    def __init__(self, step, number, saved):
        self.step = step
        self.signal = number
        self.saved = saved
        super().__init__(
            f"Stopped at step {step:,}, "
            + (
                "which is saved; the same command goes on from there"
                if saved
                else "of which nothing is kept, without a directory"
            )
        )


class TrainingDiverged(ValueError):
    """A weight is not finite, or too many steps were skipped."""


def _say(line):
    """Writes a line to the console, from within a signal handler."""
    # `print` fails where the signal interrupted another `print`. A console
    # that is gone must not keep the run from saving.
    with contextlib.suppress(OSError):
        os.write(2, f"keras-nfnet: {line}\n".encode())


class SignalFlag:
    """Remembers SIGTERM and SIGINT until a step has ended.

    Attributes:
        number: The signal that came, or `None`.
        stepped: Whether a step was made, which is to be saved. A signal
            before the first one, which may take minutes to compile, acts as
            usual.
    """

    def __init__(self):
        self.number = None
        self.stepped = False

    def note_step(self, batch, logs=None):
        """Notes that a step was made; a callback's `on_train_batch_end`."""
        self.stepped = True

    @contextlib.contextmanager
    def watching(self):
        """Catches the signals; a second one of them acts as usual.

        A signal whose handler was not set by Python, but by the program
        that Python is part of, is left to that program: Python could not
        put the handler back.
        """
        # Python lets only the main thread handle signals.
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {}

        def remember(number, _frame):
            for caught, handler in before.items():
                signal.signal(caught, handler)
            name = signal.Signals(number).name
            if self.stepped:
                self.number = number
                _say(f"{name}: the run saves its state after this step")
            else:
                _say(f"{name}: the run ends at once; it has made no new step")
                os.kill(os.getpid(), number)

        for caught in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(caught) is not None:
                before[caught] = signal.signal(caught, remember)
        try:
            yield self
        finally:
            for caught, handler in before.items():
                signal.signal(caught, handler)
