"""What a recipe describes, built: its network, compiled, and its batches."""

import contextlib
import functools

import keras

from keras_nfnet.models.nfnet import NFNet
from keras_nfnet.models.output import logits_model
from keras_nfnet.optimizers import SGDAGC, WarmupCosine
from keras_nfnet.weights import load
from keras_nfnet.weights.load import classes_in


def network(recipe, load_weights=True):
    """The recipe's classifier.

    Args:
        recipe: A `Recipe`.
        load_weights: Whether to load the weights that the recipe starts
            from.

    Raises:
        ValueError: If the weights do not fit.
    """
    one_size = recipe.test_size in (None, recipe.size)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        classifier = NFNet(
            recipe.model,
            weights=None,
            classes=recipe.classes,
            classifier_activation=(
                "sigmoid" if recipe.classes == 1 else "softmax"
            ),
            input_shape=(recipe.size, recipe.size, 3) if one_size else None,
            name=recipe.name,
            drop_rate=recipe.drop_rate,
            stochastic_depth_rate=recipe.stochastic_depth_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)
    if recipe.weights is None or not load_weights:
        return classifier
    classes = classes_in(recipe.weights)
    fits = classes == recipe.classes
    new_head = not fits if recipe.new_head is None else recipe.new_head
    if not (fits or new_head):
        raise ValueError(
            "`weights` must have a classifier of as many classes as the "
            f"recipe ({recipe.classes}), or `new_head` must be true. Received: "
            f"weights={recipe.weights!r}, with {classes or 'no'} classes, "
            f"new_head={new_head!r}"
        )
    load(classifier, recipe.weights, new_head=new_head)
    return classifier


