"""The networks as a task of keras-hub: images, preprocessor, classifier."""

import sys

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_nfnet.data.preprocessing import (
    EVALUATION_MARGIN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_margin,
    evaluation_picture,
    sides,
)
from keras_nfnet.hub import presets
from keras_nfnet.hub.backbone import NFNetBackbone
from keras_nfnet.models.nfnet import configuration
from keras_nfnet.utils.arguments import refuse


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetImageConverter(keras_hub.layers.ImageConverter):
    """The center crop for evaluation, normalized.

    It is `keras_nfnet.data.evaluation_picture` and then
    `keras_nfnet.preprocess_input`, also in `tf.data` and TensorFlow graphs.

    NOTE: keras-hub's other converters interpolate bilinearly without
    antialiasing; with `margin` an integer the image's aspect ratio is given
    up, and bicubic overshoots are not clipped, as with DeepMind.

    Args:
        image_size: Side of the crop in pixels, or `(height, width)`; `None`
            for images as they are, which are then only normalized.
        margin: Pixels to resize beyond `image_size` before the centre crop
            (DeepMind's evaluation), or a crop fraction, a float in (0, 1]
            (timm's).
        scale: Factor of each channel of pixels 0–255; `None` for that of
            `preprocess_input`.
        offset: What is then added to each channel; `None` likewise.
        **kwargs: As for `keras.layers.Layer`.

    Input shape: `(batch, height, width, 3)` or `(height, width, 3)`, RGB
        0–255, or a list of such images of any sizes.

    Output shape: `(batch, height, width, 3)` or `(height, width, 3)`.

    Raises:
        ValueError: If an argument is not as above, or images have other
            channels.

    Example:

    >>> import keras_nfnet.hub
    >>> converter = keras_nfnet.hub.NFNetImageConverter(image_size=32)
    >>> tuple(converter(np.zeros((2, 50, 40, 3), "uint8")).shape)
    (2, 32, 32, 3)

    Reference: arXiv:2102.06171; the authors' dataset.py, "resize_crop_32".
    """

    backbone_cls = NFNetBackbone

    def __init__(
        self,
        image_size=None,
        margin=EVALUATION_MARGIN,
        scale=None,
        offset=None,
        **kwargs,
    ):
        margin = check_margin(margin)
        mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
        super().__init__(
            image_size=None if image_size is None else sides(image_size),
            scale=(1 / std).tolist() if scale is None else scale,
            offset=(-mean / std).tolist() if offset is None else offset,
            crop_to_aspect_ratio=False,
            interpolation="bicubic",
            antialias=isinstance(margin, float),
            data_format="channels_last",
            **kwargs,
        )
        self.margin = margin

    @classmethod
    def for_network(cls, config, **kwargs):
        """The converter with which a network was evaluated.

        Args:
            config: A name of `keras_nfnet.VARIANTS` or an `NFNetConfig`.
            **kwargs: As for the class, to change some.

        Raises:
            ValueError: If `config` is neither.
        """
        config, _ = configuration(config)
        margin = config.crop_fraction
        given = {
            "image_size": config.test_size,
            "margin": EVALUATION_MARGIN if margin is None else float(margin),
        }
        return cls(**{**given, **kwargs})

    def call(self, inputs):
        if isinstance(inputs, dict):
            refuse("inputs", inputs, "images, without boxes")
        # TensorFlow traces, as inside `tf.data`, on any backend.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and not tensorflow.executing_eagerly():
            return self._in_graph(inputs)
        images = inputs if isinstance(inputs, list | tuple) else None
        rank = None if images else len(ops.shape(inputs))
        if rank not in (None, 3, 4):
            refuse("inputs", inputs, "one image or a batch of images")
        if images is None:
            images = [inputs] if rank == 3 else inputs
        views = []
        for image in images:
            if not isinstance(image, np.ndarray):
                image = np.asarray(ops.convert_to_numpy(image))
            if self.image_size is None:
                views.append(image.astype("float32"))
            else:
                views.append(
                    evaluation_picture(image, self.image_size, self.margin)
                )
        batch = views[0] if rank == 3 else np.stack(views)
        return ops.cast(self._normalized(batch), self.compute_dtype)

    def _in_graph(self, inputs):
        import tensorflow as tf

        from keras_nfnet.data.graph_preprocessing import evaluation_view

        def view(image):
            return evaluation_view(image, self.image_size, self.margin)

        x = inputs
        if self.image_size is not None:
            if x.shape.rank not in (3, 4):
                refuse("inputs", inputs, "one image or a batch of images")
            x = (
                view(x)
                if x.shape.rank == 3
                else tf.map_fn(view, x, fn_output_signature=tf.float32)
            )
        return tf.cast(
            self._normalized(tf.cast(x, tf.float32)), self.compute_dtype
        )

    def _normalized(self, x):
        scale, offset = (
            np.asarray(each, "float32") for each in (self.scale, self.offset)
        )
        channels = x.shape[-1]
        # Broadcasting would make three channels of one.
        if any(each.shape not in ((), (channels,)) for each in (scale, offset)):
            raise ValueError(
                f"`inputs` must have as many channels as `scale` and `offset` "
                f"have numbers. Received: {channels} channels, "
                f"scale={self.scale}, offset={self.offset}"
            )
        return x * scale + offset

    def get_config(self):
        config = super().get_config()
        for fixed in (
            *("interpolation", "antialias", "crop_to_aspect_ratio"),
            *("pad_to_aspect_ratio", "bounding_box_format"),
        ):
            config.pop(fixed, None)
        return {**config, "margin": self.margin}


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetImageClassifierPreprocessor(
    keras_hub.models.ImageClassifierPreprocessor
):
    """Prepares images, and hands labels and weights on.

    Args:
        image_converter: An `NFNetImageConverter`, or `None`.
        **kwargs: As for `keras_hub.models.ImageClassifierPreprocessor`.

    Input shape: That of `image_converter`.

    Output shape: That of `image_converter`.

    Raises:
        ValueError: If the images are not what the converter takes.

    Example:

    >>> import keras_nfnet.hub
    >>> preprocessor = keras_nfnet.hub.NFNetImageClassifierPreprocessor(
    ...     keras_nfnet.hub.NFNetImageConverter(image_size=32)
    ... )
    >>> x, y = preprocessor(np.zeros((2, 50, 40, 3), "uint8"), np.array([1, 0]))
    >>> tuple(x.shape)
    (2, 32, 32, 3)

    Reference: `keras_hub.models.ImageClassifierPreprocessor`.
    """

    backbone_cls = NFNetBackbone
    image_converter_cls = NFNetImageConverter


