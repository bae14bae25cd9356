"""The TensorFlow module and the signatures of a SavedModel."""

import os

import tensorflow as tf

from keras_nfnet.data import graph_preprocessing as graph


def serving_signatures(
    model, labels, *, size, margin, top, probabilities, scratch
):
    """Traces the two signatures of a classifier.

    Args:
        model: A folded Keras model on normalized images.
        labels: One string per class.
        size: `(height, width)` that encoded pictures are brought to.
        margin: Pixels to resize beyond `size` before the centre crop.
        top: How many classes `serve_bytes` names.
        probabilities: A function from the model's outputs to probabilities
            `(batch, classes)`.
        scratch: A directory for the label file until the module is saved.

    Returns:
        A `tf.Module` that owns all that is to be saved, and the concrete
        functions by signature name.
    """
    module = tf.Module()
    # The variables alone: tracking the Keras model too would add its own
    # traced functions and a second set of checkpoint keys.
    module.model_variables = [variable.value for variable in model.variables]
    label_file = os.path.join(scratch, "labels.txt")
    with open(label_file, "w", encoding="utf-8") as file:
        file.writelines(f"{label}\n" for label in labels)
    module.labels = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            label_file,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        ),
        default_value="",
    )

    def answers(images):
        # An empty batch becomes one black picture and is cut again:
        # TensorFlow 2.21's oneDNN convolutions fail on it.
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        images = tf.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        outputs = model(graph.normalize(images), training=False)
        return probabilities(outputs)[:count]

    def view(encoded):
        image = graph.decode_without_python(encoded)
        return graph.evaluation_view(image, size, margin)

    @tf.function(
        input_signature=[
            tf.TensorSpec(
                (None, *model.inputs[0].shape[1:]), tf.float32, name="images"
            )
        ]
    )
    def serve_images(images):
        return {"probabilities": answers(images)}

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
    )
    def serve_bytes(image_bytes):
        images = tf.map_fn(
            view,
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )
        outputs = answers(images)
        scores, indices = tf.math.top_k(outputs, k=top)
        return {
            "probabilities": outputs,
            "classes": module.labels.lookup(tf.cast(indices, tf.int64)),
            "scores": scores,
        }

    module.serve_images = serve_images
    module.serve_bytes = serve_bytes
    return module, {
        "serving_default": serve_images.get_concrete_function(),
        "serve_bytes": serve_bytes.get_concrete_function(),
    }
