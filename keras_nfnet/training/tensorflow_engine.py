"""`tf.distribute`'s strategies."""

import json
import os

import tensorflow as tf

from keras_nfnet.training.distribution import Engine


class TensorFlowEngine(Engine):
    """One of `tf.distribute`'s strategies, which a model keeps itself."""

    def __init__(self, name):
        self.strategy = _strategy(_chosen(name))
        self.replicas = self.strategy.num_replicas_in_sync
        resolver = self.strategy.cluster_resolver
        cluster = resolver.cluster_spec() if resolver else None
        self.workers = max(1, cluster.num_tasks("worker")) if cluster else 1
        self.worker = (resolver.task_id or 0) if resolver else 0
        if isinstance(self.strategy, tf.distribute.TPUStrategy):
            self.workers = self.strategy.extended.num_hosts
            self.worker = 0  # One process drives all hosts.

    def scope(self):
        return self.strategy.scope()

    def distributed(self, part):
        if self.replicas == 1:
            return part(0, 1)

        def of_worker(context):
            count = context.num_input_pipelines
            replicas = context.num_replicas_in_sync // count
            dataset = part(context.input_pipeline_id, count)
            batch = dataset.element_spec[0].shape[0]
            return dataset.rebatch(batch // replicas, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(of_worker)

    def summed(self, function, model):
        strategy = self.strategy

        def part_of(array):
            # Each replica takes its rows of the global batch.
            context = tf.distribute.get_replica_context()
            rows = tf.shape(array)[0] // context.num_replicas_in_sync
            start = context.replica_id_in_sync_group * rows
            return array[start : start + rows]

        def of_replica(images, labels, rows):
            outputs = model(part_of(images), training=False)
            return function(outputs, part_of(labels), part_of(rows))

        @tf.function
        def over_replicas(images, labels, rows):
            sums = strategy.run(of_replica, args=(images, labels, rows))
            return strategy.reduce("SUM", sums, axis=None)

        return over_replicas


def _chosen(name):
    if name != "auto":
        return name
    if len(_workers()) > 1:
        return "multi_worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return "mirrored"
    return "one"


def _workers():
    try:
        config = json.loads(os.environ.get("TF_CONFIG", "{}"))
        return config.get("cluster", {}).get("worker", [])
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON with a cluster and a task, see "
            f"tf.distribute. Received: {os.environ['TF_CONFIG']!r}"
        ) from error


def _strategy(name):
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    if name == "multi_worker":
        if not _workers():
            raise ValueError(
                'strategy="multi_worker" needs the environment variable '
                "TF_CONFIG, which names the workers. Received: none"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        # NOTE: written for Cloud TPU with TensorFlow 2.19, and never run.
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                tpu=os.environ.get("TPU_NAME", "local")
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return tf.distribute.TPUStrategy(resolver)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise ValueError(
                'strategy="tpu" needs a TPU, and a TensorFlow with TPU '
                "support (tensorflow-tpu, up to 2.20); on newer ones use the "
                f"JAX backend. Received: {error}"
            ) from error
    return tf.distribute.get_strategy()
