"""The networks without their classifier, as a backbone of keras-hub."""

import contextlib
import dataclasses
import json

import keras
import keras_hub

from keras_nfnet.architecture import NFNetConfig
from keras_nfnet.hub import presets
from keras_nfnet.layers.activation import serialize_activation
from keras_nfnet.models.body import channels_of, pyramid
from keras_nfnet.models.nfnet import NFNet, configuration
from keras_nfnet.utils.arguments import refuse
from keras_nfnet.variants import default_name


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetBackbone(keras_hub.models.FeaturePyramidBackbone):
    """A Normalizer-Free Network as a backbone of keras-hub.

    The network is `keras_nfnet.NFNet(config, include_top=False)`, and
    `keras_nfnet.weights.load(backbone, …)` fills it. `from_preset` takes what
    `save_to_preset` wrote, and folders of timm's: a local path, or
    `"hf://user/name"`.

    Args:
        config: A name of `keras_nfnet.VARIANTS`, an `NFNetConfig`, or a
            dictionary of its fields.
        image_shape: `(height, width, channels)` in pixels; `None` for any
            height or width.
        output_stride: Stride of the last feature maps: 32, 16 or 8. It is
            that of the last level too: `"P5"`, `"P4"` or `"P3"`.
        dtype: Dtype policy of the layers; `None` for Keras's default.
        **kwargs: As for `keras_hub.models.Backbone`, such as `name`.

    Input shape: `(batch, height, width, channels)`, images normalized by
        `keras_nfnet.preprocess_input` or an `NFNetImageConverter`.

    Output shape: `(batch, height, width, channels)`, feature maps.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> import keras_nfnet.hub
    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> backbone = keras_nfnet.hub.NFNetBackbone(config)
    >>> backbone.output_shape, list(backbone.pyramid_outputs)
    ((None, None, None, 128), ['P1', 'P2', 'P3'])

    Reference: Brock et al., arXiv:2102.06171 and arXiv:2101.08692.
    """

    def __init__(
        self,
        config,
        image_shape=(None, None, 3),
        output_stride=32,
        dtype=None,
        **kwargs,
    ):
        config, variant = _configuration(config)
        with _policy(dtype):
            model = NFNet(
                config,
                include_top=False,
                weights=None,
                input_shape=image_shape,
                output_stride=output_stride,
            )
        kwargs.setdefault("name", default_name(variant) if variant else "nfnet")
        super().__init__(
            inputs=model.input, outputs=model.output, dtype=dtype, **kwargs
        )
        self.config = config
        self.image_shape = tuple(image_shape)
        self.output_stride = output_stride
        # keras-hub's detectors take the stride from the name.
        self.pyramid_outputs = pyramid(model, by_stride=True)

    @property
    def hidden_dims(self):
        """Channels of each level, by which keras-hub's SegFormer asks."""
        return channels_of(self)

    @property
    def variant(self):
        """The network's name in `keras_nfnet.VARIANTS`, or `None`."""
        return _configuration(self.config)[1]

    def get_config(self):
        fields = dataclasses.asdict(self.config)
        fields["activation"] = serialize_activation(self.config.activation)
        return {
            **super().get_config(),
            # Lists in place of tuples: a preset's file is JSON.
            "config": json.loads(json.dumps(fields)),
            "image_shape": list(self.image_shape),
            "output_stride": self.output_stride,
        }

    def save_to_preset(
        self, preset_dir, max_shard_size=10, *, source=None, license=None
    ):
        """Saves a preset with a model card, whole or not at all.

        It is read back before it takes its place.

        Args:
            preset_dir: The folder. It may exist, without another preset's
                files that would be mixed with these.
            max_shard_size: Largest file in GB, as with keras-hub.
            source: The file that the values came from, as for
                `keras_nfnet.weights.load`: the card then names it, after
                each value was compared with it. `None` if that is not to be
                said.
            license: Of the values, as Hugging Face spells it, such as
                `"apache-2.0"`; `None` if it is not known.

        Raises:
            ValueError: If a value is not finite or is not that of `source`,
                or the folder does not fit. Nothing was written then.
        """

        def write(folder):
            super(NFNetBackbone, self).save_to_preset(folder, max_shard_size)

        presets.save(self, write, preset_dir, source, license)


def _configuration(config):
    """The configuration, and its name among `VARIANTS` or `None`."""
    if isinstance(config, dict):
        try:
            config = NFNetConfig(**config)
        except TypeError as error:
            refuse("config", config, "fields of an `NFNetConfig`", error)
    config, variant = configuration(config)
    return config, variant or presets.variant_of(config)


@contextlib.contextmanager
def _policy(dtype):
    """Keras's default policy while layers are made, as `NFNet` takes it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(
        before if dtype is None else keras.dtype_policies.get(dtype)
    )
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
