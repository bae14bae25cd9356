"""LoRA of a standardized kernel: Keras's, added before standardization.

So the sum of the kernel and the product of the factors is itself a kernel,
and merging, as in every file, changes nothing.

Reference: Hu et al., arXiv:2106.09685.
"""

import keras
from keras import ops

from keras_nfnet.utils.arguments import integer


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


class LowRank:
    """LoRA for a layer with a `kernel`, a `gain` and a `bias`, saved by number.

    Put it before `keras.layers.Layer`.
    """

    lora_enabled = False

    def enable_lora(
        self,
        rank,
        lora_alpha=None,
        a_initializer="he_uniform",
        b_initializer="zeros",
    ):
        """Trains two factors of low rank in place of the kernel.

        As `keras.layers.Conv2D.enable_lora`: the kernel is
        `kernel + lora_alpha / rank * lora_kernel_a @ lora_kernel_b`. The sum
        is standardized. The gain and the bias are trained as before. A file
        has the sum, of a layer without LoRA.

        Args:
            rank: Rank of the factors, 1 or more.
            lora_alpha: Factor of their product, times `rank`; `None` for
                `rank`.
            a_initializer: Of `lora_kernel_a`, `(height, width, channels,
                rank)`.
            b_initializer: Of `lora_kernel_b`, `(rank, filters)`.

        Raises:
            ValueError: If `rank` is not a positive integer, the layer is not
                built, has a kernel constraint, or LoRA already.

        Reference: Hu et al., arXiv:2106.09685.
        """
        keras.layers.Conv2D.enable_lora(
            self,
            integer("rank", rank),
            lora_alpha=lora_alpha,
            a_initializer=a_initializer,
            b_initializer=b_initializer,
        )

    @property
    def _kernel(self):
        # What `keras.layers.Conv2D.enable_lora` asks for.
        return self.kernel

    def add_weight(self, *args, name=None, **kwargs):
        """As `keras.layers.Layer.add_weight`."""
        if name in ("lora_kernel_a", "lora_kernel_b"):
            kwargs["autocast"] = False
        return super().add_weight(*args, name=name, **kwargs)

    def save_own_variables(self, store):
        """Writes kernel, gain and bias by number; LoRA is merged."""
        for index, variable in enumerate(self._saved_variables()):
            value = variable
            if self.lora_enabled:
                value = ops.cast(merged(self, variable), variable.dtype)
            store[str(index)] = value

    def load_own_variables(self, store):
        """Reads kernel, gain and bias; LoRA starts anew."""
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        variables = self._saved_variables()
        if len(store.keys()) != len(variables):
            raise ValueError(
                f"The layer {self.name!r} must have {len(variables)} "
                f"variables in the file. Received: {len(store.keys())}"
            )
        for index, variable in enumerate(variables):
            variable.assign(store[str(index)])
        restart(self)

    def _saved_variables(self):
        variables = [self.kernel, self.gain, self.bias] if self.built else []
        return [variable for variable in variables if variable is not None]


class NotQuantized:
    """A layer whose kernel is standardized, and so stays in floating point.

    Put it before `keras.layers.Layer`.
    """

    def quantize(self, mode=None, **kwargs):
        """Refuses: quantize what `keras_nfnet.fold` returns."""
        # Keras's own sign that a layer does not quantize: `Model.quantize`
        # warns of it and goes on with the others.
        raise NotImplementedError(
            "A standardized layer cannot be quantized; quantize what "
            f"`keras_nfnet.fold` returns. Received: mode={mode!r}"
        )
