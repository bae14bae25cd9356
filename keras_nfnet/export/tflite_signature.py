"""The signature of a TFLite file: names for its input and its outputs.

TensorFlow's converter writes one only for a whole SavedModel, which takes
twice the memory of concrete functions with stand-ins for the weights.
"""

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

KEY = "serving_default"
# What the flatbuffer library can build, with room for what is added.
_LARGEST = 2**31 - 2**24


def with_signature(content, outputs):
    """A TFLite file with the signature `serving_default`.

    Args:
        content: The file's bytes.
        outputs: Names of the outputs, sorted as TensorFlow sorts a
            dictionary's.

    Returns:
        The new file's bytes. A file near 2 GB stays as it is.
    """
    if len(content) > _LARGEST:
        return content
    model = flatbuffer_utils.read_model_from_bytearray(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = KEY.encode()
    signature.subgraphIndex = 0
    signature.inputs = [_named("images", graph.inputs[0])]
    signature.outputs = [
        _named(name, index)
        for name, index in zip(outputs, graph.outputs, strict=True)
    ]
    model.signatureDefs = [signature]
    return flatbuffer_utils.convert_object_to_bytearray(model)


def _named(name, tensor):
    entry = schema.TensorMapT()
    entry.name = name.encode()
    entry.tensorIndex = int(tensor)
    return entry
