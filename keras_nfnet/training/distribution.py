"""The devices that a run trains on: one interface for all backends."""

import abc
import contextlib

import keras
from keras import ops

from keras_nfnet.training.recipe import STRATEGIES


class Engine(abc.ABC):
    """What every engine has; as it is here, for one device.

    Attributes:
        replicas: Number of devices.
        workers: Number of processes.
        worker: Index of this process. Process 0 is the `chief`, which alone
            writes files.
    """

    replicas = workers = 1
    worker = 0

    @property
    def chief(self):
        return self.worker == 0

    def scope(self):
        """Where models are built."""
        return contextlib.nullcontext()

    def running(self):
        """Where models are trained."""
        return contextlib.nullcontext()

    def distributed(self, part):
        """Training data for `fit`.

        Args:
            part: A function that returns the `index`th of `count` equal
                parts of every global batch.
        """
        return part(0, 1)

    @abc.abstractmethod
    def summed(self, function, model):
        """A function of `(images, labels, rows)`, summed over all devices.

        It sums `function(model's outputs, labels, rows)`. Each device gets
        its rows of the three, and the sum is on all devices. Every process
        must pass the same batches.
        """


class TorchEngine(Engine):
    """PyTorch, on the device that Keras chooses."""

    def __init__(self, name):
        if name not in ("auto", "one"):
            raise ValueError(
                "On the PyTorch backend `strategy` must be 'auto' or 'one'; "
                "TensorFlow and JAX train on several devices. "
                f"Received: strategy={name!r}"
            )

    def summed(self, function, model):
        import torch

        @torch.no_grad()
        def run(*arrays):
            images, *others = map(ops.convert_to_tensor, arrays)
            sums = function(model(images, training=False), *others)
            return ops.convert_to_numpy(sums)

        return run


def engine_for(strategy="auto", batch_size=None):
    """The engine of a strategy on the present backend.

    Args:
        strategy: `"one"` device; `"mirrored"`, all devices of this machine;
            `"multi_worker"`, several processes; `"tpu"`; or `"auto"`, which
            takes what is available. On the TensorFlow backend these are
            `tf.distribute`'s strategies, and `TF_CONFIG` says who the
            workers are; on JAX all but `"one"` are
            `keras.distribution.DataParallel` over all devices, and for
            several processes `KERAS_DISTRIBUTION_JOB_ADDRESSES`,
            `…_NUM_PROCESSES` and `…_PROCESS_ID` say who they are. PyTorch
            computes on one device.
        batch_size: The global batch, to be checked.

    Raises:
        ValueError: If the strategy is unknown, its devices are not there, or
            they do not divide the batch.

    Example:

    >>> engine = engine_for("mirrored", batch_size=256)
    >>> engine.replicas
    2

    TensorFlow creates several workers' strategy only before its first
    operation. NOTE: "tpu" was never run on a TPU.
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. "
            f"Received: strategy={strategy!r}"
        )
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_nfnet.training.tensorflow_engine import TensorFlowEngine

        engine = TensorFlowEngine(strategy)
    elif backend == "jax":
        from keras_nfnet.training.jax_engine import JaxEngine

        engine = JaxEngine(strategy)
    elif backend == "torch":
        engine = TorchEngine(strategy)
    else:
        raise ValueError(
            "Training needs the TensorFlow, the JAX or the PyTorch backend; "
            f"set KERAS_BACKEND. Received: the {backend} backend"
        )
    if batch_size is not None and batch_size % engine.replicas:
        raise ValueError(
            "`batch_size` must be a multiple of the number of replicas "
            f"({engine.replicas}). Received: batch_size={batch_size}, "
            f"strategy={strategy!r}"
        )
    return engine
