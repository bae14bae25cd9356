"""Signal propagation plots."""

import numpy as np
import pytest

from keras_nfnet import NFNet, NFNetConfig, signal_propagation


def test_signal_follows_the_analysis_at_initialization():
    model = NFNet(
        NFNetConfig((64, 128), (3, 3), group_width=32),
        weights=None,
        include_top=False,
    )
    for variable in model.trainable_weights:
        if variable.name == "skip_gain":
            variable.assign(1.0)
    signal = signal_propagation(model)
    assert len(signal.avg_var) == len(signal.avg_sq_mean) == 7
    assert len(signal.res_avg_var) == 6
    assert all(isinstance(value, float) for value in signal.avg_var)
    np.testing.assert_allclose(
        signal.expected_var, [1, 1.04, 1.08, 1.12, 1.04, 1.08, 1.12]
    )
    # The first stage; later ones begin with an average pool, which takes
    # away variance of white noise that the analysis does not see.
    np.testing.assert_allclose(
        signal.avg_var[:4], signal.expected_var[:4], rtol=0.1
    )
    figure = signal.plot()
    assert len(figure.axes) == 3
    drawn = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, signal.avg_var)


def test_bad_model_and_images_are_named(tiny):
    import keras

    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="model"):
        signal_propagation(other)
    for shape in ((2, 32, 32), (2, 32, 32, 1), (0, 32, 32, 3)):
        with pytest.raises(ValueError, match="x"):
            signal_propagation(tiny(), np.zeros(shape, "float32"))
