"""What a SavedModel serves: its signatures, and requests that warm it up."""

import os

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_nfnet.data import graph_preprocessing as graph

# Where TensorFlow Serving looks for requests that it replays before it takes
# others.
WARM_UP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# How many classes `serve_bytes` names.
_TOP = 5


def serving_signatures(model, export, answers, scratch):
    """Traces the signatures of a model.

    Args:
        model: A folded Keras model.
        export: The `Export`: labels, size, margin and contract.
        answers: A function from the model's outputs to what is answered,
            `{name: tensor}`.
        scratch: A directory for the label file until the module is saved.

    Returns:
        A `tf.Module` that owns all that is to be saved, and the concrete
        functions by signature name.

    Raises:
        ValueError: If a server would have to compile a part of it.
    """
    labels, contract = export.labels, export.contract
    module = tf.Module()
    # The variables alone: tracking the Keras model too would add its own
    # traced functions and a second set of checkpoint keys.
    module.model_variables = [variable.value for variable in model.variables]
    if labels is not None:
        label_file = os.path.join(scratch, "labels.txt")
        with open(label_file, "w", encoding="utf-8") as file:
            file.writelines(f"{label}\n" for label in labels)
        lookup = tf.lookup.TextFileInitializer(
            label_file,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        )
        module.labels = tf.lookup.StaticHashTable(lookup, default_value="")

    def answered(images):
        # An empty batch becomes one black image and is cut again:
        # TensorFlow 2.21's oneDNN convolutions fail on it.
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        images = tf.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        outputs = answers(model(contract.images(images), training=False))
        return {name: value[:count] for name, value in outputs.items()}

    def view(encoded):
        image = graph.decode(encoded)
        return graph.evaluation_view(image, export.size, export.margin)

    shape = (None, *model.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, name="images")])
    def serve_images(images):
        # TensorFlow Serving does not compare shapes with the signature's.
        return answered(tf.ensure_shape(images, shape))

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
    )
    def serve_bytes(image_bytes):
        seen = tf.TensorSpec((*export.size, 3))
        images = tf.map_fn(view, image_bytes, fn_output_signature=seen)
        outputs = answered(contract.pixels(images))
        if labels is not None:
            top = min(_TOP, len(labels))
            scores, indices = tf.math.top_k(outputs["probabilities"], k=top)
            classes = module.labels.lookup(tf.cast(indices, tf.int64))
            outputs.update(classes=classes, scores=scores)
        return outputs

    module.serve_images = serve_images
    signatures = {"serving_default": serve_images.get_concrete_function()}
    # Of other numbers of channels there are no encoded images.
    if contract.channels in (1, 3):
        module.serve_bytes = serve_bytes
        signatures["serve_bytes"] = serve_bytes.get_concrete_function()
    for signature in signatures.values():
        _refuse_compiled(signature.graph.as_graph_def())
    return module, signatures


def _refuse_compiled(graph):
    """Refuses a graph with a part that the server would have to compile.

    Raises:
        ValueError: Naming the operation.
    """
    parts = [("operation", node.name, node.attr) for node in graph.node]
    for function in graph.library.function:
        parts.append(("function", function.signature.name, function.attr))
        parts += [("operation", x.name, x.attr) for x in function.node_def]
    for kind, name, attributes in parts:
        if "_XlaMustCompile" in attributes and attributes["_XlaMustCompile"].b:
            raise ValueError(
                "`model` must not need XLA, which a server may lack (Keras's "
                "own grouped convolutions do). Received: the compiled "
                f"{kind} {name!r}"
            )


def write_warm_up(directory, image, contract, signatures):
    """Adds one request of each signature to a SavedModel.

    Args:
        directory: Of the SavedModel.
        image: uint8 `(height, width, 3)`.
        contract: The model's `Contract`.
        signatures: Names of the signatures.
    """
    pixels = contract.pixels(image[None].astype("float32"))
    encoded = tf.io.encode_jpeg(image)[None]
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
