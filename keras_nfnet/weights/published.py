"""The published ImageNet weights, and files compared with what is known.

A file without a checksum of its own is compared with what its publisher says:
the Hugging Face hub announces a SHA-256, and DeepMind's files have a
published MD5. Of any other file the SHA-256 is noted at its first load, and a
warning says when it changes.
"""

import contextlib
import datetime
import hashlib
import json
import os
import re
import warnings

from keras_nfnet.utils.files import FileError, write_whole

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
# Seconds to wait for the hub's first answer.
_TIMEOUT = 10
# Name → MD5 and, where it is known, bytes of DeepMind's files.
# NOTE: the MD5s are those that a third-party project checks its downloads
# with; DeepMind lists none.
PUBLISHED = {
    "F0_haiku.npz": ("0a41039da1cb43adf47f1b7d86ddfe0f", 285_976_842),
    "F1_haiku.npz": ("c9126bbfaf855f9ddb7ff3b902558781", None),
    "F2_haiku.npz": ("7a018d8d1498020e2f5a8719a1e7f53f", None),
    "F3_haiku.npz": ("d8e1e78d26db659c486150dbaccbe78a", None),
    "F4_haiku.npz": ("f5974a7e3388aa81b91a9f1403e759a4", None),
    "F5_haiku.npz": ("8639e925de951030651ac775b9f915c3", None),
    "F6_haiku.npz": ("b16cca40ac1ecec2bd5e3273866da0c1", None),
}
_SHA256 = re.compile("[0-9a-f]{64}")
_MOST_RECORDS = 1000
# What our pickles start with: a text that the unpickler drops again.
_SEAL = b"\x80\x04\x8c\x53keras_nfnet sha256 %s0"
_SEALED = re.compile(re.escape(_SEAL[:-3]) + b"([0-9a-f]{64})0")


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
        raise FileError(
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
        raise FileError(
            f"The ImageNet weights of {variant} could not be downloaded from "
            f"the Hugging Face hub ({reason}). Without a connection, get the "
            f"file {FILE} of https://huggingface.co/{repo} on another "
            "machine and give its path as `weights`, or copy that machine's "
            f"cache folder models--{repo.replace('/', '--')} into "
            f"{constants.HF_HUB_CACHE}"
        ) from error
    _compare_download(path, repo, pinned, metadata.etag)
    return path


def _compare_download(path, repo, pinned, etag):
    """Compares a download with what its publisher says of it."""
    # The cache names a file by what was announced when it was downloaded;
    # without links (on Windows) it does not.
    sha256 = announced(path) or etag or ""
    if not _SHA256.fullmatch(sha256):
        sha256 = None
    for expected in filter(None, (sha256, pinned)):
        refuse_other(path, expected)
    url = f"https://huggingface.co/{repo}/resolve/{_BRANCH}/{FILE}"
    if sha256 is None and pinned is None:
        warnings.warn(
            f"The hub announced no SHA-256 of {url}: whether the download "
            "is whole could not be checked",
            stacklevel=2,
        )
    elif pinned is None:
        warn_of_change(url, sha256, f"The file {url}")


def digest_of(path, name="sha256"):
    """The hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


@contextlib.contextmanager
def sealing(file):
    """Puts the SHA-256 of the pickle that the body writes in front of it.

    Args:
        file: A binary file at its start, open for reading as well.
    """
    start = len(_SEAL % bytes(64))
    file.seek(start)
    yield
    file.seek(start)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    file.write(_SEAL % digest.encode())


def is_sealed(path):
    """Whether a pickle starts with its SHA-256, as `sealing` writes it.

    Raises:
        ValueError: If it does, and the SHA-256 is another.
    """
    with open(path, "rb") as file:
        match = _SEALED.fullmatch(file.read(len(_SEAL % bytes(64))))
        if not match:
            return False
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.encode() != match[1]:
        raise ValueError("it is not what was saved (checksum)")
    return True


def announced(path):
    """The SHA-256 that the hub announced for a file in its cache, or `None`.

    The cache names a large file by it.
    """
    folder, name = os.path.split(os.path.realpath(path))
    is_blob = os.path.basename(folder) == "blobs" and _SHA256.fullmatch(name)
    return name if is_blob else None


def refuse_damaged(path):
    """As `refuse_other`, of the SHA-256 that the hub announced."""
    expected = announced(path)
    if expected is not None:
        refuse_other(path, expected)


def refuse_other(path, expected):
    """Refuses a file of the hub's cache that has not this SHA-256.

    Raises:
        FileError: If it has another. It is removed then, so that the next
            load downloads it anew.
    """
    try:
        digest = digest_of(path)
    except OSError as error:  # Another process may have removed it.
        raise FileError(
            f"The file {path!r} of the Hugging Face cache cannot be read "
            f"({error.strerror}); load again"
        ) from error
    if digest == expected:
        return
    path = os.path.realpath(path)
    try:
        os.remove(path)
        advice = "It was removed; load again to download it anew"
    except OSError as error:
        advice = f"Remove it ({error.strerror}) and load again"
    raise FileError(
        f"The file {path!r} of the Hugging Face cache is damaged: its "
        f"SHA-256 is {digest}, the published one {expected}. {advice}"
    )


def compare(path, is_pickle):
    """Compares a file without a checksum of its own with what is known.

    Args:
        path: The file.
        is_pickle: Whether it is a pickle, as DeepMind's are.

    Raises:
        ValueError: If it is DeepMind's file, but damaged.
    """
    if announced(path):
        return  # Compared when it was opened.
    if is_pickle and _is_published(path):
        return
    warn_of_change(
        os.path.normcase(os.path.realpath(path)),
        digest_of(path),
        f"The file {path!r}",
    )


def _is_published(path):
    md5 = digest_of(path, "md5")
    if md5 in [published for published, _ in PUBLISHED.values()]:
        return True
    expected, size = PUBLISHED.get(os.path.basename(path), (None, None))
    if expected is None or size not in (None, os.path.getsize(path)):
        return False
    problem = (
        f"The file {path!r} has the name of a file that DeepMind published, "
        f"but its MD5 is {md5}, that of the published one {expected}"
    )
    # One of another size holds other values, and is whole: it was read. The
    # size of F0's alone is known.
    if size is not None:
        raise ValueError(
            f"{problem}. It is damaged; nothing was loaded. Download it "
            "again, or give it another name if it holds values of your own"
        )
    warnings.warn(
        f"{problem}. Either it is damaged, or it holds other values; those "
        "were loaded. If they are yours, give it another name",
        stacklevel=2,
    )
    return False


def warn_of_change(key, sha256, name):
    """Warns if what is behind a key has changed, and notes what it is now.

    Args:
        key: An absolute path or a URL.
        sha256: Of the file that is there now.
        name: What to call it, to start the message with.
    """
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    folder = os.path.join(home, "keras_nfnet", "known_files")
    record = os.path.join(
        folder, f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.json"
    )
    known = _read(record)
    if known.get("sha256") == sha256:
        return
    if known:
        warnings.warn(
            f"{name} is not what it was when it was loaded on "
            f"{known['date']}, and has no checksum of its own that could tell "
            "damage from a new version. If it was replaced on purpose, all "
            "is well, and this is said only once. If not, get it again from "
            f"where it came from. Its SHA-256 is {sha256}, and was "
            f"{known['sha256']}",
            stacklevel=2,
        )
    note = {
        "file": key,
        "sha256": sha256,
        "date": datetime.date.today().isoformat(),
    }
    # Where nothing can be noted, nothing can be compared later: a read-only
    # home keeps nobody from loading.
    with contextlib.suppress(OSError, ValueError):
        os.makedirs(folder, exist_ok=True)
        write_whole(record, json.dumps(note))
        _forget_the_oldest(folder)


def _read(record):
    """What a record says; empty if there is none, or it is damaged."""
    try:
        with open(record, encoding="utf-8") as file:
            content = json.load(file)
        if _SHA256.fullmatch(content["sha256"]):
            return {"sha256": content["sha256"], "date": str(content["date"])}
    except (OSError, ValueError, TypeError, KeyError):
        pass  # A damaged record tells nothing of the file; it is made anew.
    return {}


def _forget_the_oldest(folder):
    records = sorted(
        os.scandir(folder), key=lambda entry: entry.stat().st_mtime
    )
    for entry in records[:-_MOST_RECORDS]:
        # Another process may have removed it; one too many does no harm.
        with contextlib.suppress(OSError):
            os.remove(entry.path)
