"""Names that moved since the last release: they work, and say so."""

import importlib
import warnings

# By the module that had the name: the name, and where it is now.
_POOLING = "keras_nfnet.layers.pooling"
MOVED = {
    "keras_nfnet.data.preprocessing": {
        "decode_picture": "keras_nfnet.data.decoding.decode_picture",
    },
    "keras_nfnet.export.staging": {
        "staged": "keras_nfnet.utils.files.staged",
    },
    "keras_nfnet.models.nf_block": {
        "GlobalAveragePooling": f"{_POOLING}.GlobalAveragePooling",
    },
}


def moved_names(module):
    """The `__getattr__` of a module that had other names before.

    Args:
        module: The module's name, of which `MOVED` tells.
    """

    def get(name):
        new = MOVED[module].get(name)
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"`{module}.{name}` is `{new}` now; the old name goes with 1.1",
            DeprecationWarning,
            stacklevel=2,
        )
        where, _, name = new.rpartition(".")
        return getattr(importlib.import_module(where), name)

    return get
