"""The directory of one run, and whether a recipe may go on in it."""

import dataclasses
import os
import re

import keras

from keras_nfnet.data.data_info import difference, fingerprint
from keras_nfnet.training.checkpoint import Checkpoints
from keras_nfnet.training.recipe_file import (
    from_toml,
    read_recipe,
    to_toml,
    write_recipe,
)
from keras_nfnet.training.results import write_results

_RECIPE = "recipe.toml"
# A run may go on with other values of these. Where the devices differ, sums
# are taken in another order, and the last bits with them.
_FREE = {"strategy"}
# The beginning of gs://bucket/runs, also as a `pathlib.Path` has it. (One
# letter is a drive of Windows.)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class RunDirectory:
    """`recipe.toml`, checkpoints, log and results of one run.

    Args:
        path: The directory, or `None` to keep nothing.
        recipe: The run's `Recipe`.
        chief: Whether this process writes; the others only read.

    Raises:
        ValueError: If another recipe runs there, or another process, or it
            is a URL.
    """

    def __init__(self, path, recipe, chief=True):
        self.path = None if path is None else os.path.abspath(path)
        self.metadata = {"backend": keras.backend.backend()}
        self._knows_recipe = False
        self._recipe = recipe
        self._chief = chief
        self._checkpoints = None
        if self.path is None:
            return
        if _URL.match(os.fspath(path)):
            raise ValueError(
                "`directory` must be a folder of a file system, a mounted "
                "one or a local one that is copied to the bucket. Received: "
                f"directory={str(path)!r}"
            )
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise ValueError(
                "`directory` must be a folder, or a place for a new one. "
                f"Received: directory={str(path)!r}, which is a file"
            )
        recipe = os.path.join(self.path, _RECIPE)
        self._knows_recipe = os.path.exists(recipe)
        self._checkpoints = Checkpoints(os.path.join(self.path, "checkpoints"))
        # A start that failed, as without a connection, leaves a recipe alone.
        if self._knows_recipe and (
            self._checkpoints.latest is not None
            or os.path.exists(os.path.join(self.path, "log.csv"))
        ):
            self._refuse_another_recipe(read_recipe(recipe), self.path)

    def __enter__(self):
        if self._checkpoints is not None and self._chief:
            self._checkpoints.acquire()
        return self

    def __exit__(self, *_):
        if self._checkpoints is not None:
            self._checkpoints.release()

    @property
    def checkpoints(self):
        """Where to save, or `None` if this process does not."""
        return self._checkpoints if self._chief else None

    @property
    def log(self):
        """Path of the CSV, or `None` if this process writes none."""
        if self.path is None or not self._chief:
            return None
        return os.path.join(self.path, "log.csv")

    def restore(self, data):
        """The checkpoint to go on from, or `None`.

        Writes the recipe, once nothing speaks against going on.

        Args:
            data: The `DataInfo` of the data, `{"training": …,
                "evaluation": …}`.

        Raises:
            ValueError: If the checkpoint is of another recipe, backend or
                data.
        """
        if self._checkpoints is None:
            return None
        data = {name: fingerprint(info) for name, info in data.items()}
        self.metadata.update(recipe=to_toml(self._recipe), data=data)
        checkpoint = self._checkpoints.restore()
        if checkpoint is not None:
            self._refuse(checkpoint, data)
        if self._chief:
            write_recipe(self._recipe, os.path.join(self.path, _RECIPE))
        return checkpoint

    def _refuse(self, checkpoint, data):
        """Refuses to go on from a checkpoint of another run."""
        metadata = checkpoint.metadata
        backend = keras.backend.backend()
        if metadata["backend"] != backend:
            raise ValueError(
                f"The run in {self.path!r} is on the {metadata['backend']} "
                "backend; go on with that, or use another directory. "
                f"Received: the {backend} backend"
            )
        if "recipe" in metadata:
            there = from_toml(metadata["recipe"], repr(checkpoint.path))
            self._refuse_another_recipe(there, checkpoint.path)
        elif not self._knows_recipe:
            raise ValueError(
                f"The checkpoint {checkpoint.path!r} does not say of which "
                f"recipe it is, and there is no {_RECIPE}; use another "
                f"directory. Received: directory={self.path!r}"
            )
        for name, before in metadata.get("data", {}).items():
            different = difference(before, data[name])
            if different:
                raise ValueError(
                    f"The {name} data of the run in {self.path!r} were "
                    "others; go on with those, or use another directory. "
                    f"Received: {different}"
                )

    def callbacks(self):
        """TensorBoard's, where it is installed."""
        if self.path is None or not self._chief:
            return []
        try:
            import tensorboard  # noqa: F401
        except ModuleNotFoundError:
            return []
        return [
            keras.callbacks.TensorBoard(
                os.path.join(self.path, "tensorboard"), write_graph=False
            )
        ]

    def finish(self, result, with_signal=True):
        """Writes what the run leaves; see `write_results`."""
        if self.path is None or not self._chief:
            return
        summary = {
            "recipe": self._recipe.name,
            "backend": keras.backend.backend(),
            "parameters": result.model.count_params(),
            "steps": result.steps,
            "examples": result.examples,
            "corrupt": result.corrupt,
            **{name: values[-1] for name, values in result.history.items()},
            **result.evaluation,
        }
        write_results(self.path, result, summary, self._recipe, with_signal)

    def _refuse_another_recipe(self, there, path):
        different = [
            field.name
            for field in dataclasses.fields(there)
            if field.name not in _FREE
            and getattr(there, field.name) != getattr(self._recipe, field.name)
        ]
        if different:
            values = ", ".join(
                f"{name}={getattr(self._recipe, name)!r} in place of "
                f"{getattr(there, name)!r}"
                for name in different
            )
            raise ValueError(
                f"Another recipe runs in {path!r}; use another "
                f"directory. Received: {values}"
            )
