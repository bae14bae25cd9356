"""Tests of keras-hub's detectors on our networks, and of `keras_nfnet.hub`."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
from conftest import FIGURES
from fill import timm_parameter
from safetensors.numpy import save_file
from test_agc_units import unclipped
from test_fold import randomized
from test_weights_hub import metadata

import keras_nfnet
from keras_nfnet import NFNet, NFNetConfig, export
from keras_nfnet.export import onnx_file
from keras_nfnet.variants import VARIANTS
from keras_nfnet.weights import load
from keras_nfnet.weights.names import TIMM, layout_for
from keras_nfnet.weights.published import REPOSITORIES
from keras_nfnet.weights.structure import expected_shapes

keras_hub = pytest.importorskip(
    "keras_hub", reason="needs keras-hub: make test-hub"
)

from keras_nfnet.hub import (  # noqa: E402
    NFNetBackbone,
    NFNetImageClassifier,
    NFNetImageClassifierPreprocessor,
    NFNetImageConverter,
    timm_folder,
)

CONFIG = NFNetConfig((16, 32, 48, 64), (1, 2, 1, 1), group_width=8)
SHAPE = (64, 64, 3)


def network(**options):
    options = {"include_top": False, "input_shape": SHAPE, **options}
    return randomized(NFNet(CONFIG, weights=None, **options))


def pixels(batch=2, height=64, width=64):
    generator = np.random.default_rng(batch)
    return generator.integers(0, 256, (batch, height, width, 3), "uint8")


def normalized(batch=2):
    return keras_nfnet.preprocess_input(pixels(batch).astype("float32"))


def close(got, expected, bound=1e-5):
    """Asserts that arrays agree, relative to the largest of each."""
    if isinstance(expected, dict):
        assert sorted(got) == sorted(expected)
        for name, value in expected.items():
            close(got[name], value, bound)
        return
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=bound * np.abs(expected).max()
    )


def masks():
    chosen = np.random.default_rng(0).integers(0, 2, (2, *SHAPE[:2]))
    return np.eye(2, dtype="float32")[chosen]


def retinanet(encoder):
    backbone = keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=6, use_p5=False, image_shape=SHAPE
    )
    boxes = np.tile(np.array([[4.0, 4, 30, 30]], "float32"), (2, 1, 1))
    return keras_hub.models.RetinaNetObjectDetector(
        backbone, num_classes=3, bounding_box_format="xyxy"
    ), {"boxes": boxes, "labels": np.ones((2, 1), "float32")}


def deeplab(encoder):
    levels = sorted(encoder.pyramid_outputs)
    stride = 2 ** int(levels[-1][1])
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key=levels[-1],
        low_level_feature_key="P2",
        upsampling_size=stride // 4,
        dilation_rates=[6, 12, 18],
        projection_filters=8,
        image_shape=SHAPE,
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, 2), masks()


def segformer(encoder):
    backbone = keras_hub.models.SegFormerBackbone(encoder, projection_filters=8)
    return keras_hub.models.SegFormerImageSegmenter(backbone, 2), masks()


TASKS = (retinanet, deeplab, segformer)


def outputs_of(task, x):
    """The tensors of a task, without what `predict` makes of them."""
    return keras.Model(task.inputs, task.output).predict(x, verbose=0)


@pytest.mark.parametrize("build", TASKS)
def test_a_detector_or_segmenter_takes_a_network_as_it_is(build, tmp_path):
    encoder = network()
    task, y = build(encoder)
    kernel = encoder.get_layer("stage2_block1").conv0.kernel
    before = np.array(kernel)
    history = task.fit(normalized(), y, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.abs(np.asarray(kernel) - before).max() > 0
    expected = outputs_of(task, normalized())

    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras")
    close(outputs_of(again, normalized()), expected)
    task.save_to_preset(str(tmp_path / "preset"))
    again = type(task).from_preset(str(tmp_path / "preset"))
    close(outputs_of(again, normalized()), expected)


@pytest.mark.parametrize("build", TASKS)
def test_a_detector_or_segmenter_is_exported(build, tmp_path):
    task, _ = build(network())
    model = keras.Model(task.inputs, task.output)
    expected = outputs_of(task, normalized())
    # What the networks take is told where they are inside another's.
    options = {"input_range": "imagenet", "size": 64}
    export.to_onnx(model, tmp_path / "a.onnx", **options)
    close(onnx_file.runner(tmp_path / "a.onnx")(pixels()), expected)
    if keras.backend.backend() != "tensorflow":
        return
    from keras_nfnet.export import saved_model

    export.to_saved_model(model, tmp_path / "a", outputs="features", **options)
    got = saved_model.runner(tmp_path / "a")(pixels())
    if not isinstance(expected, dict):
        (got,) = got.values() if isinstance(got, dict) else (got,)
    close(got, expected)
    if build is segformer:
        # Its layer `Resizing` makes Keras's own export one of the training
        # mode: batch normalization takes the batch's statistics.
        return
    task.export(tmp_path / "keras", verbose=False)
    import tensorflow as tf

    loaded = tf.saved_model.load(tmp_path / "keras")
    close(loaded.serve(normalized()), expected)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_masks_have_the_size_of_the_image_at_any_output_stride(output_stride):
    # A backbone's levels are named by their strides.
    task, y = deeplab(NFNetBackbone(CONFIG, SHAPE, output_stride))
    assert task.output_shape[1:3] == y.shape[1:3]


@pytest.mark.parametrize("build", TASKS)
def test_a_model_of_feature_maps_is_taken_too(build):
    build(keras_nfnet.features(network()))


def test_levels_left_out_keep_names_apart_in_segformer():
    # It names its layers by the channels, which two levels may share.
    config = NFNetConfig(
        (16, 32),
        (1, 1),
        group_width=8,
        first_stride=2,
        stem=VARIANTS["RegNet-B0"].stem,
    )
    model = NFNet(config, weights=None, include_top=False, input_shape=SHAPE)
    assert model.hidden_dims[:2] == [16, 16]
    segformer(keras_nfnet.features(model, ("P1", "P3")))


def classifier(size=None, **options):
    preprocessor = NFNetImageClassifierPreprocessor(
        NFNetImageConverter(image_size=size)
    )
    options = {"num_classes": 10, "preprocessor": preprocessor, **options}
    return NFNetImageClassifier(NFNetBackbone(CONFIG), **options)


@pytest.fixture
def filled(tmp_path):
    """A classifier of the package with random values, and its file."""
    model = network(include_top=True, classes=10, classifier_activation=None)
    keras_nfnet.weights.save(model, tmp_path / "values.safetensors")
    return model, str(tmp_path / "values.safetensors")


def test_the_classifier_has_the_networks_numbers(filled, tmp_path):
    model, path = filled
    expected = model.predict(normalized(), verbose=0)
    task = classifier()
    load(task, path)
    close(task.predict(pixels(), verbose=0), expected)
    close(task(normalized()), expected)
    features = NFNet(CONFIG, weights=path, include_top=False)
    close(task.backbone(normalized()), features(normalized()))
    for level, map in keras_nfnet.features(features)(normalized()).items():
        outputs = task.backbone.pyramid_outputs[level]
        got = keras.Model(task.backbone.inputs, outputs)(normalized())
        close(got, map)

    task.save_to_preset(tmp_path / "preset")
    for again in (
        keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset")),
        NFNetImageClassifier.from_preset(str(tmp_path / "preset")),
    ):
        assert type(again) is NFNetImageClassifier
        close(again.predict(pixels(), verbose=0), expected)
    backbone = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    assert type(backbone) is NFNetBackbone and backbone.config == CONFIG
    close(backbone(normalized()), features(normalized()))
    new = NFNetImageClassifier.from_preset(
        str(tmp_path / "preset"), num_classes=3
    )
    assert new.output_shape == (None, 3)
    close(new.backbone(normalized()), features(normalized()))


def test_it_trains_with_the_papers_optimizer():
    task = classifier(size=32)
    task.compile(
        keras_nfnet.SGDAGC(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = task.fit(pixels(), np.array([0, 1]), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # The classifier is left out of the clipping, as in the package's model.
    assert unclipped(task, keras_nfnet.SGDAGC(0.1)) == [
        task.output_dense.kernel.path
    ]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_a_dtype_goes_to_every_layer_and_the_head_stays_float32(policy):
    backbone = NFNetBackbone(CONFIG, dtype=policy)
    assert keras.config.dtype_policy().name == "float32"
    block = backbone.get_layer("stage1_block0")
    assert block.dtype_policy.name == policy
    task = NFNetImageClassifier(backbone, 10)
    assert task(normalized()).dtype == "float32"
    again = NFNetBackbone.from_config(backbone.get_config())
    assert again.get_layer("stage1_block0").dtype_policy.name == policy


@pytest.mark.parametrize("margin", [32, 10, 0.9, 1.0])
def test_images_are_prepared_as_the_package_does(margin):
    converter = NFNetImageConverter(image_size=(48, 40), margin=margin)
    again = NFNetImageConverter.from_config(converter.get_config())
    images = [pixels(1, 70, 90)[0], pixels(1, 61, 50)[0]]
    expected = np.stack(
        [
            keras_nfnet.preprocess_input(
                keras_nfnet.data.evaluation_picture(image, (48, 40), margin)
            )
            for image in images
        ]
    )
    for layer in (converter, again):
        np.testing.assert_allclose(layer(images), expected, atol=1e-5)
        np.testing.assert_allclose(layer(images[0]), expected[0], atol=1e-5)
        batch = np.stack([images[1], images[1]])
        np.testing.assert_allclose(layer(batch)[1], expected[1], atol=1e-5)
    tf = pytest.importorskip("tensorflow")
    from keras_nfnet.data import graph_preprocessing

    # In a graph it is TensorFlow's interpolation on every backend.
    view = graph_preprocessing.evaluation_view(images[0], (48, 40), margin)
    of_graph = graph_preprocessing.normalize(view).numpy()
    for data in (
        tf.data.Dataset.from_tensors(images[0]),
        tf.data.Dataset.from_tensors(images[0][None]),
    ):
        (got,) = data.map(converter).as_numpy_iterator()
        got = got.reshape(of_graph.shape)
        np.testing.assert_allclose(got, of_graph, atol=1e-5)


def test_the_converter_of_a_network_is_that_of_its_evaluation():
    found = {}
    for name in REPOSITORIES:
        converter = NFNetImageConverter.for_network(name)
        found[name] = (*converter.image_size, converter.margin)
    assert found["F0"] == (256, 256, 32)
    assert found["eca_nfnet_l0"] == (288, 288, 1.0)
    assert found["nf_resnet50"] == (288, 288, 0.94)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"images": pixels(), "boxes": 1}, "`inputs` must be images"),
        (pixels()[..., :1], "`inputs` must have as many channels"),
        (pixels()[0, 0], "`inputs` must be one image or a batch"),
    ],
)
def test_other_inputs_of_the_converter_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        NFNetImageConverter()(inputs)


TREES = {
    **json.loads((FIGURES / "timm_trees.json").read_text()),
    **json.loads((FIGURES / "timm_family_trees.json").read_text()),
}
# Their files have gigabytes.
LARGE = ("F2", "F3", "F4", "F5", "F6")


def architecture_of(variant):
    """timm's name of a network."""
    name = REPOSITORIES[variant].removeprefix("timm/")
    return name.partition(".")[0]


