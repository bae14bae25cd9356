"""Kernels over several devices, for `keras.distribution.ModelParallel`.

Keras asks a layout map for a layout by the path of a variable alone, which
says neither its shape nor the axes of its units. So the layers say both while
they create their kernels, and the map listens.
"""

import contextlib
import contextvars
from typing import Any

import keras

from keras_nfnet.utils.arguments import refuse, text

# The arguments of `creating`.
_KERNEL = contextvars.ContextVar("kernel being created", default=None)


@contextlib.contextmanager
def creating(name, shape, unit_axes, ours=True):
    """The kernel that is created inside may be sharded.

    Args:
        name: Name of the variable.
        shape: Tuple of integers.
        unit_axes: The axes that are summed over in one unit.
        ours: Whether its layer is one of this package and so always says
            what it creates. The map then tells the layout of such a path
            from then on.
    """
    token = _KERNEL.set((name, shape, unit_axes, ours))
    try:
        yield
    finally:
        _KERNEL.reset(token)


def sharded_axis(shape, unit_axes, devices):
    """The axis of a kernel that is spread over devices.

    Args:
        shape: Tuple of integers.
        unit_axes: The axes summed over in one unit, such as all but the last.
        devices: Number of devices along the mesh's axis.

    Returns:
        The last axis of whole units that the devices divide evenly, or
        `None`: JAX has no uneven shards.
    """
    for axis in reversed(range(len(shape))):
        if axis not in unit_axes and shape[axis] % devices == 0:
            return axis
    return None


class _KernelLayouts(keras.distribution.LayoutMap):
    """A `LayoutMap` that knows the kernels of this package's layers."""

    def __init__(self, device_mesh, model_axis):
        super().__init__(device_mesh)
        self._model_axis = model_axis
        self._kernels = {}

    def __getitem__(self, key):
        layout = super().__getitem__(key)  # What the user has set.
        if layout is not None:
            return layout
        name, shape, unit_axes, ours = _KERNEL.get() or (None,) * 4
        if name != key.rpartition("/")[2]:
            return self._kernels.get(key)
        mesh = self.device_mesh
        devices = mesh.shape[mesh.axis_names.index(self._model_axis)]
        axis = sharded_axis(shape, unit_axes, devices)
        names = [None] * len(shape)
        if axis is not None:
            names[axis] = self._model_axis
        layout = keras.distribution.TensorLayout(names, mesh)
        if ours:
            self._kernels[key] = layout
        return layout

    def __len__(self):
        return len(set(self))

    def __iter__(self):
        yield from super().__iter__()
        yield from self._kernels


def layout_map(mesh: Any, model_axis: str = "model") -> Any:
    """Shards the kernels of normalizer-free networks over a mesh of devices.

    For `keras.distribution.ModelParallel` on the JAX backend. Every kernel of
    `keras_nfnet.layers`, those of squeeze-and-excite and the classifier of a
    network of this package are sharded over output channels, so that a unit,
    whose mean, variance and norm are taken, stays whole on one device. Momentum
    and the average of the weights follow their kernel. Gains, biases,
    scalars, the variables of other layers, and kernels whose channels the
    devices do not divide evenly are replicated: any network and any number of
    devices will do.

    The layouts are found while layers are built: create the model inside the
    distribution's scope. A model that is first built by `fit` is replicated.
    Of other layers, set patterns in the map as in any other.

    Args:
        mesh: A `keras.distribution.DeviceMesh`.
        model_axis: Name of the mesh's axis that kernels are sharded over.

    Returns:
        A `keras.distribution.LayoutMap`. Of the models built so far it
        contains the layouts of the kernels, by path.

    Raises:
        ValueError: If `mesh` is no mesh or has no such axis, or the backend
            is not JAX: Keras shards on no other.

    Example:

    >>> devices = keras.distribution.list_devices()
    >>> mesh = keras.distribution.DeviceMesh(
    ...     (1, len(devices)), ("batch", "model"), devices
    ... )
    >>> distribution = keras.distribution.ModelParallel(
    ...     layout_map=keras_nfnet.layout_map(mesh), batch_dim_name="batch"
    ... )
    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> with distribution.scope():
    ...     model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> tuple(model.get_layer("stem_conv0").kernel.value.sharding.spec)
    (None, None, None, 'model')

    Reference: `keras.distribution.ModelParallel`.
    """
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        refuse("mesh", mesh, "a `keras.distribution.DeviceMesh`")
    if text("model_axis", model_axis) not in mesh.axis_names:
        refuse("model_axis", model_axis, f"one of {tuple(mesh.axis_names)}")
    if keras.backend.backend() != "jax":
        raise ValueError(
            "`layout_map` needs the JAX backend, since Keras shards variables "
            "on no other; set KERAS_BACKEND. Received: the "
            f"{keras.backend.backend()} backend"
        )
    return _KernelLayouts(mesh, model_axis)
