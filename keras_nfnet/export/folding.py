"""`fold`: the same network of plain convolutions, for inference.

What a factor may pass: a convolution or dense layer (into its kernel),
average pooling, dropout, and the activations with `f(c x) = c f(x)`. GELU
and its like hold a factor back; there it goes to what follows, since
`act(x) * gain` feeds convolutions only.
"""

import keras
import numpy as np
from keras import tree

from keras_nfnet.export.folded_kernels import (
    assign_block,
    assign_gate,
    folded_values,
    plain_block,
    plain_convolution,
    skip_factor,
)
from keras_nfnet.export.folded_layers import PlainActivation, PlainGate
from keras_nfnet.layers import (
    ScaledActivation,
    ScaledWSConv2D,
    SkipInit,
    SqueezeExcite,
    StochasticDepth,
)
from keras_nfnet.layers.activation import ACTIVATIONS
from keras_nfnet.models.nf_block import NFBlock

# f(c x) = c f(x) for c > 0.
_HOMOGENEOUS = [
    ACTIVATIONS[name][0] for name in ("relu", "leaky_relu", "identity")
]
# What a factor passes unchanged; of the maxima only one above 0.
_LINEAR = (
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Flatten,
)
_MAXIMA = (keras.layers.MaxPooling2D, keras.layers.GlobalMaxPooling2D)


