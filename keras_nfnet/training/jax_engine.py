"""`keras.distribution` on JAX, the way Keras trains on TPUs."""

import contextlib
import functools
import os

import jax
import keras
import numpy as np

from keras_nfnet.training.distribution import Engine

_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"


class JaxEngine(Engine):
    """One device, or data parallelism over all of them."""

    def __init__(self, name):
        if name in ("auto", "multi_worker", "tpu") and _processes() > 1:
            _connect()
        elif name == "multi_worker" and jax.process_count() < 2:
            raise ValueError(
                'strategy="multi_worker" needs the environment variables '
                "KERAS_DISTRIBUTION_JOB_ADDRESSES, …_NUM_PROCESSES and "
                "…_PROCESS_ID, which name the processes. Received: none"
            )
        if name == "tpu" and jax.default_backend() != "tpu":
            raise ValueError(
                'strategy="tpu" needs a TPU and jax[tpu]. Received: JAX on '
                f"{jax.default_backend()}"
            )
        self.workers = jax.process_count()
        self.worker = jax.process_index()
        devices = jax.devices()
        if name == "one" or (name == "auto" and len(devices) == 1):
            self._distribution = None
        else:
            self.replicas = len(devices)
            self._distribution = keras.distribution.DataParallel(
                devices=keras.distribution.list_devices(),
                # Each process reads its own part, see `distributed`.
                auto_shard_dataset=False,
            )

    def scope(self):
        if self._distribution is None:
            return contextlib.nullcontext()
        return self._distribution.scope()

    def running(self):
        return self.scope()

    def distributed(self, part):
        if self._distribution is None:
            return part(0, 1)
        return part(self.worker, self.workers)

    def summed(self, function, model):
        # Every device of every process gets the whole sum.
        everywhere = None
        if self._distribution is not None:
            mesh = self._distribution.device_mesh
            layout = keras.distribution.TensorLayout((None, None), mesh)
            everywhere = layout.backend_layout

        @functools.partial(jax.jit, out_shardings=everywhere)
        def over_devices(trainable, non_trainable, images, labels, rows):
            outputs, _ = model.stateless_call(
                trainable, non_trainable, images, training=False
            )
            return function(outputs, labels, rows)

        def run(images, labels, rows):
            return over_devices(
                [variable.value for variable in model.trainable_variables],
                [variable.value for variable in model.non_trainable_variables],
                *map(self._spread, (images, labels, rows)),
            )

        return run

    def _spread(self, array):
        array = np.asarray(array)
        if self._distribution is None:
            return array
        rows = len(array) // self.workers
        layout = self._distribution.get_data_layout(array.shape)
        return jax.make_array_from_process_local_data(
            layout.backend_layout,
            array[self.worker * rows : (self.worker + 1) * rows],
        )


def _processes():
    text = os.environ.get(_PROCESSES, "1")
    if not text.isdigit() or not int(text):
        raise ValueError(f"{_PROCESSES} must be a number. Received: {text!r}")
    return int(text)


def _connect():
    if jax.distributed.is_initialized():
        return
    try:
        keras.distribution.initialize()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "The processes that KERAS_DISTRIBUTION_… names could not be "
            f"joined: {error}"
        ) from error
