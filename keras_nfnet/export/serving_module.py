"""The TensorFlow module and the signatures of a SavedModel."""

import os

import tensorflow as tf

from keras_nfnet.data import graph_preprocessing as graph


def serving_signatures(
    model, labels, *, size, margin, contract, top, answers, scratch
):
    """Traces the signatures of a model.

    Args:
        model: A folded Keras model.
        labels: One string per class, or `None` of feature maps.
        size: `(height, width)` that encoded pictures are brought to.
        margin: Pixels to resize beyond `size` before the centre crop.
        contract: The model's `Contract`.
        top: How many classes `serve_bytes` names.
        answers: A function from the model's outputs to what is answered,
            `{name: tensor}`.
        scratch: A directory for the label file until the module is saved.

    Returns:
        A `tf.Module` that owns all that is to be saved, and the concrete
        functions by signature name.
    """
    module = tf.Module()
    # The variables alone: tracking the Keras model too would add its own
    # traced functions and a second set of checkpoint keys.
    module.model_variables = [variable.value for variable in model.variables]
    if labels is not None:
        module.labels = _table(labels, scratch)

    def answered(images):
        # An empty batch becomes one black picture and is cut again:
        # TensorFlow 2.21's oneDNN convolutions fail on it.
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        images = tf.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        outputs = answers(model(contract.images(images), training=False))
        return {name: value[:count] for name, value in outputs.items()}

    def view(encoded):
        image = graph.decode(encoded)
        return graph.evaluation_view(image, size, margin)

    shape = (None, *model.inputs[0].shape[1:])

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32, name="images")]
    )
    def serve_images(images):
        # TensorFlow Serving does not compare shapes with the signature's.
        return answered(tf.ensure_shape(images, shape))

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
    )
    def serve_bytes(image_bytes):
        images = tf.map_fn(
            view,
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )
        outputs = answered(contract.pixels(images))
        if labels is not None:
            scores, indices = tf.math.top_k(outputs["probabilities"], k=top)
            classes = module.labels.lookup(tf.cast(indices, tf.int64))
            outputs.update(classes=classes, scores=scores)
        return outputs

    module.serve_images = serve_images
    signatures = {"serving_default": serve_images.get_concrete_function()}
    # Of other numbers of channels there are no encoded pictures.
    if contract.channels in (1, 3):
        module.serve_bytes = serve_bytes
        signatures["serve_bytes"] = serve_bytes.get_concrete_function()
    return module, signatures


def _table(labels, scratch):
    label_file = os.path.join(scratch, "labels.txt")
    with open(label_file, "w", encoding="utf-8") as file:
        file.writelines(f"{label}\n" for label in labels)
    return tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            label_file,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        ),
        default_value="",
    )
