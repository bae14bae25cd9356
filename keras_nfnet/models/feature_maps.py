"""Feature maps at several strides, for detection and segmentation."""

from collections.abc import Sequence

import keras

from keras_nfnet.layers.rematerialization import NotRecomputed
from keras_nfnet.models.body import channels_of
from keras_nfnet.utils.arguments import refuse


@keras.saving.register_keras_serializable(package="keras_nfnet")
class FeatureMaps(NotRecomputed, keras.Model):
    """A functional model whose outputs are feature maps by level.

    Build one with `keras_nfnet.features`.
    """

    @property
    def pyramid_outputs(self):
        """The outputs: `{"P2": …, …}`, Keras tensors."""
        return dict(self.output)

    @property
    def hidden_dims(self):
        """Channels of each level, by which keras-hub's SegFormer asks."""
        return channels_of(self)


# Keras's HDF5 files name a model's class without its package.
keras.saving.get_custom_objects()[FeatureMaps.__name__] = FeatureMaps


def features(
    model: keras.Model, levels: Sequence[str] | None = None
) -> keras.Model:
    """A model of the same layers whose outputs are feature maps.

    Args:
        model: A model that `keras_nfnet.NFNet` or a variant's constructor
            built.
        levels: Names of `model.pyramid_outputs`, such as `("P3", "P4",
            "P5")`, or `None` for all.

    Returns:
        A `keras.Model` with a dictionary of outputs, `(batch, height,
        width, channels)` each; level `Pn` has the stride `2**n`, or the
        `output_stride` of the model where that is smaller. It shares its
        layers and values with `model`, and has `pyramid_outputs` too.

    Raises:
        ValueError: If `model` is another model or has no such level.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None)
    >>> backbone = keras_nfnet.features(model, ("P2", "P3"))
    >>> maps = backbone(keras.random.normal((1, 64, 64, 3)))
    >>> {level: keras.ops.shape(map) for level, map in maps.items()}
    {'P2': (1, 16, 16, 32), 'P3': (1, 8, 8, 128)}

    Reference: Lin et al., arXiv:1612.03144, of the levels' names.
    """
    outputs = getattr(model, "pyramid_outputs", None)
    if not outputs:
        raise ValueError(
            "`model` must be a model that `keras_nfnet.NFNet` or a variant's "
            f"constructor built. Received: model={model!r}"
        )
    if levels is None:
        levels = tuple(outputs)
    if isinstance(levels, str):
        levels = (levels,)
    if not isinstance(levels, list | tuple):
        refuse("levels", levels, f"of {', '.join(outputs)}")
    unknown = [level for level in levels if level not in outputs]
    if unknown or not levels:
        refuse("levels", levels, f"of {', '.join(outputs)}")
    return FeatureMaps(
        model.input,
        {level: outputs[level] for level in levels},
        name=f"{model.name}_features",
    )
