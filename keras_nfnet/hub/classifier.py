"""The networks with their classifier, as a task of keras-hub."""

import keras
import keras_hub

from keras_nfnet.hub import presets
from keras_nfnet.hub.backbone import NFNetBackbone
from keras_nfnet.hub.images import NFNetImageClassifierPreprocessor
from keras_nfnet.utils.arguments import refuse


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