@keras.saving.register_keras_serializable(package="keras_nfnet")
class NFNetImageClassifier(keras_hub.models.ImageClassifier):
    """A classifier of keras-hub on an `NFNetBackbone`.

    `fit`, `predict` and `evaluate` take pixels of 0–255 where there is a
    preprocessor. `keras_nfnet.weights.load(classifier, …)` fills it, the
    classifier included.

    NOTE: `compile()` without arguments is keras-hub's, Adam without clipping.
    The papers' optimizer is `compile(keras_nfnet.SGDAGC(…), …)`. A new
    classifier's kernel starts as Keras's dense layers do, not from the
    papers' N(0, 0.01²).

    Args:
        backbone: An `NFNetBackbone`.
        num_classes: Number of classes, 1 or more.
        preprocessor: An `NFNetImageClassifierPreprocessor`, or `None` for
            images that are normalized already.
        pooling: `"avg"` or `"max"`.
        activation: Activation of the classifier; `None` for logits.
        dropout: Rate before the classifier, in [0, 1); `None` for the
            network's own.
        head_dtype: Dtype of pooling and classifier; `None` for float32 under
            mixed precision.
        **kwargs: As for `keras_hub.models.ImageClassifier`.

    Input shape: `(batch, height, width, channels)`, images normalized by
        `keras_nfnet.preprocess_input`; in `fit`, `predict` and `evaluate`
        what the preprocessor takes.

    Output shape: `(batch, num_classes)`.

    Raises:
        ValueError: If `backbone` is another, or `pooling`.

    Example:

    >>> import keras_nfnet.hub
    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> classifier = keras_nfnet.hub.NFNetImageClassifier(
    ...     keras_nfnet.hub.NFNetBackbone(config), num_classes=10
    ... )
    >>> classifier.output_shape
    (None, 10)

    Reference: arXiv:2102.06171, section 5.
    """

    backbone_cls = NFNetBackbone
    preprocessor_cls = NFNetImageClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes,
        preprocessor=None,
        pooling="avg",
        activation=None,
        dropout=None,
        head_dtype=None,
        **kwargs,
    ):
        if not isinstance(backbone, NFNetBackbone):
            refuse("backbone", backbone, "an `NFNetBackbone`")
        super().__init__(
            backbone,
            num_classes,
            preprocessor=preprocessor,
            pooling=pooling,
            activation=activation,
            dropout=backbone.config.drop_rate if dropout is None else dropout,
            head_dtype=head_dtype or backbone.dtype_policy.variable_dtype,
            **kwargs,
        )

    def save_to_preset(
        self, preset_dir, max_shard_size=10, *, source=None, license=None
    ):
        """Saves a preset with a model card, as `NFNetBackbone` does."""

        def write(folder):
            super(NFNetImageClassifier, self).save_to_preset(
                folder, max_shard_size
            )

        presets.save(self, write, preset_dir, source, license)
