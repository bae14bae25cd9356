"""Every family, and any number of channels, from building to exports."""

import json

import keras
import numpy as np
import pytest
from fill import images
from test_fold import check_same, randomized

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig
from keras_nfnet.data.preprocessing import preprocess_input
from keras_nfnet.diagnostics import count_macs
from keras_nfnet.export import onnx_file, tflite, to_onnx, to_tflite
from keras_nfnet.models.body import pyramid
from keras_nfnet.variants import TIMM, Stem
from keras_nfnet.weights import convert, load, save, to_haiku_tree

tensorflow = pytest.mark.tensorflow
_SINGLE = Stem((1.0,), (2,))
_POOLED = Stem((16,), (2,), kernel_size=7, max_pool=True)
_REGNET = {
    "bottleneck_of": "in",
    "bottleneck_ratio": 2.25,
    "attention_position": "middle",
    "use_two_convs": False,
    "stem": _SINGLE,
    "first_stride": 2,
    "activation": "silu",
    "group_width": 8,
}
_RESNET = {
    "stem": _POOLED,
    "use_two_convs": False,
    "group_width": None,
    "final_conv_mult": None,
    "activation": "relu",
}
# One small network of the form of each family.
FORMS = {
    "NFNet": {},
    "NF-RegNet": _REGNET,
    "NF-ResNet": {**_RESNET, "attention": None, "shortcut": "strided"},
    "NF-ResNet with SE": {**_RESNET, "shortcut": "strided"},
    "timm NFNet-L": {"se_ratio": 0.25, "activation": "silu", **TIMM},
    "timm ECA-NFNet-L": {"attention": "eca", "activation": "silu", **TIMM},
    "timm NF-RegNet": {**_REGNET, **TIMM},
    "timm NF-ResNet": {**_RESNET, "attention": None, **TIMM},
    "timm NF-SEResNet": {**_RESNET, "se_ratio": 0.25, **TIMM},
    "timm NF-ECAResNet": {**_RESNET, "attention": "eca", **TIMM},
}
each_form = pytest.mark.parametrize("form", FORMS)


def small(form, **options):
    config = {"group_width": 16, **FORMS[form]}
    options = {"weights": None, "classes": 10, **options}
    return randomized(NFNet(NFNetConfig((32, 48), (1, 2), **config), **options))


def pixels(height=40, width=48, channels=3, batch=2):
    generator = np.random.default_rng(0)
    shape = (batch, height, width, channels)
    return generator.uniform(0, 255, shape).astype("float32")


@each_form
def test_every_form_is_saved_folded_and_counted(form, tmp_path):
    model = small(form, classifier_activation=None)
    x = images(37, 45, 0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))
    assert list(again.pyramid_outputs) == list(model.pyramid_outputs)
    folded = check_same(model, x)
    assert count_macs(folded, 64, 64) == count_macs(model, 64, 64) > 0


