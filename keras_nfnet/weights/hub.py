"""The published ImageNet weights, from the Hugging Face hub."""

import re
import warnings

from keras_nfnet.weights import known
from keras_nfnet.weights.check import WeightsFileError

FILE = "model.safetensors"
# F7, the F+ networks and others were never published.
REPOSITORIES = {
    **{f"F{n}": f"timm/dm_nfnet_f{n}.dm_in1k" for n in range(7)},
    "nfnet_l0": "timm/nfnet_l0.ra2_in1k",
    "eca_nfnet_l0": "timm/eca_nfnet_l0.ra2_in1k",
    "eca_nfnet_l1": "timm/eca_nfnet_l1.ra2_in1k",
    "eca_nfnet_l2": "timm/eca_nfnet_l2.ra3_in1k",
    "nf_regnet_b1": "timm/nf_regnet_b1.ra2_in1k",
    "nf_resnet50": "timm/nf_resnet50.ra2_in1k",
}
# Repository → commit and SHA-256 of its `FILE`.
# NOTE: empty. The hub could not be reached where this was written, and a hash
# is not made up. `tools/pin_hub.py` prints the table where it can. Until then
# `main` is downloaded, and checked against the SHA-256 that the hub announces.
# That is noted, and a warning says when a later download has another.
PINNED = {}
_BRANCH = "main"
_SHA256 = re.compile("[0-9a-f]{64}")
# Seconds to wait for the hub's first answer.
_TIMEOUT = 10


def repository(variant):
    """The hub's repository with the weights of a variant.

    Args:
        variant: `"F0"` … `"F6"`.

    Raises:
        ValueError: If none were published for it.
    """
    if variant not in REPOSITORIES:
        known = "this network" if variant is None else variant
        raise ValueError(
            f"There are no published ImageNet weights for {known}; there "
            f"are for {', '.join(REPOSITORIES)}. Use `weights=None` or the "
            f"path of a file. Received: variant={variant!r}"
        )
    return REPOSITORIES[variant]


def published_weights(variant):
    """The path of the published file, downloaded unless it is there.

    A file in the hub's cache is used without asking the network, since the
    published values do not change; `HF_HOME`, `HF_HUB_CACHE`,
    `HF_HUB_OFFLINE` and `HF_ENDPOINT` work as everywhere.

    A download is used only if its SHA-256 is the one that the hub announced
    (and the one in `PINNED`, if it is there). The hub's cache names the file
    by it, so that it is compared again at every load.

    Args:
        variant: `"F0"` … `"F6"`.

    Raises:
        ValueError: If none were published for the variant.
        WeightsFileError: If the file is neither in the cache nor to be
            downloaded, the message says which file to put where. If the
            download is damaged, it is removed, so that the next call
            downloads it anew.
    """
    repo = repository(variant)
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsFileError(
            '`weights="imagenet"` needs the package huggingface_hub '
            "(pip install huggingface_hub), or give the path of the file "
            f"{FILE} of https://huggingface.co/{repo} as `weights`"
        ) from error
    revision, pinned = PINNED.get(repo, (_BRANCH, None))
    try:
        cached = huggingface_hub.try_to_load_from_cache(
            repo, FILE, revision=revision
        )
        if isinstance(cached, str):
            return cached
        # Asked once: the download itself tries six times, half a minute
        # where there is no connection.
        metadata = huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(repo, FILE, revision=revision),
            timeout=_TIMEOUT,
        )
        path = huggingface_hub.hf_hub_download(
            repo, FILE, revision=revision, etag_timeout=_TIMEOUT
        )
    # The hub's own errors, the network's and the disk's have no common base.
    except Exception as error:
        from huggingface_hub import constants

        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsFileError(
            f"The ImageNet weights of {variant} could not be downloaded from "
            f"the Hugging Face hub ({reason}). Without a connection, get the "
            f"file {FILE} of https://huggingface.co/{repo} on another "
            "machine and give its path as `weights`, or copy that machine's "
            f"cache folder models--{repo.replace('/', '--')} into "
            f"{constants.HF_HUB_CACHE}"
        ) from error
    _check(path, repo, pinned, metadata.etag)
    return path


def _check(path, repo, pinned, etag):
    """Compares a download with what its publisher says of it."""
    # The cache names a file by what was announced when it was downloaded;
    # without links (on Windows) it does not.
    announced = known.announced(path) or etag or ""
    if not _SHA256.fullmatch(announced):
        announced = None
    for expected in filter(None, (announced, pinned)):
        known.refuse_other(path, expected)
    url = f"https://huggingface.co/{repo}/resolve/{_BRANCH}/{FILE}"
    if announced is None and pinned is None:
        warnings.warn(
            f"The hub announced no SHA-256 of {url}: whether the download "
            "is whole could not be checked",
            stacklevel=2,
        )
    elif pinned is None:
        known.warn_of_change(url, announced, f"The file {url}")