def fold(model, dtype=None):
    """Returns an inference model with the same outputs and plain convolutions.

    Weight standardization, gains, the activations' gains, alpha, beta,
    SkipInit's gain and the factor 2 of squeeze-and-excite go into the
    kernels and biases. Dropout and stochastic depth are gone, and a block
    whose SkipInit gain is 0 is its shortcut alone. A model that ends in an
    activation's feature maps (`include_top=False`) keeps that gain, unless
    the activation lets it through, as ReLU does.

    Args:
        model: A functional or sequential Keras model; other models in it
            are folded too, and layers of other packages are copied.
        dtype: Dtype or policy of the folded layers, such as `"float32"`.
            Default: that of the layer each stands for.

    Returns:
        A `keras.Model` of the model's inputs, outputs and name, with
        variables of its own. Not for training.

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
    graph = functional_graph(model)
    folder = _Folder(dtype)
    inputs = tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        graph.input,
    )
    outputs = folder.run(graph, tree.map_structure(_Scaled, inputs))
    return keras.Model(
        inputs, tree.map_structure(folder.final, outputs), name=model.name
    )


def functional_graph(model):
    """The functional model itself, or that of a sequential one.

    Raises:
        ValueError: If `model` is another kind of model.
    """
    graph = model
    if isinstance(model, keras.Sequential):
        graph = model._functional
    if not hasattr(graph, "_run_through_graph"):
        raise ValueError(
            "`model` must be a functional Keras model, or a sequential one "
            f"that is built. Received: model={model!r}"
        )
    return graph


class _Scaled:
    """A tensor of the folded graph that stands for `tensor * factor`.

    `source` is the convolution that made it, if nothing but homogeneous
    activations and poolings came between and nothing else uses it.
    """

    def __init__(self, tensor, factor=1.0, source=None):
        self.tensor = tensor
        self.factor = factor
        self.source = source


class _Folder:
    """Lowers one operation of the graph after the other."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.names = set()
        self.uses = {}

    def run(self, graph, inputs):
        """Returns the `_Scaled` outputs of a graph on `_Scaled` inputs."""
        uses = list(graph.outputs)
        for nodes in graph._nodes_by_depth.values():
            for node in nodes:
                uses.extend(node.input_tensors)
        for x in uses:
            self.uses[id(x)] = self.uses.get(id(x), 0) + 1
        return graph._run_through_graph(inputs, call_fn=self.lower)

    def lower(self, operation, *args, **kwargs):
        """The `_Scaled` result of one operation on `_Scaled` arguments."""
        for kind, lower in _LOWERINGS.items():
            if isinstance(operation, kind):
                return lower(self, operation, args[0])
        if isinstance(operation, keras.Model) and _is_graph(operation):
            outputs = self.run(functional_graph(operation), args[0])
            # Of uses outside it knows nothing: no `source`.
            return tree.map_structure(
                lambda value: _Scaled(value.tensor, value.factor), outputs
            )
        args, kwargs = tree.map_structure(self.plain, (args, kwargs))
        return tree.map_structure(
            _Scaled, self.copied(operation)(*args, **kwargs)
        )

    def plain(self, value):
        """A tensor that needs no factor beside it."""
        if not isinstance(value, _Scaled):
            return value
        if value.factor == 1:
            return value.tensor
        rescale = keras.layers.Rescaling(
            value.factor, **self.options("rescale", value.tensor.dtype)
        )
        return rescale(value.tensor)

    def final(self, value):
        """As `plain`, for an output: the convolution before may take it."""
        if value.factor != 1 and value.source is not None:
            kernel, bias = value.source.values()
            value.source.set_values(kernel * value.factor, bias * value.factor)
            return value.tensor
        return self.plain(value)

    def options(self, name, dtype):
        """Keyword arguments of a new layer, with a name of its own."""
        unique, count = name, 1
        while unique in self.names:
            unique, count = f"{name}_{count}", count + 1
        self.names.add(unique)
        return {"name": unique, "dtype": self.dtype or dtype}

    def copied(self, operation):
        """A layer's copy with variables of its own; other operations as is."""
        if not isinstance(operation, keras.layers.Layer):
            return operation
        config = operation.get_config()
        config["name"] = self.options(operation.name, None)["name"]
        copy = type(operation).from_config(config)
        if operation.built and operation.variables:
            copy.build_from_config(operation.get_build_config())
            copy.set_weights(operation.get_weights())
        return copy

    def convolution(self, layer, value):
        """A standardized convolution as a plain one."""
        plain = plain_convolution(
            layer, **self.options(layer.name, layer.dtype_policy)
        )
        plain.build(value.tensor.shape)
        plain.set_values(*folded_values(layer, value.factor))
        return _Scaled(plain(value.tensor), source=self._own(layer, plain))

    def _own(self, layer, source):
        """`source`, if the result of `layer` has one use."""
        return source if self._used_once(layer) else None

    def _used_once(self, layer):
        return all(self.uses.get(id(x), 0) <= 1 for x in _results(layer))

    def activation(self, layer, value):
        factor = layer.gain * layer.scale
        passes = layer.function in _HOMOGENEOUS and value.factor > 0
        tensor = value.tensor if passes else self.plain(value)
        activated = PlainActivation(
            layer.activation, **self.options(layer.name, layer.dtype_policy)
        )(tensor)
        source = None
        if layer.function in _HOMOGENEOUS and factor > 0:
            source = value.source if self._used_once(layer) else None
        return _Scaled(
            activated, factor * (value.factor if passes else 1.0), source
        )

    def block(self, layer, value):
        plain = plain_block(
            layer, **self.options(layer.name, layer.dtype_policy)
        )
        tensor = self.plain(value)
        plain.build(tensor.shape)
        assign_block(layer, plain)
        return _Scaled(plain(tensor))

    def gate(self, layer, value):
        plain = PlainGate(
            layer.reduce.units, **self.options(layer.name, layer.dtype_policy)
        )
        plain.build(value.tensor.shape)
        assign_gate(layer, plain, value.factor)
        return _Scaled(plain(value.tensor), value.factor * layer.scale)

    def dense(self, layer, value):
        # A subclass may use its kernel otherwise.
        if type(layer) is not keras.layers.Dense:
            return _Scaled(self.copied(layer)(self.plain(value)))
        config = layer.get_config()
        config.update(
            self.options(layer.name, layer.dtype_policy),
            kernel_initializer="zeros",
        )
        plain = keras.layers.Dense.from_config(config)
        plain.build(value.tensor.shape)
        kernel, *bias = layer.get_weights()
        plain.set_weights([kernel * np.float32(value.factor), *bias])
        return _Scaled(plain(value.tensor))

    def skip_init(self, layer, value):
        return _Scaled(value.tensor, value.factor * skip_factor(layer))

    def identity(self, layer, value):
        return value

    def linear(self, layer, value):
        source = value.source if self._used_once(layer) else None
        return _Scaled(self.copied(layer)(value.tensor), value.factor, source)

    def maximum(self, layer, value):
        if value.factor > 0:
            return self.linear(layer, value)
        return _Scaled(self.copied(layer)(self.plain(value)))


_LOWERINGS = {
    ScaledWSConv2D: _Folder.convolution,
    ScaledActivation: _Folder.activation,
    NFBlock: _Folder.block,
    SqueezeExcite: _Folder.gate,
    SkipInit: _Folder.skip_init,
    (StochasticDepth, keras.layers.Dropout): _Folder.identity,
    keras.layers.Dense: _Folder.dense,
    _LINEAR: _Folder.linear,
    _MAXIMA: _Folder.maximum,
}


def _is_graph(model):
    return hasattr(getattr(model, "_functional", model), "_run_through_graph")


def _results(layer):
    return [x for node in layer._inbound_nodes for x in node.outputs]
