"""`fold`: the same network of plain convolutions, for inference.

What a factor may pass: a convolution or dense layer (into its kernel),
average pooling, dropout, and the activations with `f(c x) = c f(x)`. GELU
and its like hold a factor back; there it goes to what follows, since
`act(x) * gain` feeds convolutions only. Where a factor cannot go on, such as
a sum, it goes back into the convolution that it came from.
"""

import collections
import warnings
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_nfnet import layers
from keras_nfnet.export import folded_layers
from keras_nfnet.export.factors import Scaled, fold_standardized
from keras_nfnet.layers.activation import ACTIVATIONS
from keras_nfnet.models import graphs
from keras_nfnet.models.nf_block import NFBlock
from keras_nfnet.utils.arguments import looked_up

# f(c x) = c f(x) for c > 0.
_HOMOGENEOUS = [
    ACTIVATIONS[name][0] for name in ("relu", "leaky_relu", "identity")
]


def _pooling(kind):
    """Keras's layers of one kind of pooling, of 1 to 3 axes."""
    return tuple(
        getattr(keras.layers, f"{name}Pooling{axes}D")
        for name in (kind, f"Global{kind}")
        for axes in (1, 2, 3)
    )


def fold(model: keras.Model, dtype: Any = None) -> keras.Model:
    """Returns an inference model with the same outputs and plain convolutions.

    Weight standardization, gains, the activations' gains, alpha, beta,
    SkipInit's gain and the factor 2 of squeeze-and-excite go into the
    kernels and biases. Dropout and stochastic depth are gone, and a block
    whose SkipInit gain is 0 is its shortcut alone. A model that ends in an
    activation's feature maps (`include_top=False`) keeps that gain, unless
    the activation lets it through, as ReLU does. A layer that is called
    several times keeps one kernel for all calls, unless factors differ that
    go into it.

    Args:
        model: A functional or sequential Keras model; other models in it
            are folded too, and layers of other packages are copied.
        dtype: Dtype or policy of the folded layers, such as `"float32"`.
            Default: that of the layer each stands for.

    Returns:
        A `keras.Model` of the model's inputs, outputs and name, with
        variables of its own. Not for training. A layer that cannot be made
        again from its configuration is shared, with a warning that names it.

    Raises:
        ValueError: If `model` is neither functional nor sequential.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> folded = keras_nfnet.fold(model)
    >>> images = keras.random.normal((2, 32, 32, 3))
    >>> np.allclose(folded(images), model(images), atol=1e-6)
    True

    Reference: arXiv:2101.08692, section 4 (what is folded).
    """
    if dtype is not None:
        looked_up("dtype", dtype, keras.dtype_policies.get, "a dtype or policy")
    return _folded(model, dtype)


def _folded(model, dtype, name=None):
    graph = graphs.functional_graph(model)
    folder = _Folder(dtype)
    inputs = tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        graph.input,
    )
    outputs = folder.run(graph, tree.map_structure(Scaled, inputs))
    return keras.Model(
        inputs,
        tree.map_structure(folder.plain, outputs),
        name=name or model.name,
    )


