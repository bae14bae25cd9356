"""Tests of `keras_nfnet.predict`."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_nfnet
from keras_nfnet.data.decoding import decode_picture
from keras_nfnet.data.labels import description
from keras_nfnet.data.preprocessing import (
    evaluation_picture,
    preprocess_input,
)
from keras_nfnet.predict import format_predictions, predict
from keras_nfnet.variants import VARIANTS, NFNetConfig


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("china", "flower"):
        picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for kind in ("jpg", "png", "webp"):
            picture.save(folder / f"{name}.{kind}")
    return folder


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A variant of ten classes that is small enough to test, with a file."""
    config = NFNetConfig(
        (32, 64, 96, 96), (1, 2, 1, 1), group_width=16, test_size=32
    )
    monkeypatch.setitem(VARIANTS, "TINY", config)
    model = keras_nfnet.NFNet("TINY", weights=None, classes=10)
    path = tmp_path / "tiny.weights.h5"
    model.save_weights(path)
    return model, path


def test_predict_gives_the_models_best_classes(pictures, weights):
    model, path = weights
    files = sorted(pictures.iterdir())
    predictions = predict(
        files, variant="tiny", weights=str(path), classes=10, top=3
    )
    assert len(predictions) == 6
    for file, classes in zip(files, predictions, strict=True):
        view = evaluation_picture(decode_picture(file), 32)
        scores = np.asarray(model(preprocess_input(view)[None]))[0]
        best = np.argsort(-scores)[:3]
        assert [label for label, _ in classes] == [str(i) for i in best]
        np.testing.assert_allclose(
            [score for _, score in classes], scores[best], atol=1e-5
        )


def test_predict_takes_one_picture_labels_and_another_size(pictures, weights):
    _, path = weights
    labels = [f"label {index}" for index in range(10)]
    (classes,) = predict(
        pictures / "china.jpg", "TINY", path, size=48, top=20, labels=labels
    )
    assert sorted(label for label, _ in classes) == labels
    assert sum(score for _, score in classes) == pytest.approx(1, abs=1e-5)
    encoded = (pictures / "china.jpg").read_bytes()
    assert predict(encoded, "TINY", path, size=48, top=20, labels=labels) == [
        classes
    ]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_predict_takes_a_keras_file_and_what_lies_beside_it(
    pictures, tmp_path, activation
):
    config = NFNetConfig((32, 64), (1, 1), group_width=16)
    model = keras_nfnet.NFNet(
        config, weights=None, classes=3, classifier_activation=activation
    )
    path = str(tmp_path / "model.keras")
    model.save(path)
    china = pictures / "china.png"
    with pytest.raises(ValueError, match="`size` must be given"):
        predict(china, path)
    plain = predict(china, path, size=48, top=3)
    texts = description("m", ["a", "b", "é"], (48, 48), "float32", margin=0)
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (found,) = predict(china, path, top=3)
    view = evaluation_picture(decode_picture(china), 48, 0)
    scores = np.asarray(model(preprocess_input(view)[None]))
    if activation is None:
        scores = np.exp(scores) / np.exp(scores).sum()
    wanted = dict(zip(["a", "b", "é"], scores[0], strict=True))
    assert dict(found) == pytest.approx(wanted, abs=1e-5)
    assert [score for _, score in plain[0]] != [score for _, score in found]
    with pytest.raises(ValueError, match="`weights` is of a variant"):
        predict(china, path, weights="a.h5")
    (tmp_path / "preprocessing.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessing\.json"):
        predict(china, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": []}, "`images`"),
        ({"variant": "F9"}, "`variant` must be one of F0.*'F9'"),
        ({"variant": "gone.keras"}, "`variant` must be.*'gone.keras'"),
        ({"weights": None}, "`weights`.*Received: weights=None"),
        ({"top": 0}, "`top`.*Received: top=0"),
        ({"size": 0}, "`size`.*Received: size=0"),
        ({"labels": ["a", ""]}, "`labels`"),
        ({"labels": ["a"], "classes": 2}, "each of the 2 classes"),
        ({"images": ["gone.jpg"]}, "gone.jpg"),
    ],
)
def test_predict_refuses_bad_input_before_it_builds(
    monkeypatch, pictures, options, message
):
    def build(*args, **kwargs):
        raise AssertionError("built")

    monkeypatch.setattr("keras_nfnet.models.nfnet.NFNet", build)
    options = {"images": [pictures / "china.png"], **options}
    with pytest.raises(ValueError, match=message):
        predict(**options)


def test_predict_names_the_bad_picture_among_good_ones(pictures, tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    for bad in (empty, tmp_path):
        with pytest.raises(ValueError, match=bad.name):
            predict([pictures / "china.png", bad], weights="imagenet")


def test_format_predictions_is_a_plain_table():
    text = format_predictions(
        ["a.jpg", "b.png"], [[("cat", 0.75), ("dog", 0.2)], [("dog", 1.0)]]
    )
    assert text.splitlines() == [
        "a.jpg",
        "   75.00%  cat",
        "   20.00%  dog",
        "b.png",
        "  100.00%  dog",
    ]
