"""PyTorch, on the one device that Keras takes."""

import contextlib

import torch
from keras import ops


class TorchEngine:
    """One device; see `distribution.py`."""

    replicas = workers = 1
    worker = 0
    chief = True

    def __init__(self, name):
        if name not in ("auto", "one"):
            raise ValueError(
                "On the PyTorch backend `strategy` must be 'auto' or 'one'; "
                "TensorFlow and JAX train on several devices. "
                f"Received: strategy={name!r}"
            )

    def scope(self):
        """Where models are built."""
        return contextlib.nullcontext()

    def running(self):
        """Where models are trained."""
        return contextlib.nullcontext()

    def distributed(self, part):
        """Data for `fit`; `part(index, count)` gives parts of batches."""
        return part(0, 1)

    def summed(self, function, model):
        """Sums `function(model's outputs, labels, rows)`."""

        @torch.no_grad()
        def run(*arrays):
            images, *others = map(ops.convert_to_tensor, arrays)
            sums = function(model(images, training=False), *others)
            return ops.convert_to_numpy(sums)

        return run
