"""AGC for any Keras optimizer class."""

import functools
import inspect
from typing import Any

import keras
from keras import ops

from keras_nfnet.optimizers.clipped import CLASSIFIER, ClippedOptimizer
from keras_nfnet.optimizers.rules import check_keras_arguments
from keras_nfnet.utils.arguments import learning_rate, not_negative

_WRAPPERS = tuple(
    getattr(keras.optimizers, name)
    for name in ("LossScaleOptimizer", "MultiOptimizer")
    if hasattr(keras.optimizers, name)
)


@functools.cache
def with_agc(optimizer_class: type) -> type[Any]:
    """A Keras optimizer class with adaptive gradient clipping in front.

    The new class takes the arguments of the old one and, as keywords,
    `clipping=0.01`, `eps=1e-3`, `exclude_from_clipping` and `ema_decay`,
    which are as for `keras_nfnet.SGDAGC`. It clips the gradient summed over
    replicas, unscaled and accumulated, and skips a step whose gradient is
    not finite, or is beyond 1e18 where it is not clipped. The optimizer's
    own weight decay stays decoupled, and comes after AGC has read the
    weights.

    Args:
        optimizer_class: A subclass of `keras.optimizers.Optimizer`, such as
            `keras.optimizers.AdamW`.

    Returns:
        A subclass of it, named `AdamWWithAGC` and so on, the same at every
        call. Those of Keras's own optimizers can be loaded from files
        wherever `keras_nfnet` is imported; for your own class call
        `with_agc` before loading.

    Raises:
        ValueError: If it is no optimizer class, wraps other optimizers, or
            clips already; on creation, on `clipnorm` and its like, and on
            a rate or weight decay that is no number from 0 on.

    Example:

    >>> AdamWWithAGC = keras_nfnet.with_agc(keras.optimizers.AdamW)
    >>> optimizer = AdamWWithAGC(1e-3, weight_decay=0.05, clipping=0.02)
    >>> optimizer.clipping, optimizer.weight_decay
    (0.02, 0.05)

    Reference: arXiv:2102.06171, section 4.
    """
    if not (
        inspect.isclass(optimizer_class)
        and issubclass(optimizer_class, keras.optimizers.Optimizer)
    ):
        raise ValueError(
            "`optimizer_class` must be a class of Keras optimizers, such as "
            "`keras.optimizers.AdamW`, not an instance. "
            f"Received: optimizer_class={optimizer_class!r}"
        )
    if issubclass(optimizer_class, _WRAPPERS):
        raise ValueError(
            "`optimizer_class` must not wrap other optimizers; wrap those "
            "with AGC instead: `LossScaleOptimizer(with_agc(SGD)(0.1))`. "
            f"Received: optimizer_class={optimizer_class!r}"
        )
    if issubclass(optimizer_class, ClippedOptimizer):
        raise ValueError(
            "`optimizer_class` has adaptive gradient clipping already. "
            f"Received: optimizer_class={optimizer_class!r}"
        )

    class WithAGC(ClippedOptimizer, optimizer_class):
        def __init__(
            self,
            *args,
            clipping=0.01,
            eps=1e-3,
            exclude_from_clipping=CLASSIFIER,
            ema_decay=None,
            **kwargs,
        ):
            args, kwargs = _checked(optimizer_class, args, kwargs)
            super().__init__(*args, **kwargs)
            self.setup_agc(clipping, eps, exclude_from_clipping, ema_decay)

        def build(self, variables):
            if self.built:
                return
            super().build(variables)
            self._decays = [
                None if is_vector else self._decay_of(variable)
                for variable, is_vector in zip(
                    variables, self._is_vector, strict=True
                )
            ]

        def _decay_of(self, variable):
            if not self._use_weight_decay(variable):
                return None
            # Muon decays at another rate what Adam updates for it.
            own = getattr(self, "_should_use_adamw", None)
            if own is not None and own(variable):
                return self.adam_weight_decay
            return self.weight_decay

        def clipped_step(self, gradient, variable, learning_rate, index):
            if self._decays[index]:
                factor = ops.cast(learning_rate, variable.dtype) * ops.cast(
                    self._decays[index], variable.dtype
                )
                self.assign_sub(
                    variable, ops.convert_to_tensor(variable) * factor
                )
            optimizer_class.update_step(self, gradient, variable, learning_rate)

    WithAGC.__name__ = f"{optimizer_class.__name__}WithAGC"
    WithAGC.__qualname__ = WithAGC.__name__
    WithAGC.__doc__ = (
        f"`{optimizer_class.__name__}` with adaptive gradient clipping; see "
        "`keras_nfnet.with_agc`."
    )
    return keras.saving.register_keras_serializable(package="keras_nfnet")(
        WithAGC
    )


def _checked(optimizer_class, args, kwargs):
    """The arguments of an optimizer, with its rates checked by name."""
    signature = inspect.signature(optimizer_class.__init__)
    bound = signature.bind_partial(None, *args, **kwargs)
    # Keyword arguments are either by name or within `**kwargs`.
    for arguments in (bound.arguments, bound.arguments.get("kwargs", {})):
        check_keras_arguments(arguments)
        if "learning_rate" in arguments:
            arguments["learning_rate"] = learning_rate(
                arguments["learning_rate"]
            )
        for name in ("weight_decay", "adam_weight_decay"):
            if name in arguments:
                arguments[name] = not_negative(name, arguments[name], True)
    return bound.args[1:], bound.kwargs


def register_all():
    """Makes Keras's own optimizers with AGC known to its loader."""
    for value in vars(keras.optimizers).values():
        if (
            inspect.isclass(value)
            and issubclass(value, keras.optimizers.Optimizer)
            and value is not keras.optimizers.Optimizer
            and not issubclass(value, _WRAPPERS)
        ):
            with_agc(value)