@each_form
@pytest.mark.parametrize("ending", [".safetensors", ".weights.h5", "timm"])
def test_every_form_has_its_names_in_files(form, ending, tmp_path):
    model, target = small(form), small(form)
    layout, path = None, tmp_path / f"w{ending}"
    if ending == "timm":
        layout, path = "timm", tmp_path / "w.safetensors"
    save(model, path, layout=layout)
    load(randomized(target, seed=1), path)
    for one, other in zip(model.weights, target.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    report = convert(path, tmp_path / "again.safetensors")
    assert report["parameters"] == model.count_params()
    if ending == ".weights.h5":
        target.load_weights(path)
    with pytest.raises(ValueError, match="nothing was loaded|Received"):
        load(small("NFNet" if form != "NFNet" else "timm NF-ResNet"), path)


@each_form
def test_deepminds_names_are_for_deepminds_forms(form):
    model = small(form)
    if form.startswith("timm"):
        with pytest.raises(ValueError, match="`model` must be a network that"):
            to_haiku_tree(model)
        return
    root = form.replace("-", "_").removesuffix(" with SE")
    assert all(
        module.startswith(f"{root}/~/") for module in to_haiku_tree(model)
    )


@each_form
@pytest.mark.parametrize(
    "write, runner",
    [
        pytest.param(to_onnx, onnx_file.runner, id="onnx"),
        pytest.param(to_tflite, tflite.runner, id="tflite", marks=tensorflow),
    ],
)
def test_every_form_is_exported(form, write, runner, tmp_path):
    model = small(form, classifier_activation=None)
    report = write(model, tmp_path / "model", size=32)
    assert report.largest_difference < 1e-4
    run = runner(tmp_path / "model")
    for height, width in ((33, 47), (64, 32)):
        x = pixels(height, width)
        expected = np.asarray(model(preprocess_input(x)))
        np.testing.assert_allclose(
            run(x), expected, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    "form", ["NFNet", "timm ECA-NFNet-L", "timm NF-ResNet"]
)
def test_feature_maps_are_exported_by_their_names(form, tmp_path):
    model = small(form, input_shape=(64, 64, 3))
    backbone = keras_nfnet.features(model)
    x = pixels(64, 64)
    expected = backbone(preprocess_input(x))
    to_onnx(backbone, tmp_path / "a.onnx")
    runs = [onnx_file.runner(tmp_path / "a.onnx")]
    if keras.backend.backend() == "tensorflow":
        from keras_nfnet.export import saved_model, to_saved_model

        to_tflite(backbone, tmp_path / "a.tflite")
        runs.append(tflite.runner(tmp_path / "a.tflite"))
        to_saved_model(backbone, tmp_path / "a")
        runs.append(saved_model.runner(tmp_path / "a"))
    for run in runs:
        got = run(x)
        assert sorted(got) == sorted(expected)
        for level, values in expected.items():
            values = np.asarray(values)
            np.testing.assert_allclose(
                got[level], values, atol=1e-5 * np.abs(values).max()
            )


@pytest.mark.parametrize("use_two_convs", [False, True])
def test_a_dilated_stage_sees_what_the_strided_one_sees(use_two_convs):
    # Without attention, every other place of a dilated stage is a place of
    # the strided one, for symmetric padding.
    config = {**FORMS["timm NF-ResNet"], "use_two_convs": use_two_convs}
    config = NFNetConfig((16, 24, 32, 32), (1, 2, 1, 2), **config)
    options = {"weights": None, "include_top": False}
    strided = randomized(NFNet(config, **options))
    dilated = NFNet(config, output_stride=16, **options)
    dilated.set_weights(strided.get_weights())
    x = images(64, 96, 0)
    expected, got = np.asarray(strided(x)), np.asarray(dilated(x))
    assert got.shape[1:3] == (4, 6)
    np.testing.assert_allclose(
        got[:, ::2, ::2], expected, atol=1e-5 * np.abs(expected).max()
    )
    check_same(dilated, x)
    levels = keras_nfnet.features(dilated)(x)
    assert list(levels) == ["P1", "P2", "P3", "P4", "P5"]
    assert levels["P5"].shape[1:3] == got.shape[1:3]
    by_stride = pyramid(dilated, by_stride=True)
    assert list(by_stride) == ["P1", "P2", "P3", "P4"]
    assert by_stride["P4"] is dilated.pyramid_outputs["P5"]


@pytest.mark.parametrize("levels", [None, ("P2", "P3")])
def test_feature_maps_know_their_levels_wherever_they_come_from(
    levels, tmp_path
):
    model = small("NFNet", include_top=False)
    if levels:
        model = keras_nfnet.features(model, levels)
    model.save(tmp_path / "model.keras")
    shapes = {k: v.shape for k, v in model.pyramid_outputs.items()}
    assert list(shapes) == list(levels or ("P1", "P2", "P3"))
    assert model.hidden_dims == [shape[-1] for shape in shapes.values()]
    for again in (
        keras.models.clone_model(model),
        keras.models.load_model(tmp_path / "model.keras"),
        type(model).from_config(model.get_config()),
    ):
        assert again.hidden_dims == model.hidden_dims
        found = again.pyramid_outputs
        assert {k: v.shape for k, v in found.items()} == shapes
        # They are tensors of that model itself.
        keras.Model(again.inputs, found)


@each_form
def test_dilated_networks_of_every_form_are_exported(form, tmp_path):
    config = {"group_width": 16, **FORMS[form]}
    model = randomized(
        NFNet(
            NFNetConfig((16, 32, 32, 48), (1, 1, 1, 2), **config),
            weights=None,
            include_top=False,
            output_stride=8,
        )
    )
    assert model(images(64, 64, 0)).shape[1:3] == (8, 8)
    report = to_onnx(model, tmp_path / "a.onnx", size=64)
    assert report.cosine > 0.99999


@pytest.mark.parametrize("value", [0, 4, 64, "16"])
def test_other_output_strides_are_refused(value):
    with pytest.raises(ValueError, match="`output_stride` must be.*Received"):
        NFNet(NFNetConfig((8,), (1,)), weights=None, output_stride=value)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7])