def build(recipe, steps_per_epoch, load_weights=True):
    """The recipe's network, compiled with its optimizer and loss.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Steps of `fit` in one epoch.
        load_weights: As for `network`.

    Returns:
        A model that ends in logits, `(batch, classes)`, from which the loss
        is computed. `probabilities_model` gives the classifier.

    Raises:
        ValueError: If the weights do not fit, or the devices cannot do what
            the recipe asks for.
    """
    model = logits_model(network(recipe, load_weights))
    parts = recipe.gradient_accumulation_steps or 1
    steps_per_epoch //= parts
    model.compile(
        optimizer=SGDAGC(
            WarmupCosine(
                recipe.peak_learning_rate,
                total_steps=recipe.epochs * steps_per_epoch,
                warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            ),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            clipping=recipe.clipping,
            eps=recipe.eps,
            ema_decay=recipe.ema_decay,
            gradient_accumulation_steps=parts if parts > 1 else None,
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        sam_rho=recipe.sam_rho,
        sam_fraction=recipe.sam_fraction,
    )
    return model


class TrainingData:
    """A recipe's training batches, from any step on.

    Args:
        recipe: A `Recipe`.
        batch_size: Global batch of one step of `fit`.
        data_dir: Where TFDS keeps data sets.
        own: The caller's own examples, see `train`, or `None`.

    Raises:
        ValueError: If the recipe does not fit the data.
    """

    def __init__(self, recipe, batch_size, data_dir=None, own=None):
        if own is None:
            from keras_nfnet.data.pipeline import training_dataset

            self._dataset = functools.partial(
                training_dataset,
                recipe.data,
                recipe.train_split,
                size=recipe.size,
                batch_size=batch_size,
                seed=recipe.seed,
                augment=recipe.augmentation,
                data_dir=data_dir,
                max_corrupt=recipe.max_corrupt,
            )
            _, self.info = self._dataset()
        else:
            self.info = _own_info("data", own, recipe, recipe.size)
        self._infos = []
        # One sigmoid unit tells two classes apart.
        if self.info.classes not in (recipe.classes, max(2, recipe.classes)):
            raise ValueError(
                f"`classes` must be what the data has ({self.info.classes}). "
                f"Received: classes={recipe.classes}"
            )
        # Parts of an incomplete batch of the optimizer are left out.
        parts = recipe.gradient_accumulation_steps or 1
        self.steps = self.info.examples // recipe.batch_size * parts
        if not self.steps:
            raise ValueError(
                "`batch_size` must not exceed the examples of the training "
                f"split ({self.info.examples}). Received: "
                f"batch_size={recipe.batch_size}"
            )
        if own is not None:
            self._dataset = functools.partial(
                _own_training_batches, own, self.info, batch_size, self.steps
            )

    def part(self, first_step):
        """A function of `(index, count)`: parts of the batches from a step."""

        def of(index, count):
            dataset, info = self._dataset(
                first_step=first_step, shard=(index, count)
            )
            self._infos.append(info)
            return dataset

        return of

    @contextlib.contextmanager
    def errors(self):
        """Raises a `ValueError` where too many images are corrupt."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError:
            for info in self._infos:
                info.corrupt.check()
            raise

    def corrupt(self):
        """One line on images that could not be decoded so far, or ''."""
        lines = [info.corrupt.summary() for info in self._infos]
        return "; ".join(line for line in lines if line)


def evaluation_data(recipe, batch_size, data_dir=None, own=None):
    """A recipe's evaluation batches, and their `DataInfo`.

    Args:
        recipe: A `Recipe`.
        batch_size: Examples of one global batch.
        data_dir: Where TFDS keeps data sets.
        own: The caller's own examples, see `train`, or `None`.

    Raises:
        ValueError: If the data are not there or do not fit.
    """
    size = recipe.test_size or recipe.size
    if own is not None:
        info = _own_info("test_data", own, recipe, size)
        return _own_batches(own, info, batch_size), info
    from keras_nfnet.data.pipeline import evaluation_dataset

    return evaluation_dataset(
        recipe.data,
        recipe.test_split,
        size=size,
        batch_size=batch_size,
        margin=recipe.evaluation_margin,
        data_dir=data_dir,
        max_corrupt=recipe.max_corrupt,
    )


def _own_info(argument, dataset, recipe, size):
    """The `DataInfo` of a caller's dataset, once it is checked.

    Args:
        argument: Name of the caller's argument, for errors.
        dataset: The dataset.
        recipe: The `Recipe`.
        size: Side of the images in pixels.

    Raises:
        ValueError: If the dataset is no `tf.data.Dataset` of a known number
            of examples `(image, label)`.
    """
    import tensorflow as tf

    from keras_nfnet.data.data_info import CorruptCounter, DataInfo

    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"`{argument}` must be a `tf.data.Dataset`. "
            f"Received: {argument}={dataset!r}"
        )
    classes = max(2, recipe.classes)
    spec = dataset.element_spec
    images = tf.TensorSpec((size, size, 3), tf.float32)
    fits = (
        isinstance(spec, tuple)
        and len(spec) == 2
        and images.is_compatible_with(spec[0])
        and (
            (spec[1].shape.rank == 0 and spec[1].dtype.is_integer)
            or (spec[1].shape == (classes,) and spec[1].dtype.is_floating)
        )
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must hold examples, not batches: pairs of a "
            f"normalized float32 image ({size}, {size}, 3) and an integer "
            f"label or {classes} floats. Received: examples {spec}"
        )
    examples = int(dataset.cardinality())
    if examples < 1:
        raise ValueError(
            f"`{argument}` must hold a known number of examples, above 0; "
            "`tf.data.experimental.assert_cardinality` tells it. "
            f"Received: a cardinality of {examples}"
        )
    return DataInfo(
        name=recipe.data,
        split=argument,
        examples=examples,
        classes=classes,
        label_names=tuple(map(str, range(classes))),
        corrupt=CorruptCounter(recipe.max_corrupt, examples),
    )


def _own_training_batches(dataset, info, batch_size, steps, first_step, shard):
    """As `training_dataset`: endless batches, the examples in their order."""
    import tensorflow as tf

    index, count = shard
    part = batch_size // count

    def part_of(images, labels):
        rows = slice(index * part, (index + 1) * part)
        return images[rows], labels[rows]

    # Examples beyond the whole batches of an epoch are left out.
    dataset = dataset.take(steps * batch_size)
    epoch = _own_batches(dataset, info, batch_size, drop_remainder=True)
    batches = epoch.skip(first_step % steps).concatenate(epoch.repeat())
    return batches.map(part_of).prefetch(tf.data.AUTOTUNE), info


def _own_batches(dataset, info, batch_size, drop_remainder=False):
    import tensorflow as tf

    def one_hot(image, label):
        if label.shape.rank == 0:
            label = tf.one_hot(label, info.classes)
        return image, tf.cast(label, tf.float32)

    return dataset.map(one_hot).batch(batch_size, drop_remainder)
