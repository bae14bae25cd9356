"""Tests of `keras_nfnet.data.labels`."""

import keras
import numpy as np
import pytest

from keras_nfnet.data.labels import (
    class_names,
    decode_predictions,
    imagenet_labels,
)


def test_there_are_1000_imagenet_labels_in_the_order_of_their_ids():
    labels = imagenet_labels()
    ids = [wnid for wnid, _ in labels]
    assert len(labels) == 1000
    assert ids == sorted(set(ids))
    # Known places of Keras's class index.
    for index, label in {
        0: ("n01440764", "tench"),
        2: ("n01484850", "great_white_shark"),
        134: ("n02012849", "crane"),
        517: ("n03126707", "crane"),
        607: ("n03590841", "jack-o'-lantern"),
        999: ("n15075141", "toilet_tissue"),
    }.items():
        assert labels[index] == label


def test_decode_predictions_gives_the_best_first():
    preds = np.zeros((2, 1000), "float32")
    preds[0, [7, 3, 999]] = 0.2, 0.5, 0.3
    preds[1, 0] = 1.0
    for kind in (preds, keras.ops.convert_to_tensor(preds)):
        first, second = decode_predictions(kind, top=3)
        assert [name for _, name, _ in first] == [
            "tiger_shark",
            "toilet_tissue",
            "cock",
        ]
        assert first[0] == ("n01491361", "tiger_shark", 0.5)
        assert second[0][1:] == ("tench", 1.0)
    assert len(decode_predictions(preds)[0]) == 5


@pytest.mark.parametrize("shape", [(1000,), (1, 10), (1, 1, 1000)])
def test_decode_predictions_refuses_another_shape(shape):
    with pytest.raises(ValueError, match=r"\(samples, 1000\).*Received"):
        decode_predictions(np.zeros(shape))


@pytest.mark.parametrize("top", [0, 1001, -1, 2.5, True])
def test_decode_predictions_refuses_top_out_of_range(top):
    with pytest.raises(ValueError, match="`top`.*Received: top="):
        decode_predictions(np.zeros((1, 1000)), top=top)


def test_class_names_come_from_a_list_a_file_or_the_number(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndög\n", encoding="utf-8")
    assert class_names(["cat", "dög"], 2) == ("cat", "dög")
    assert class_names(file, 2) == ("cat", "dög")
    assert class_names(None, 2) == ("0", "1")
    assert class_names(None, 1000)[0] == "tench"


@pytest.mark.parametrize(
    "labels", [["a"], ["a", ""], ["a", "b\nc"], ["a", 1], "missing.txt"]
)
def test_class_names_refuse_what_does_not_fit(labels):
    with pytest.raises(ValueError, match="`labels`.*Received"):
        class_names(labels, 2)
