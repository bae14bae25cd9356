"""The handwritten digits of scikit-learn as a TFDS data set.

1797 real scans of 8×8 pixels that ship with scikit-learn: a data set that
needs no download, and that a pipeline reads as it reads `imagenet2012`
(encoded images in TFRecords). Importing this module registers it, so that
`tfds.load("nf_digits", data_dir=...)` works.
"""

import io
import os

import numpy as np
import tensorflow_datasets as tfds

# Stratified split: as near to 80/20 as integers allow, in every class
# and in all (1437 and 360).
_TEST_EXAMPLES = 360
_SPLIT_SEED = 0

_CITATION = r"""
@misc{alpaydin1998optical,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""


class NfDigits(tfds.core.GeneratorBasedBuilder):
    """Scikit-learn's handwritten digits as PNG-encoded images."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "1797 handwritten digits of 43 people, grayscale images "
                "of 8 by 8 pixels with 17 levels of ink, as they ship with "
                "scikit-learn (the test set of the UCI data set), encoded "
                "as PNG."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(
                        names=[str(digit) for digit in range(10)]
                    ),
                    "id": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION,
            # The records keep the order they are written in.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)),
            test_size=_TEST_EXAMPLES,
            stratify=digits.target,
            random_state=_SPLIT_SEED,
        )
        return {
            "train": self._generate_examples(digits, train),
            "test": self._generate_examples(digits, test),
        }

    def _generate_examples(self, digits, indices):
        from PIL import Image

        for number, index in enumerate(indices):
            # 17 levels of ink, 0–16, on 0–255.
            pixels = np.round(digits.images[index] * (255 / 16))
            encoded = io.BytesIO()
            Image.fromarray(pixels.astype("uint8")).save(encoded, "PNG")
            encoded.seek(0)
            yield (
                number,
                {
                    "image": encoded,
                    "label": int(digits.target[index]),
                    "id": int(index),
                },
            )


def digits_builder(data_dir=None):
    """The prepared digits; written at the first call, about 0.5 MB.

    Processes may call this at the same time: each writes to a directory of
    its own, which takes the final name in one step, and who comes second
    reads what the first wrote. So does a call after one that was killed.

    Args:
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Returns:
        The `tfds.core.DatasetBuilder`, ready for `as_dataset`.

    Raises:
        ValueError: If `data_dir` cannot be written.
    """
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        builder = NfDigits(data_dir=data_dir)
        if not _is_prepared(builder):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    try_download_gcs=False
                ),
                file_format="tfrecord",
            )
    except OSError as error:
        # The rename fails where another process was quicker.
        builder = NfDigits(data_dir=data_dir)
        if not _is_prepared(builder):
            raise ValueError(
                "`data_dir` must be a directory that can be written. "
                f"Received: data_dir={str(data_dir)!r} ({error})"
            ) from error
    return builder


def _is_prepared(builder):
    return builder.data_path.exists() and bool(builder.info.splits)