def timms_folder(folder, variant, classes=1000, **settings):
    """A folder as on the hub, of a network with values made from names."""
    name, row = architecture_of(variant), VARIANTS[variant]
    if name in TREES:
        shapes = TREES[name]
    else:
        expected = expected_shapes(row, classes)
        layout = layout_for(expected, TIMM)
        names = layout.names(expected)
        shapes = {
            names[key]: layout.shape(key, shape)
            for key, shape in expected.items()
        }
    folder.mkdir()
    tensors = {}
    for key, shape in shapes.items():
        if key.startswith("head.fc."):
            shape = (classes, *shape[1:])
        tensors[key] = timm_parameter(key, shape, 0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    side, crop = row.test_size, row.crop_fraction or 0.9
    config = {
        "architecture": name,
        "num_classes": classes,
        "num_features": shapes["head.fc.weight"][1],
        "pretrained_cfg": {
            "input_size": [3, row.train_size, row.train_size],
            "test_input_size": [3, side, side],
            "interpolation": "bicubic",
            "crop_pct": crop,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": classes,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            **settings,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in REPOSITORIES
    ],
)
def test_every_published_network_comes_from_timms_folder(variant, tmp_path):
    folder = timms_folder(tmp_path / "timm", variant)
    images = keras_nfnet.preprocess_input(pixels(1).astype("float32"))
    path = folder / "model.safetensors"
    model = NFNet(variant, weights=path, classifier_activation=None)
    expected = np.asarray(model(images))
    del model
    model = NFNet(variant, weights=path, include_top=False)
    features = np.asarray(model(images))
    del model
    task = keras_hub.models.ImageClassifier.from_preset(str(folder))
    assert type(task) is NFNetImageClassifier
    close(task(images), expected)
    converter = NFNetImageConverter.for_network(variant)
    found = task.preprocessor.image_converter
    assert found.image_size == converter.image_size
    assert found.margin == converter.margin
    np.testing.assert_allclose(found.scale, converter.scale, rtol=1e-6)
    np.testing.assert_allclose(found.offset, converter.offset, rtol=1e-6)
    del task
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    assert backbone.variant == variant
    close(backbone(images), features)


def test_timms_folder_of_other_classes_and_settings(tmp_path):
    folder = timms_folder(
        tmp_path / "timm",
        "nf_regnet_b1",
        classes=7,
        mean=[0.5, 0.5, 0.5],
        std=[0.25, 0.5, 1.0],
        test_input_size=None,
        test_crop_pct=1,
    )
    task = keras_hub.models.ImageClassifier.from_preset(str(folder))
    assert task.output_shape == (None, 7)
    converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    assert converter.image_size == (256, 256)
    assert repr(converter.margin) == "1.0"  # 1 would be a pixel.
    white = np.full((1, 300, 300, 3), 255, "uint8")
    np.testing.assert_allclose(
        np.asarray(converter(white))[0, 0, 0], [2, 1, 0.5], atol=1e-5
    )
    new = keras_hub.models.ImageClassifier.from_preset(
        str(folder), num_classes=3, image_shape=(64, 64, 3)
    )
    assert new.output_shape == (None, 3)
    assert new.backbone.image_shape == (64, 64, 3)
    close(new.backbone(normalized()), task.backbone(normalized()))
    blank = keras_hub.models.Backbone.from_preset(
        str(folder), load_weights=False
    )
    assert blank.count_params() == new.backbone.count_params()
    backbone = NFNetBackbone("nf_regnet_b1")
    with pytest.raises(ValueError, match="`backbone` cannot be given"):
        NFNetImageClassifier.from_preset(str(folder), backbone=backbone)


def test_timms_folder_that_says_something_else_is_refused(tmp_path):
    folder = timms_folder(tmp_path / "timm", "nf_regnet_b1")
    whole = (folder / "config.json").read_text()
    from_preset = keras_hub.models.ImageClassifier.from_preset
    edit(folder, model_args={"width_factor": 2})
    with pytest.raises(ValueError, match="`model_args`"):
        from_preset(str(folder))
    for settings in ({"interpolation": "bilinear"}, {"crop_mode": "squash"}):
        (folder / "config.json").write_text(whole)
        edit(folder, pretrained_cfg={"input_size": [3, 8, 8], **settings})
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
            from_preset(str(folder))
    (folder / "config.json").write_text(whole)
    edit(folder, num_classes=9)
    with pytest.raises(ValueError, match="classifier of 1000 classes"):
        from_preset(str(folder))
    edit(folder, architecture="nf_resnet50")
    with pytest.raises(ValueError, match="missing|holds|does not fit"):
        keras_hub.models.Backbone.from_preset(str(folder))
    # timm's own of that name have no values, and another arithmetic.
    for name in ("nfnet_f0", "normalized_net"):
        edit(folder, architecture=name)
        with pytest.raises(ValueError, match="no converter"):
            keras_hub.models.Backbone.from_preset(str(folder))


def test_timms_other_networks_are_still_keras_hubs(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "num_classes": 10})
    )
    backbone = keras_hub.models.Backbone.from_preset(
        str(tmp_path), load_weights=False
    )
    assert type(backbone) is keras_hub.models.ResNetBackbone
    before = timm_folder.preset_loader.TimmPresetLoader
    timm_folder.install()
    assert timm_folder.preset_loader.TimmPresetLoader is before


