"""Layers of other packages in a folded network: left out, or copied."""

import keras

# Layers that do nothing outside of training.
ONLY_TRAINING = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if name
    in (
        *("ActivityRegularization", "AlphaDropout", "AugMix", "CutMix"),
        *("Dropout", "GaussianDropout", "GaussianNoise", "MixUp"),
        *("RandAugment", "SpatialDropout1D", "SpatialDropout2D"),
        "SpatialDropout3D",
    )
    or (name.startswith("Random") and name != "RandomCrop")
)


def copy_state(layer, copy):
    """Copies variables as Keras saves them: each part its own way."""
    theirs, ours = (
        list(part._flatten_layers(include_self=True, recursive=True))
        for part in (layer, copy)
    )
    for part, own in zip(theirs, ours, strict=True):
        store = {}
        part.save_own_variables(store)
        if store:
            own.load_own_variables(store)
