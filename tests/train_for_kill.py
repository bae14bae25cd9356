"""A short deterministic run in a process of its own, to be killed.

python tests/train_for_kill.py DIRECTORY DATA_DIR SAVE_EVERY
"""

import sys

import keras

from keras_nfnet.training.recipes import recipe
from keras_nfnet.training.run import train
from keras_nfnet.training.smoke import smoke

directory, data_dir, save_every, *epochs = sys.argv[1:]
RECIPE = smoke(recipe("digits")).replace(
    ema_decay=0.9,
    epochs=int(epochs[0]) if epochs else 3,
    train_split="train[:160]",
    drop_rate=0.2,
    stochastic_depth_rate=0.2,
    deterministic=True,
)


class Print(keras.callbacks.Callback):
    """Prints each step, so that a test knows when to kill."""

    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)


if __name__ == "__main__":
    print("started", flush=True)
    train(
        RECIPE,
        directory,
        data_dir=data_dir,
        verbose=0,
        callbacks=[Print()],
        save_every=int(save_every),
    )
    print("finished", flush=True)
