"""A family of one's own, as CONTRIBUTING says: a row and a table of names."""

import numpy as np
from fill import images
from safetensors.numpy import save_file
from test_fold import randomized

import keras_nfnet
from keras_nfnet.data.preprocessing import preprocess_input
from keras_nfnet.diagnostics import count_macs
from keras_nfnet.export import onnx_file, to_onnx
from keras_nfnet.variants import VARIANTS, NFNetConfig, Stem
from keras_nfnet.weights import names
from keras_nfnet.weights.names import Layout
from keras_nfnet.weights.structure import (
    CONVOLUTION,
    DENSE,
    ECA,
    HEAD,
    parameters,
)

# Attention in the middle, one 3×3, a pooled stem and a gain of the branch.
CONFIG = NFNetConfig(
    (24, 48, 48),
    (1, 2, 1),
    group_width=8,
    attention="eca",
    attention_position="middle",
    skip="gain",
    use_two_convs=False,
    activation="silu",
    stem=Stem((16,), (2,), kernel_size=5, max_pool=True),
)
BLOCK = "body.{stage}.{block}"
PARTS = ("conv0", "conv1", "conv2", "conv_shortcut")
NAMES = Layout(
    "our",
    {
        "stem_conv": "entry",
        "final_conv": "neck",
        HEAD: "classifier",
        **{
            f"block/{part}": f"body.{{stage}}.{{block}}.{part}"
            for part in PARTS
        },
        "block/middle_eca": "body.{stage}.{block}.attention",
    },
    {
        CONVOLUTION: ("w", "g", "b"),
        DENSE: ("w", "b"),
        ECA: ("w",),
    },
    joint=".",
    torch=True,
)


def test_a_family_of_ones_own_goes_the_whole_way(monkeypatch, tmp_path):
    monkeypatch.setitem(VARIANTS, "own_nf_net", CONFIG)
    monkeypatch.setattr(names, "SAFETENSORS", [*names.SAFETENSORS, NAMES])
    build = {"weights": None, "classes": 4, "classifier_activation": None}
    model = randomized(keras_nfnet.NFNet("own_nf_net", **build))

    variables, _ = parameters(model)
    arrays = {
        NAMES.names(variables)[key]: NAMES.to_file(key, np.asarray(variable))
        for key, variable in variables.items()
    }
    assert arrays["body.1.0.attention.w"].shape == (1, 1, 3)
    save_file(arrays, tmp_path / "own.safetensors")
    build["weights"] = tmp_path / "own.safetensors"
    loaded = keras_nfnet.NFNet("own_nf_net", **build)
    x = images(40, 56, 0)
    expected = np.asarray(model(x))
    np.testing.assert_array_equal(np.asarray(loaded(x)), expected)

    folded = keras_nfnet.fold(model)
    np.testing.assert_allclose(np.asarray(folded(x)), expected, atol=1e-5)
    assert count_macs(model, 64, 64) == count_macs(folded, 64, 64)
    assert len(keras_nfnet.signal_propagation(model, x).res_avg_var) == 4
    twin = keras_nfnet.diagnostics.batch_normalized_twin(
        CONFIG, (64, 64, 3), classes=4
    )
    assert count_macs(twin, 64, 64) == count_macs(model, 64, 64)

    to_onnx(model, tmp_path / "own.onnx", size=64)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 40, 56, 3))
    np.testing.assert_allclose(
        onnx_file.runner(tmp_path / "own.onnx")(pixels),
        np.asarray(model(preprocess_input(pixels.astype("float32")))),
        atol=1e-5,
    )
