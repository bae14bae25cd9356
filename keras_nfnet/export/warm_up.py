"""Requests that TensorFlow Serving replays before it takes others."""

import os

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

# Where TensorFlow Serving looks for them.
WARM_UP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_warm_up(directory, picture, contract, signatures):
    """Adds one request of each signature to a SavedModel.

    Args:
        directory: Of the SavedModel.
        picture: uint8 `(height, width, 3)`.
        contract: The model's `Contract`.
        signatures: Names of the signatures.
    """
    pixels = contract.pixels(picture[None].astype("float32"))
    encoded = tf.io.encode_jpeg(picture)[None]
    path = os.path.join(directory, WARM_UP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as file:
        for signature, name, value in (
            ("serving_default", "images", pixels),
            ("serve_bytes", "image_bytes", encoded),
        ):
            if signature not in signatures:
                continue
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            file.write(log.SerializeToString())