def hub_cache(folder, repository, source):
    """The hub's cache after a download of all files of a folder."""
    cached = folder / f"models--{repository.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc123")
    (cached / "blobs").mkdir()
    snapshot = cached / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        blob = cached / "blobs" / metadata(file).etag
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub's cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_presets_come_from_the_hub(filled, offline, tmp_path):
    task = classifier()
    load(task, filled[1])
    task.save_to_preset(tmp_path / "preset")
    hub_cache(offline, "user/own", tmp_path / "preset")
    again = keras_hub.models.ImageClassifier.from_preset("hf://user/own")
    close(again(normalized()), task(normalized()))


def test_timms_repositories_come_from_the_hub(offline, tmp_path):
    folder = timms_folder(tmp_path / "timm", "nf_regnet_b1")
    name = REPOSITORIES["nf_regnet_b1"]
    snapshot = hub_cache(offline, name, folder)
    task = keras_hub.models.ImageClassifier.from_preset(f"hf://{name}")
    path = snapshot / "model.safetensors"
    model = NFNet("nf_regnet_b1", weights=path, classifier_activation=None)
    close(task(normalized()), model(normalized()))
    # The cache names a file by what the hub announced.
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        keras_hub.models.ImageClassifier.from_preset(f"hf://{name}")


def test_the_card_says_what_is_known(filled, tmp_path):
    _, path = filled
    task = classifier(size=32)
    load(task, path)
    task.save_to_preset(tmp_path / "a", source=path, license="mit")
    card = (tmp_path / "a" / "README.md").read_text("utf-8")
    header = card.split("---\n")[1].splitlines()
    assert "library_name: keras-hub" in header and "license: mit" in header
    assert "pipeline_tag: image-classification" in header
    weights = [tmp_path / "a" / f"{n}.weights.h5" for n in ("model", "task")]
    for part in (
        "(16, 32, 48, 64)",
        f"{task.count_params():,}",
        f"{sum(file.stat().st_size for file in weights):,}",
        "values.safetensors",
        metadata(tmp_path / "values.safetensors").etag,
        "its classifier's too",
        "(32, 32)",
    ):
        assert part in card
    task.output_dense.kernel.assign_add(task.output_dense.kernel)
    task.save_to_preset(tmp_path / "b", source=path)
    card = (tmp_path / "b" / "README.md").read_text("utf-8")
    assert "license: unknown" in card and "but its classifier's" in card
    NFNetBackbone(CONFIG).save_to_preset(tmp_path / "c")
    card = (tmp_path / "c" / "README.md").read_text("utf-8")
    assert "not compared with any published file" in card
    assert "Accuracy: not measured" in card
    named = NFNetBackbone("nf_regnet_b0", image_shape=(64, 64, 3))
    named.save_to_preset(tmp_path / "d")
    card = (tmp_path / "d" / "README.md").read_text("utf-8")
    assert "nf_regnet_b0" in card and "GMACs at 64×64 px | 0.0" in card


