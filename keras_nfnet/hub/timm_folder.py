"""Reads folders in timm's layout through keras-hub's `from_preset`.

Such a folder, as on the Hugging Face hub, has timm's `config.json` and
`model.safetensors`.
"""

import sys

from keras_hub.src.utils import preset_utils
from keras_hub.src.utils.timm import preset_loader

from keras_nfnet.data.preprocessing import EVALUATION_MARGIN
from keras_nfnet.hub.backbone import NFNetBackbone
from keras_nfnet.utils.arguments import fraction, integer
from keras_nfnet.variants import variant_named
from keras_nfnet.weights.load import load

# keras-hub's protocol of a converter: this, and two functions below.
backbone_cls = NFNetBackbone


def install():
    """Makes keras-hub's loader of timm's folders know these networks.

    NOTE: keras-hub 0.32 has a closed list of converters, and no public hook.
    It looks its loader up when a folder is opened, so that one name of its
    module is replaced, by a subclass that leaves all other networks to it.
    """
    if preset_loader.TimmPresetLoader is not TimmLoader:
        preset_loader.TimmPresetLoader = TimmLoader


class TimmLoader(preset_loader.TimmPresetLoader):
    """keras-hub's loader of timm's folders, with one converter more."""

    def __init__(self, preset, config):
        self.is_ours = _variant(config) is not None
        if not self.is_ours:
            super().__init__(preset, config)
            return
        preset_utils.PresetLoader.__init__(self, preset, config)
        self.converter = sys.modules[__name__]

    def load_backbone(self, cls, load_weights, **kwargs):
        if not self.is_ours:
            return super().load_backbone(cls, load_weights, **kwargs)
        # keras-hub deletes JAX's arrays before it loads; `load` keeps them
        # until all of the file was read and checked.
        backbone = cls(**{**convert_backbone_config(self.config), **kwargs})
        if load_weights:
            load(backbone, _weights(self.preset))
        return backbone

    def load_task(self, cls, load_weights, load_task_weights, **kwargs):
        if self.is_ours and "backbone" in kwargs:
            raise ValueError(
                "`backbone` cannot be given with a folder of timm's, whose "
                "values would replace the backbone's. "
                f"Received: preset={self.preset!r}"
            )
        return super().load_task(cls, load_weights, load_task_weights, **kwargs)

    def load_image_converter(self, cls, **kwargs):
        if not self.is_ours:
            return super().load_image_converter(cls, **kwargs)
        return cls(**{**_images(self.config), **kwargs})


def convert_backbone_config(config):
    """Arguments of `NFNetBackbone` for timm's `config.json`.

    Raises:
        ValueError: If it changes the network's architecture.
    """
    if config.get("model_args"):
        raise ValueError(
            "`config.json` must be of a network as timm names it, without "
            f"`model_args`. Received: model_args={config['model_args']!r}"
        )
    channels = _settings(config).get("input_size", (3,))[0]
    return {
        "config": _variant(config),
        "image_shape": (None, None, integer("input_size", channels)),
    }


def convert_head(task, loader, config):
    """Loads all values of a classifier from timm's file, or none."""
    load(task, _weights(loader.preset))


def _variant(config):
    """The name in `VARIANTS` of timm's architecture, or `None`."""
    name = config["architecture"]
    if name.startswith("dm_nfnet_"):
        return variant_named(name.removeprefix("dm_nfnet_"))
    # DeepMind's have names without "nf".
    return variant_named(name) if "nf" in name else None


def _weights(preset):
    return preset_utils.get_file(preset, preset_utils.SAFETENSOR_FILE)


def _settings(config):
    # timm wrote the settings beside the architecture before it had them in
    # `pretrained_cfg`.
    return config.get("pretrained_cfg") or config


def _images(config):
    """Arguments of `NFNetImageConverter` for timm's `config.json`.

    NOTE: timm evaluates DeepMind's networks, `dm_nfnet_*`, with a crop
    fraction; here they see what they were published with, a resize to 32
    pixels more than are cropped.
    """
    settings = _settings(config)
    for name, known in (("interpolation", "bicubic"), ("crop_mode", "center")):
        if settings.get(name, known) != known:
            raise ValueError(
                f"`{name}` of `config.json` must be {known!r}. "
                f"Received: {name}={settings[name]!r}"
            )
    size = settings.get("test_input_size") or settings.get("input_size")
    crop = settings.get("test_crop_pct") or settings.get("crop_pct")
    arguments = {}
    if size is not None:
        arguments["image_size"] = tuple(size[1:])
    if config["architecture"].startswith("dm_nfnet_"):
        arguments["margin"] = EVALUATION_MARGIN
    else:
        # timm's own where there is none.
        arguments["margin"] = float(fraction("crop_pct", crop or 0.875))
    if "mean" in settings and "std" in settings:
        pairs = list(zip(settings["mean"], settings["std"], strict=True))
        arguments["scale"] = [1 / (255 * std) for _, std in pairs]
        arguments["offset"] = [-mean / std for mean, std in pairs]
    return arguments
