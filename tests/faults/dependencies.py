"""Installations that would bring a known hole, and what pip makes of them."""

import configparser
import importlib.util
import re
import subprocess
import sys
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from faults.scorecard import ROOT, Row

TITLE = "Dependencies"
PROMISE = (
    "No version with a known hole is installed. `constraints.txt` repeats the\n"
    "installation that was tested; `make audit` asks pip-audit about it.\n\n"
    "Each row offers pip an index whose only version of a package is one with\n"
    "a hole, and everything else as tested. The holes are those that were\n"
    "known on 2026-11-28; pip-audit's data could not be reached where this\n"
    "was run."
)
# Package → the last versions with a hole, and its names. Fixed in the next.
HOLES = {
    "keras": (
        "3.12.0 3.12.2 3.12.3 3.13.0 3.13.1 3.13.2 3.14.0 3.14.1 3.15.0",
        "CVE-2026-0897, CVE-2026-1462, CVE-2026-1669, GHSA-hqp4-2352-xf5r, "
        "the security fixes of 3.12.3, 3.12.4 and 3.15.1",
    ),
    "pillow": (
        "11.3.0 12.1.0 12.1.1 12.2.0",
        "CVE-2026-25990, CVE-2026-40192, CVE-2026-55379, CVE-2026-59200, "
        "CVE-2026-59204",
    ),
    "requests": ("2.32.3 2.32.5", "CVE-2024-47081, CVE-2026-25645"),
    "protobuf": ("4.25.8 5.29.5 6.31.1 6.33.4", "CVE-2026-0994"),
    "onnx": (
        "1.17.0 1.20.1",
        "CVE-2026-27489, CVE-2026-28500, CVE-2026-34445",
    ),
    "tqdm": ("4.66.2", "CVE-2024-34062"),
    "scikit-learn": ("1.4.2", "CVE-2024-5206"),
    "jupyterlab": (
        "4.5.6 4.5.9 4.6.1",
        "CVE-2026-40171, CVE-2026-42266, CVE-2026-42557, CVE-2026-73415, "
        "CVE-2026-73417",
    ),
}
# Ours under a name that is not installed.
_NAME = "keras-nfnet-as-described"
_CONSTRAINTS = ROOT / "constraints.txt"


def requirements():
    """The lines of `setup.cfg` as a wheel has them, those of extras marked."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"].split("\n")
    found = [line for line in lines if line.strip()]
    for extra, lines in extras.items():
        found += [
            f"{line.replace('keras-nfnet[', f'{_NAME}[')}; extra == '{extra}'"
            for line in lines.split("\n")
            if line.strip()
        ]
    return found, list(extras)


def constraints():
    """`{package: version}` of `constraints.txt`."""
    return dict(
        re.findall(r"^([\w-]+)==(\S+)$", _CONSTRAINTS.read_text(), re.M)
    )


def wheel(folder, name, version, needs=(), extras=()):
    """Writes a wheel that has nothing but metadata."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Provides-Extra: {extra}" for extra in extras),
            *(f"Requires-Dist: {need}" for need in needs),
        ],
        "WHEEL": [
            "Wheel-Version: 1.0",
            "Root-Is-Purelib: true",
            "Tag: py3-none-any",
        ],
        "RECORD": [],
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, lines in files.items():
            text = "\n".join([*lines, ""])
            archive.writestr(f"{stem}.dist-info/{file}", text)
    return path


def pip(folder, *arguments, extras):
    """What pip would install of ours: its report, or `None` if it refuses."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run"),
            *("--no-index", "--disable-pip-version-check"),
            *("--find-links", folder, *arguments),
            f"{_NAME}[{','.join(extras)}]",
        ],
        capture_output=True,
        text=True,
    )
    if run.returncode and "ResolutionImpossible" not in run.stderr:
        if "No matching distribution" not in run.stderr:
            raise RuntimeError(run.stderr)
    return None if run.returncode else run.stdout


def index(folder, tested):
    """An index of ours and of all that it names, as tested."""
    needs, extras = requirements()
    folder.mkdir()
    wheel(folder, _NAME, "0", needs, extras)
    paths = {}
    for need in needs:
        requirement = Requirement(need)
        name = canonicalize_name(requirement.name)
        if name != _NAME and name not in paths:
            version = tested.get(name) or _lowest(requirement)
            paths[name] = wheel(folder, name, version)
    return paths, extras


def _lowest(requirement):
    """A version within the bounds of what is not installed for tests."""
    found = re.search(r">=([\d.]+)", str(requirement.specifier))
    return found[1] if found else "1"


def rows(full, folder, say):
    """The rows of the scorecard."""
    tested = constraints()
    paths, extras = index(folder / "index", tested)
    apart = ("--ignore-installed",)
    taken = pip(folder / "index", *apart, extras=extras)
    yield Row(
        "an index of the tested versions",
        {"installed": int(bool(taken)), "refused": int(not taken)},
        "" if taken else "what was tested is refused",
    )
    for package in HOLES if full else ("keras", "pillow", "protobuf"):
        versions, names = HOLES[package]
        versions = versions.split()
        outcomes = {"refused": 0, "installed": 0}
        sound = paths[package].rename(folder / paths[package].name)
        for version in versions if full else versions[-1:]:
            bad = wheel(folder / "index", package, version)
            taken = pip(folder / "index", *apart, extras=extras)
            outcomes["installed" if taken else "refused"] += 1
            if taken:
                say(f"{package} {version} is installed")
            bad.unlink()
        sound.rename(paths[package])
        yield Row(
            f"{package} {', '.join(versions)}: {names}",
            outcomes,
            "installed" if outcomes["installed"] else "",
        )
    needed = {
        canonicalize_name(Requirement(r).name): r for r in requirements()[0]
    }
    within = sum(
        Requirement(needed[name]).specifier.contains(version)
        for name, version in tested.items()
        if name in needed
    )
    outside = len(needed.keys() & tested.keys()) - within
    yield Row(
        "lines of `constraints.txt` of what `setup.cfg` names",
        {"within its bounds": within, "outside": outside},
        "outside" if outside else "",
    )
    if full:
        yield _installation(folder, tested)


def _installation(folder, tested):
    """Whether the installation that runs this is what the file says."""
    spec = importlib.util.spec_from_file_location(
        "constraints", ROOT / "tools" / "constraints.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    installed, _ = tool.installed(tool.PACKAGE, tool.all_extras(tool.PACKAGE))
    same = sum(
        tested.get(name) == version for name, version in installed.items()
    )
    different = len(installed.keys() | tested.keys()) - same
    taken = pip(folder / "index", "--constraint", _CONSTRAINTS, extras=["dev"])
    would = re.search(r"Would install (.*)", taken or "")
    unchanged = bool(would) and would[1].split() == [f"{_NAME}-0"]
    return Row(
        "lines of `constraints.txt`, and pip's dry run with it",
        {"as installed": same, "different": different},
        "make constraints"
        if different
        else ""
        if unchanged
        else "pip would change the installation",
        "pip would install nothing more" if unchanged else "",
    )