def test_values_of_rgb_networks_fit_any_number_of_channels(channels, tmp_path):
    rgb = small("timm ECA-NFNet-L")
    save(rgb, tmp_path / "rgb.safetensors", layout="timm")
    model = small("timm ECA-NFNet-L", input_shape=(None, None, channels))
    load(model, tmp_path / "rgb.safetensors")
    kernel = np.asarray(rgb.get_layer("stem_conv0").kernel)
    if channels == 1:
        expected = kernel.sum(axis=2, keepdims=True)
    else:
        expected = np.concatenate([kernel] * 3, axis=2)[:, :, :channels]
        expected = expected * (3 / channels)
    np.testing.assert_allclose(
        np.asarray(model.get_layer("stem_conv0").kernel), expected, rtol=1e-6
    )
    for name in ("gain", "bias"):
        np.testing.assert_array_equal(
            np.asarray(getattr(model.get_layer("stem_conv0"), name)),
            np.asarray(getattr(rgb.get_layer("stem_conv0"), name)),
        )


def test_another_number_of_channels_than_rgb_is_not_adapted(tmp_path):
    save(small("NFNet", input_shape=(None, None, 2)), tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="of another shape"):
        load(small("NFNet"), tmp_path / "a.weights.h5")


@tensorflow
def test_one_channel_goes_the_whole_way(tmp_path):
    from PIL import Image

    from keras_nfnet.export import saved_model, to_saved_model
    from keras_nfnet.predict import predict

    form = "timm ECA-NFNet-L"
    rgb = small(form)
    save(rgb, tmp_path / "rgb.safetensors", layout="timm")
    model = small(form, input_shape=(32, 48, 1), classes=3)
    load(model, tmp_path / "rgb.safetensors", new_head=True)
    model.compile(
        keras_nfnet.SGDAGC(0.01), keras.losses.SparseCategoricalCrossentropy()
    )
    x = pixels(32, 48, channels=1)
    model.fit(preprocess_input(x), np.array([0, 2]), verbose=0)

    expected = np.asarray(model(preprocess_input(x)))
    to_onnx(model, tmp_path / "a.onnx")
    to_tflite(model, tmp_path / "a.tflite")
    to_tflite(model, tmp_path / "b.tflite", "int8", calibration=x)
    to_saved_model(model, tmp_path / "a")
    for run in (
        onnx_file.runner(tmp_path / "a.onnx"),
        tflite.runner(tmp_path / "a.tflite"),
        lambda x: saved_model.runner(tmp_path / "a")(x)["probabilities"],
    ):
        np.testing.assert_allclose(run(x), expected, atol=1e-5)

    gray = Image.fromarray(x[0, ..., 0].astype("uint8"))
    gray.save(tmp_path / "gray.png")
    model.save(tmp_path / "model.keras")
    (classes,) = predict(
        str(tmp_path / "gray.png"), tmp_path / "model.keras", margin=0
    )
    served = saved_model.runner(tmp_path / "a")(
        np.float32(gray)[None, ..., None]
    )
    np.testing.assert_allclose(
        sorted(score for _, score in classes),
        np.sort(served["probabilities"][0]),
        atol=1e-3,
    )


def test_the_published_networks_have_a_repository_and_a_view():
    from keras_nfnet.variants import PUBLISHED_TOP1, VARIANTS
    from keras_nfnet.weights.published import REPOSITORIES

    assert list(REPOSITORIES) == list(PUBLISHED_TOP1)
    for name in REPOSITORIES:
        config = VARIANTS[name]
        is_timms = "nf" in name
        assert (config.crop_fraction is not None) == is_timms
        assert (name.lower() in REPOSITORIES[name]) or not is_timms
    assert json.dumps(REPOSITORIES)
