"""A recipe's batches, for training and for evaluation."""

import contextlib


def batch_of_one_step(recipe):
    """Examples of one step of `fit`, a part of the optimizer's batch."""
    return recipe.batch_size // (recipe.gradient_accumulation_steps or 1)


class TrainingData:
    """A recipe's training batches, from any step on.

    Args:
        recipe: A `Recipe`.
        batch_size: Global batch of one step of `fit`.
        data_dir: Where TFDS keeps data sets.
        own: A caller's own examples, see `train`, or `None`.

    Raises:
        ValueError: If the recipe does not fit the data.
    """

    def __init__(self, recipe, batch_size, data_dir=None, own=None):
        self._recipe = recipe
        self._batch_size = batch_size
        self._data_dir = data_dir
        self._own = own
        if own is None:
            _, self.info = self._dataset(0, (0, 1))
        else:
            from keras_nfnet.training.own_data import own_info

            self.info = own_info("data", own, recipe, recipe.size)
        self._infos = []
        refuse_other_classes(recipe, self.info)
        # Of parts that make one step of the optimizer only whole ones.
        parts = recipe.gradient_accumulation_steps or 1
        self.steps = self.info.examples // recipe.batch_size * parts
        if not self.steps:
            raise ValueError(
                "`batch_size` must not exceed the examples of the training "
                f"split ({self.info.examples}). Received: "
                f"batch_size={recipe.batch_size}"
            )

    def part(self, first_step):
        """A function of `(index, count)`: parts of the batches from a step."""

        def of(index, count):
            dataset, info = self._dataset(first_step, (index, count))
            self._infos.append(info)
            return dataset

        return of

    @contextlib.contextmanager
    def errors(self):
        """Tells of too many corrupt pictures in an error of our own."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError:
            for info in self._infos:
                info.corrupt.check()
            raise

    def corrupt(self):
        """One line on pictures that could not be decoded so far, or ''."""
        lines = [info.corrupt.summary() for info in self._infos]
        return "; ".join(line for line in lines if line)

    def _dataset(self, first_step, shard):
        if self._own is not None:
            from keras_nfnet.training.own_data import own_training_batches

            return (
                own_training_batches(
                    self._own,
                    self.info,
                    self._batch_size,
                    self.steps,
                    first_step,
                    shard,
                ),
                self.info,
            )
        from keras_nfnet.data.pipeline import training_dataset

        recipe = self._recipe
        return training_dataset(
            recipe.data,
            recipe.train_split,
            size=recipe.size,
            batch_size=self._batch_size,
            seed=recipe.seed,
            augment=recipe.augmentation,
            data_dir=self._data_dir,
            first_step=first_step,
            shard=shard,
            max_corrupt=recipe.max_corrupt,
        )


def refuse_other_classes(recipe, info):
    """Refuses data that have other classes than the recipe.

    Raises:
        ValueError: Naming both numbers.
    """
    if info.classes == recipe.classes:
        return
    if info.classes == 2 and recipe.classes == 1:
        return  # One sigmoid unit.
    raise ValueError(
        f"`classes` must be what the data has ({info.classes}). "
        f"Received: classes={recipe.classes}"
    )


def evaluation_data(recipe, batch_size, data_dir=None, own=None):
    """A recipe's evaluation batches, and what they hold.

    Args:
        recipe: A `Recipe`.
        batch_size: Examples of one global batch.
        data_dir: Where TFDS keeps data sets.
        own: A caller's own examples, see `train`, or `None`.

    Raises:
        ValueError: If the data are not there or do not fit.
    """
    if own is not None:
        from keras_nfnet.training.own_data import (
            own_evaluation_batches,
            own_info,
        )

        size = recipe.test_size or recipe.size
        info = own_info("test_data", own, recipe, size)
        return own_evaluation_batches(own, info, batch_size), info
    from keras_nfnet.data.pipeline import evaluation_dataset

    return evaluation_dataset(
        recipe.data,
        recipe.test_split,
        size=recipe.test_size or recipe.size,
        batch_size=batch_size,
        margin=recipe.evaluation_margin,
        data_dir=data_dir,
        max_corrupt=recipe.max_corrupt,
    )


def progress_bar(examples, batch_size):
    """A progress bar over the batches of an evaluation."""
    from tqdm import tqdm

    def wrapped(dataset):
        total = -(-examples // batch_size)
        return tqdm(dataset, "evaluation", total, leave=False, delay=2)

    return wrapped
