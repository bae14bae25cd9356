"""Writes constraints.txt: the versions that the tests ran with.

    python tools/constraints.py > constraints.txt

Walks from this package, with all its extras, through what is installed in
the environment that runs this, so nothing else that lies there gets in. An
extra's package that is not installed is named on standard error.
"""

import argparse
import importlib.metadata
import platform
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "keras-nfnet"
# Of the environment, not of the tests; a build takes its own.
LEFT_OUT = {PACKAGE, "pip", "setuptools", "wheel"}
HEADER = """\
# The versions that `make test` last ran with, on Python {python} and {system}.
# Opt in: make clean; make test CONSTRAINTS=constraints.txt
# Written by `make constraints`.
"""


def main():
    argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    versions, missing = installed(PACKAGE, all_extras(PACKAGE))
    print(
        HEADER.format(
            python=platform.python_version(), system=platform.system()
        ),
        end="",
    )
    for name, version in sorted(versions.items()):
        print(f"{name}=={version}")
    for name in sorted(missing):
        print(f"not installed, left out: {name}", file=sys.stderr)


def all_extras(package):
    metadata = importlib.metadata.metadata(package)
    return frozenset(metadata.get_all("Provides-Extra") or ())


def installed(package, extras):
    """Versions of all that `package` needs, and names of what is absent."""
    versions, missing, seen = {}, set(), set()
    waiting = [(canonicalize_name(package), extra) for extra in {"", *extras}]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing.add(name)
            continue
        if name not in LEFT_OUT:
            versions[name] = distribution.version
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate({"extra": extra}):
                continue
            waiting += [
                (canonicalize_name(needed.name), one)
                for one in {"", *needed.extras}
            ]
    return versions, missing


if __name__ == "__main__":
    main()
