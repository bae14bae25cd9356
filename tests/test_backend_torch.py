"""What is PyTorch's own; `make test-torch` runs many other tests there too."""

import os
import signal

import keras
import numpy as np
import pytest
from test_fold import network

import keras_nfnet
from keras_nfnet.training.recipes import recipe
from keras_nfnet.training.stop import TrainingStopped

# Run by `make test-torch`; PyTorch is no part of the other environments.
if keras.backend.backend() != "torch":
    pytest.skip("needs the PyTorch backend", allow_module_level=True)

import torch

BATCH = 8


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2 * BATCH, 32, 32, 3)).astype("float32")
    return x, np.arange(2 * BATCH) % 10


def compiled(optimizer, **options):
    model = network(input_shape=(32, 32, 3), classifier_activation=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    return model


def test_no_layer_hides_what_is_of_torchs_modules():
    # `NFBlock.forward` did: PyTorch calls a module by that name.
    inherited = set(dir(torch.nn.Module)) - set(dir(object))
    # Keras's own layers override these.
    inherited -= set(vars(keras.layers.Layer)) | {"compile"}
    kinds = [
        kind
        for kind in keras.saving.get_custom_objects().values()
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer)
    ]
    assert keras_nfnet.models.nf_block.NFBlock in kinds
    for kind in kinds:
        assert not inherited & set(vars(kind)), kind


@pytest.mark.parametrize("options", [{}, {"sam_rho": 0.05}])
def test_fit_reports_clipped_units_and_the_rate_and_averages_weights(options):
    schedule = keras_nfnet.WarmupCosine(0.1, 10, 2)
    optimizer = keras_nfnet.SGDAGC(schedule, ema_decay=0.9)
    model = compiled(optimizer, **options)
    x, y = data()
    history = model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(0 < value < 1 for value in history["clipped"])
    np.testing.assert_allclose(history["learning_rate"][0], 0.05)
    averaged = keras_nfnet.ema_model(model).predict(x, verbose=0)
    assert averaged.shape == (2 * BATCH, 10)
    assert np.abs(averaged - model.predict(x, verbose=0)).max() > 0


def test_a_tf_data_set_feeds_it():
    tf = pytest.importorskip("tensorflow")
    model = compiled(keras_nfnet.SGDAGC(0.1))
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    history = model.fit(batches, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("folded", [False, True])
def test_keras_writes_a_pt2_file_of_any_batch(folded, tmp_path):
    model = network(input_shape=(32, 32, 3))
    written = keras_nfnet.fold(model) if folded else model
    path = str(tmp_path / "model.pt2")
    batch = torch.export.Dim("batch", min=1, max=64)
    written.export(
        path, format="torch", dynamic_shapes=[{0: batch}], verbose=False
    )
    run = torch.export.load(path).module()
    for size in (1, 3):
        x = data()[0][:size]
        outputs = torch.utils._pytree.tree_leaves(run(torch.tensor(x)))
        np.testing.assert_allclose(
            outputs[0].detach().numpy(),
            model.predict(x, verbose=0),
            atol=1e-6,
        )


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    digits = recipe("digits").replace(
        model=keras_nfnet.NFNetConfig((16,), (1,), group_width=8),
        size=32,
        epochs=1,
        warmup_epochs=0,
    )
    options = {"data_dir": str(tmp_path / "data"), "verbose": 0}
    whole = keras_nfnet.train(digits, **options)
    run = str(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        keras_nfnet.train(digits, run, callbacks=[Stop()], **options)
    resumed = keras_nfnet.train(digits, run, **options)
    assert whole.steps == resumed.steps > 3
    assert whole.loss == resumed.loss
    for one, other in zip(
        whole.model.weights, resumed.model.weights, strict=True
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        )
    with pytest.raises(ValueError, match="`strategy` must be 'auto' or 'one'"):
        keras_nfnet.train(digits.replace(strategy="mirrored"))
