"""A recipe's run and the demo in a short form, on the real digits."""

import keras
import pytest

from keras_nfnet import NFNetConfig, Recipe, train
from keras_nfnet.training.recipes import recipe


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.mark.tensorflow
def test_demo_leaves_a_table_a_plot_a_model_and_a_saved_model(tmp_path):
    import tensorflow as tf
    from PIL import Image

    from keras_nfnet.demo import demo
    from keras_nfnet.predict import predict

    accuracy = demo(
        tmp_path / "demo",
        recipe("digits").replace(
            model=NFNetConfig((16, 32), (1, 1), group_width=8), epochs=3
        ),
        verbose=0,
    )
    folder = tmp_path / "demo"
    assert 0.1 <= accuracy <= 1
    text = (folder / "results.md").read_text()
    assert f"{100 * accuracy:.2f}%" in text
    assert Image.open(folder / "results.png").size[0] > 800
    model = keras.saving.load_model(folder / "digits.keras")
    assert model.output_shape == (None, 10)
    assert (folder / "saved_model" / "saved_model.pb").exists()
    assert not list(folder.glob(".*part*"))

    # The three ways from a picture to a label agree.
    pictures = sorted((folder / "pictures").glob("*.png"))
    assert len(pictures) == 10
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    served = loaded.signatures["serve_bytes"](
        image_bytes=tf.stack([path.read_bytes() for path in pictures])
    )
    predicted = predict(pictures, str(folder / "digits.keras"), top=1)
    assert [label.decode() for label in served["classes"].numpy()[:, 0]] == [
        label for ((label, _),) in predicted
    ]


def test_recipe_refuses_what_does_not_fit(data_dir):
    with pytest.raises(ValueError, match="classes"):
        train(recipe("digits").replace(classes=11), data_dir=data_dir)
    with pytest.raises(ValueError, match="batch_size"):
        train(recipe("digits").replace(batch_size=2000), data_dir=data_dir)
    with pytest.raises(ValueError, match="model"):
        recipe("digits").replace(model="F9")
    with pytest.raises(ValueError, match="warmup_epochs"):
        recipe("digits").replace(warmup_epochs=99)
    with pytest.raises(ValueError, match="recipe"):
        train("digits")
    assert isinstance(recipe("digits"), Recipe)
