"""The devices that a run trains on, one way for every engine.

An engine has:

- `replicas`, `workers`, `worker`: how many devices and processes there are,
  and which process this is; `chief` is process 0, which alone writes files;
- `scope()`: where models are built and trained;
- `distributed(part)`: the training data for `fit`, from a function that
  gives the `index`th of `count` equal parts of every global batch;
- `summed(function, model)`: a function of `(images, labels, rows)` that sums
  `function` of the model's outputs, labels and rows over all devices. Each
  device has its rows of the three; the sum is on all of them.
"""

import keras

from keras_nfnet.training.recipe import STRATEGIES


def engine_for(strategy="auto", batch_size=None):
    """The engine of a strategy on the present backend.

    Args:
        strategy: `"one"` device; `"mirrored"`, all devices of this machine;
            `"multi_worker"`, several processes; `"tpu"`; or `"auto"`, which
            takes what is there. On the TensorFlow backend these are
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
        from keras_nfnet.training.torch_engine import TorchEngine

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