def test_a_preset_that_is_not_whole_is_not_written(filled, tmp_path):
    _, path = filled
    task = classifier()
    task.save_to_preset(tmp_path / "kept")
    before = {f.name: f.read_bytes() for f in (tmp_path / "kept").iterdir()}
    with pytest.raises(ValueError, match="`source` must.*values are others"):
        task.save_to_preset(tmp_path / "kept", source=path)
    # Another network's beside it: keras-hub would load both as one.
    with pytest.raises(ValueError, match="`preset_dir` must not.*task.json"):
        task.backbone.save_to_preset(tmp_path / "kept")
    kernel = task.backbone.get_layer("stem_conv0").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="finite"):
        task.save_to_preset(tmp_path / "kept")
    files = (tmp_path / "kept").iterdir()
    assert before == {f.name: f.read_bytes() for f in files}
    assert sorted(os.listdir(tmp_path)) == ["kept", "values.safetensors"]


def test_a_preset_in_shards_is_not_mixed_with_one_in_a_file(tmp_path):
    backbone = NFNetBackbone(CONFIG)
    backbone.save_to_preset(tmp_path / "preset", max_shard_size=1e-4)
    again = NFNetBackbone.from_preset(str(tmp_path / "preset"))
    close(again(normalized()), backbone(normalized()))
    # keras-hub takes a whole file before it looks for shards.
    with pytest.raises(ValueError, match=r"`preset_dir`.*model_00000"):
        backbone.save_to_preset(tmp_path / "preset")


def test_values_that_are_not_read_back_are_not_kept(tmp_path, monkeypatch):
    backbone = NFNetBackbone(CONFIG)
    monkeypatch.setattr(
        NFNetBackbone,
        "from_preset",
        classmethod(lambda cls, preset: cls(CONFIG)),
    )
    with pytest.raises(ValueError, match="read back"):
        backbone.save_to_preset(tmp_path / "preset")
    assert not os.listdir(tmp_path / "preset")


@pytest.mark.parametrize(
    "config", [{"widths": (8,)}, {"width": 8}, "F99", 3, {}]
)
def test_other_configurations_are_refused(config):
    with pytest.raises(ValueError, match="Received"):
        NFNetBackbone(config)
