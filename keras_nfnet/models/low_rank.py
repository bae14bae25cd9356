"""LoRA for a whole network: one call for the layers inside its blocks too."""

import math

import keras
from keras import ops

from keras_nfnet.optimizers.head import last_kernels
from keras_nfnet.utils.arguments import boolean, integer, positive, refuse


def enable_lora(
    model: keras.Model,
    rank: int,
    lora_alpha: float | None = None,
    head: bool = True,
) -> None:
    """Trains factors of low rank in place of a network's kernels.

    Calls `enable_lora` of every convolution and dense layer, those inside of
    blocks too. LoRA is added to a standardized kernel before it is
    standardized, so that merging changes nothing. A kernel that is no larger
    than its factors is frozen alone. Gains, biases, other vectors and
    scalars are trained as before.

    Call it before `compile`. A file of the model, and what
    `keras_nfnet.fold` returns, have LoRA merged. To go on with a loaded
    model, call it again.

    Factors start at 0 or near it, and AGC bounds a step by the norm of what
    it changes: train them with an optimizer such as `keras.optimizers.AdamW`.

    Args:
        model: A Keras model, such as one that `keras_nfnet.NFNet` built, or
            a model of one's own on top of one.
        rank: Rank of the factors, 1 or more.
        lora_alpha: Factor of their product, times `rank`; `None` for `rank`.
        head: Whether the model's last layer is trained itself, as a new
            classifier must be, and gets no factors.

    Raises:
        ValueError: If an argument is out of range, or a layer is not built,
            has a kernel constraint, is quantized or has LoRA of another
            rank; the model is then as it was.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> keras_nfnet.enable_lora(model, rank=2)
    >>> keras.ops.shape(model.get_layer("stage2_block0").conv0.lora_kernel_a)
    (1, 1, 32, 2)

    Reference: Hu et al., arXiv:2106.09685.
    """
    rank = integer("rank", rank)
    lora_alpha = positive("lora_alpha", lora_alpha, optional=True)
    boolean("head", head)
    if not isinstance(model, keras.Model) or not model.built:
        refuse("model", model, "a Keras model that is built")
    kept = set()
    if head:
        kept = {
            id(kernel)
            for output in getattr(model, "outputs", None) or []
            for kernel in last_kernels(output, set())
        }
    chosen = []
    for layer in model._flatten_layers(include_self=False):
        if not hasattr(layer, "enable_lora") or any(
            id(variable) in kept for variable in layer.weights
        ):
            continue
        if layer.lora_enabled and layer.lora_rank == rank:
            _revive(layer)
            continue
        if (
            not layer.built
            or layer.lora_enabled
            or layer.quantization_mode
            or getattr(layer, "kernel_constraint", None)
        ):
            raise ValueError(
                "`model` must have layers that are built, without kernel "
                "constraints, not quantized and without LoRA of another "
                f"rank. Received: the layer {layer.name!r}, rank={rank}"
            )
        chosen.append(layer)
    for layer in chosen:
        # The kernel itself, not what Keras computes of it.
        kernel = next(
            v
            for v in layer.trainable_variables + layer.non_trainable_variables
            if v.name in ("kernel", "embeddings")
        )
        *others, filters = kernel.shape
        if rank * (math.prod(others) + filters) >= math.prod(kernel.shape):
            kernel.trainable = False
        else:
            layer.enable_lora(rank, lora_alpha=lora_alpha)


def _revive(layer):
    """Draws a factor again that Keras has loaded as zeros, as the other."""
    factor = layer.lora_kernel_a
    if not ops.convert_to_numpy(factor).any():
        factor.assign(
            keras.initializers.HeUniform()(factor.shape, factor.dtype)
        )