class _Folder:
    """Lowers one operation of the graph after the other."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.names = set()
        self.uses = collections.Counter()
        self.calls = collections.Counter()
        self.made = {}

    def run(self, graph, inputs):
        """Returns the `Scaled` outputs of a graph on `Scaled` inputs."""
        self.uses += graphs.uses_of_tensors(graph)
        self.calls += graphs.calls_of_operations(graph)

        def apply(operation, *args, **kwargs):
            results = [x for n in operation._inbound_nodes for x in n.outputs]
            once = all(self.uses[id(x)] <= 1 for x in results)
            return self.lower(operation, once, *args, **kwargs)

        return graphs.run_graph(graph, inputs, apply)

    def lower(self, operation, once, *args, **kwargs):
        """The `Scaled` result of one operation on `Scaled` arguments.

        Args:
            operation: A layer or another operation.
            once: Whether its result is used once.
            *args: Of the operation.
            **kwargs: Of the operation.
        """
        first = graphs.first_argument(args, kwargs)
        is_shared = self.calls[id(operation)] > 1
        for kind, lower in _LOWERINGS.items():
            if isinstance(operation, kind):
                result = lower(self, operation, first)
                if once and not is_shared:
                    return result
                return replace(result, source=None)
        if isinstance(operation, keras.Model) and graphs.is_graph(operation):
            if is_shared:
                name = self.options(operation.name, None)["name"]
                model = self.once(
                    operation, lambda: _folded(operation, self.dtype, name)
                )
                outputs = model(tree.map_structure(self.plain, first))
                return tree.map_structure(Scaled, outputs)
            outputs = self.run(graphs.functional_graph(operation), first)
            # Uses outside of the inner model are not counted: no `source`.
            return tree.map_structure(
                lambda value: replace(value, source=None), outputs
            )
        args, kwargs = tree.map_structure(self.plain, (args, kwargs))
        copy = self.copied(operation)
        # As `model(x, training=False)` calls it.
        if graphs.takes_training(operation):
            kwargs["training"] = False
        return tree.map_structure(Scaled, copy(*args, **kwargs))

    def once(self, layer, make, *key):
        """What `make` returns, once for all calls of a layer with this key."""
        if self.calls[id(layer)] < 2:
            return make()
        key = (id(layer), *key)
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def plain(self, value):
        """A tensor that needs no factor beside it."""
        if not isinstance(value, Scaled):
            return value
        if value.factor == 1:
            return value.tensor
        if value.source is not None and value.source.takes(value.factor):
            value.source.multiply(value.factor)
            return value.tensor
        rescale = keras.layers.Rescaling(
            value.factor, **self.options("rescale", value.tensor.dtype)
        )
        return rescale(value.tensor)

    def options(self, name, dtype):
        """Keyword arguments of a new layer, with a name of its own."""
        unique, count = name, 1
        while unique in self.names:
            unique, count = f"{name}_{count}", count + 1
        self.names.add(unique)
        return {"name": unique, "dtype": self.dtype or dtype}

    def copied(self, operation):
        """A layer's copy, one for all its calls; other operations as is."""
        return self.once(operation, lambda: self.copy(operation))

    def copy(self, operation, **changes):
        """A layer's copy with variables of its own; other operations as is.

        A layer that cannot be made from its configuration stays the same
        layer.
        """
        if not isinstance(operation, keras.layers.Layer):
            return operation
        name = self.options(operation.name, None)["name"]
        try:
            config = {**operation.get_config(), "name": name, **changes}
            if self.dtype and operation.compute_dtype in folded_layers.HALF:
                config["dtype"] = self.dtype
            copy = type(operation).from_config(config)
            if operation.built:
                copy.build_from_config(operation.get_build_config())
                folded_layers.copy_state(operation, copy)
        except Exception as error:  # Of any type: it is the user's code.
            if changes:
                raise ValueError(
                    "`model` must have layers that their configuration makes "
                    f"again. Received: the layer {operation.name!r} ({error})"
                ) from error
            # The outputs are right, but the variables are shared: warn.
            warnings.warn(
                f"The layer {operation.name!r} cannot be made again from its "
                f"configuration ({type(error).__name__}: {error}); the folded "
                "model shares it with the model.",
                stacklevel=2,
            )
            return operation
        return copy

    def activation(self, layer, value):
        factor = layer.gain * layer.scale
        passes = layer.function in _HOMOGENEOUS and value.factor > 0
        tensor = value.tensor if passes else self.plain(value)
        activated = folded_layers.PlainActivation(
            layer.activation, **self.options(layer.name, layer.dtype_policy)
        )(tensor)
        return Scaled(
            activated,
            factor * (value.factor if passes else 1.0),
            value.rectified() if layer.function in _HOMOGENEOUS else None,
        )

    def block(self, layer, value):
        """A block as a model of its own: one node of the graph, as it was."""
        tensor = self.plain(value)

        def make():
            inputs = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
            folder = _Folder(self.dtype)
            uses = iter(_uses(layer))

            def apply(part, *args):
                return folder.lower(part, next(uses) <= 1, *args)

            output = folder.plain(layer.walk(apply, Scaled(inputs)))
            name = self.options(layer.name, None)["name"]
            return keras.Model(inputs, output, name=name)

        return Scaled(self.once(layer, make, tensor.shape)(tensor))

    def gate(self, layer, value):
        """Channel attention whose factors lie in the kernels around it."""
        parts = [layer.reduce, layer.expand] if hasattr(layer, "reduce") else []
        if any(part.quantization_mode for part in parts):
            raise ValueError(
                "`model` must not be quantized inside its blocks. Fold or "
                "export it first, and quantize then. Received: the layer "
                f"{layer.name!r}"
            )

        def make():
            plain = self.copy(
                layer, scale=1.0, dtype=self.dtype or layer.dtype_policy
            )
            is_dense = isinstance(layer, layers.SqueezeExcite)
            kernel = plain.reduce.kernel if is_dense else plain.kernel
            values = folded_layers.numpy_value(kernel)
            kernel.assign(values * np.float32(value.factor))
            return plain, kernel

        plain, kernel = self.once(layer, make, value.factor)
        source = value.source and replace(
            value.source, gates=(*value.source.gates, kernel)
        )
        return Scaled(plain(value.tensor), value.factor * layer.scale, source)

    def dense(self, layer, value):
        # A subclass, or a layer in another form, uses its kernel otherwise.
        is_plain = type(layer) is keras.layers.Dense and not (
            layer.lora_enabled or layer.quantization_mode
        )
        if not is_plain:
            return Scaled(self.copied(layer)(self.plain(value)))

        def make():
            options = self.options(layer.name, layer.dtype_policy)
            options["kernel_initializer"] = "zeros"  # Its values are set below.
            config = {**layer.get_config(), **options}
            plain = keras.layers.Dense.from_config(config)
            plain.build(value.tensor.shape)
            kernel, *bias = layer.get_weights()
            plain.set_weights([kernel * np.float32(value.factor), *bias])
            return plain

        return Scaled(self.once(layer, make, value.factor)(value.tensor))

    def skip_init(self, layer, value):
        gain = float(ops.convert_to_numpy(layer.skip_gain))
        factor = value.factor * gain * layer.scale
        return replace(value, factor=factor)

    def rescaling(self, layer, value):
        scalar = isinstance(layer.scale, int | float) and layer.offset == 0
        if scalar and layer.compute_dtype == value.tensor.dtype:
            return replace(value, factor=value.factor * layer.scale)
        return Scaled(self.copied(layer)(self.plain(value)))

    def add(self, layer, values):
        # A branch times 0 is gone, if the sum keeps its shape without it.
        kept = [value for value in values if value.factor != 0]
        alike = len({tuple(value.tensor.shape) for value in values}) == 1
        if not kept or not alike:
            kept = values
        tensors = [self.plain(value) for value in kept]
        if len(tensors) == 1:
            return Scaled(tensors[0])
        return Scaled(self.copied(layer)(tensors))

    def identity(self, layer, value):
        return value

    def linear(self, layer, value):
        tensor = self.copied(layer)(value.tensor)
        return replace(value, tensor=tensor)

    def maximum(self, layer, value):
        # Only a factor above 0 passes a maximum.
        if value.factor <= 0:
            return Scaled(self.copied(layer)(self.plain(value)))
        tensor = self.copied(layer)(value.tensor)
        return Scaled(tensor, value.factor, value.rectified())


_LOWERINGS = {
    layers.ScaledWSMixin: fold_standardized,
    layers.ScaledActivation: _Folder.activation,
    NFBlock: _Folder.block,
    (layers.SqueezeExcite, layers.EfficientChannelAttention): _Folder.gate,
    layers.SkipInit: _Folder.skip_init,
    keras.layers.Rescaling: _Folder.rescaling,
    keras.layers.Add: _Folder.add,
    (layers.StochasticDepth, *folded_layers.ONLY_TRAINING): _Folder.identity,
    keras.layers.Dense: _Folder.dense,
    (*_pooling("Average"), keras.layers.Flatten): _Folder.linear,
    _pooling("Max"): _Folder.maximum,
}


def _uses(block):
    """How often each result in a block is used, in the order of its calls."""
    uses = []

    def apply(part, *args):
        for index in tree.flatten(args):
            if index >= 0:
                uses[index] += 1
        uses.append(0)
        return len(uses) - 1

    block.walk(apply, -1)
    return uses
