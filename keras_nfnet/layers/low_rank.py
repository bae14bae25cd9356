"""LoRA of a standardized kernel: Keras's, added before standardization.

So the sum of the kernel and the product of the factors is itself a kernel,
and merging, as in every file, changes nothing.

Reference: Hu et al., arXiv:2106.09685.
"""

import keras
from keras import ops


def full(variable):
    """A variable's value in float32 at least."""
    value = ops.convert_to_tensor(variable)
    if keras.backend.standardize_dtype(value.dtype) in ("float16", "bfloat16"):
        value = ops.cast(value, "float32")
    return value


def merged(layer, variable):
    """A variable's value in float32 at least, LoRA included.

    Args:
        layer: Its layer, with LoRA or without.
        variable: A variable; LoRA changes the one named `kernel`.
    """
    value = full(variable)
    if variable.name == "kernel" and getattr(layer, "lora_enabled", False):
        change = ops.matmul(
            full(layer.lora_kernel_a), full(layer.lora_kernel_b)
        )
        value = value + (layer.lora_alpha / layer.lora_rank) * change
    return value


def restart(layer):
    """Lets LoRA start anew, from a kernel that has it merged."""
    if getattr(layer, "lora_enabled", False):
        # The other factor stays: from two of zeros nothing would be learned.
        layer.lora_kernel_b.assign(ops.zeros(layer.lora_kernel_b.shape))
