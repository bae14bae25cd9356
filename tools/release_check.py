"""Builds the release and tries it: sdist, wheel, an installation of its own.

    python tools/release_check.py [--python python3.13] [--backend jax]

Builds from a copy of what git tracks, so that nothing left in the folder can
get in, and twice: in other folders, with other times, modes and umask, the
bytes must be the same, which the commit and the version of setuptools (it is
in the wheel) alone decide. Checks the metadata (`twine check --strict`) and
the names in both files, then installs the wheel into an empty environment for
each Python and runs `tools/release_smoke.py` there, where the source tree
cannot be seen. The two files stay in dist/. Exit status 0, or 1 with what to
mend.
"""

import argparse
import gzip
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
# For git and its hosts only; no use to who unpacks a source distribution.
NOT_IN_SDIST = (".ci/", ".github/", ".gitignore", ".gitattributes")
BACKENDS = {"jax": ("", "jax"), "tensorflow": ("[tensorflow]",)}


class ReleaseError(Exception):
    """What is wrong with the release, in one line."""


def main(arguments=None):
    options = _options(arguments)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = check_release(options, pathlib.Path(folder))
    except ReleaseError as error:
        print(f"release-check: error: {error}", file=sys.stderr)
        return 1
    print(f"release-check: {found} in {time.monotonic() - started:.0f} s")
    return 0


def _options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--python",
        action="append",
        metavar="NAME",
        help="a Python to try the wheel on, such as python3.13; can be "
        "repeated (default: the one that runs this)",
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=sorted(BACKENDS),
        help="Keras backend to install and try; can be repeated "
        "(default: jax, the faster to install)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="fail where a named Python is not found",
    )
    return parser.parse_args(arguments)


def check_release(options, folder):
    """Runs all checks; what was tried, in words."""
    pythons = {
        name: find_python(name) for name in options.python or [sys.executable]
    }
    missing = [name for name, path in pythons.items() if path is None]
    for name in missing:
        print(f"{name}: not found, not tried")
    if len(missing) == len(pythons) or (missing and options.all):
        raise ReleaseError(f"no such Python: {', '.join(missing)}")

    names, (sdist, wheel) = build_twice(folder)
    version = wheel.name.split("-")[1]
    check_sdist(sdist, names)
    check_wheel(wheel, names)
    print(f"ok: {sdist.name} and {wheel.name} hold what they should")
    jobs = [
        (name, path, wheel, version, backend, folder)
        for name, path in pythons.items()
        if path is not None
        for backend in options.backend or ["jax"]
    ]
    # Installing waits for the disk, and one core does the rest: two at once.
    with ThreadPoolExecutor(2) as pool:
        tried = list(pool.map(lambda job: smoke_test(*job), jobs))
    untried = "".join(f", {name} not found" for name in missing)
    return f"keras-nfnet {version} on {', '.join(tried)}{untried}"


def find_python(name):
    """The interpreter of that name: a path, or `None`.

    Looks on PATH, then asks pyenv and uv. A pyenv shim is on PATH for every
    version, but runs only those that are switched on, so each is tried.
    """
    candidates = [shutil.which(name)]
    version = name.removeprefix("python")
    if shutil.which("pyenv") and version != name:
        known = _output("pyenv", "versions", "--bare").split()
        candidates += [
            os.path.join(_output("pyenv", "prefix", one).strip(), "bin", name)
            for one in reversed(known)
            if one == version or one.startswith(version + ".")
        ]
    if shutil.which("uv") and version != name:
        candidates.append(_output("uv", "python", "find", version).strip())
    for path in candidates:
        if path and _output(path, "-c", "print('runs')").strip() == "runs":
            return path
    return None


def _output(*command):
    """What a command prints, or nothing where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""


def copy_source(destination):
    """Copies what git tracks; its names, relative, as a set."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        raise ReleaseError(
            "a release is built from a git checkout, and git says: "
            + listing.stderr.strip()
        )
    names = set(listing.stdout.splitlines())
    gone = sorted(name for name in names if not (ROOT / name).is_file())
    if gone:
        raise ReleaseError(f"git tracks what is not there: {', '.join(gone)}")
    for name in names:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, destination / name)
    return names


def build_twice(folder):
    """Builds into dist/, and again; the names in git, the sdist, the wheel.

    The second build is made where all that must not matter is another: the
    folder, times and modes of the files, the umask, and Python's hashes.
    """
    epoch = int(_output("git", "-C", ROOT, "log", "-1", "--format=%ct"))
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    source, other = folder / "source", folder / "another" / "checkout"
    names = copy_source(source)
    copy_source(other)
    for name in names:
        (other / name).chmod(0o700)
        os.utime(other / name, (epoch + 10**6, epoch + 10**6))
    executable = {name for name in names if os.access(ROOT / name, os.X_OK)}
    again = folder / "again"
    again.mkdir()
    with ThreadPoolExecutor(2) as pool:
        files, others = pool.map(
            lambda job: build(*job, epoch, executable),
            ((source, dist, 0o022, "1"), (other, again, 0o077, "2")),
        )
    for one, another in zip(files, others, strict=True):
        compare_bytes(one, another)
    _run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return names, files


def build(source, dist, umask, seed, epoch, executable):
    """Builds an sdist, and from it a wheel, of the same bytes anywhere.

    Args:
        source: Folder of what git tracks. Its times and modes are changed.
        dist: An empty folder for the two.
        umask: Of the process that builds.
        seed: Of Python's hashes there.
        epoch: The time that all files get, in seconds.
        executable: Names of files that can be run.
    """
    for path in source.rglob("*"):
        run = path.is_dir() or str(path.relative_to(source)) in executable
        path.chmod(0o755 if run else 0o644)
        os.utime(path, (epoch, epoch))
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": seed}
    command = (sys.executable, "-m", "build", "--outdir", dist)
    _run(*command, "--sdist", source, umask=umask, **environment)
    (sdist,) = dist.glob("*.tar.gz")
    repack(sdist, epoch)
    with (
        tempfile.TemporaryDirectory() as folder,
        tarfile.open(sdist) as archive,
    ):
        archive.extractall(folder, filter="data")
        (unpacked,) = pathlib.Path(folder).iterdir()
        _run(*command, "--wheel", unpacked, umask=0o022, **environment)
    files = sorted(dist.iterdir(), key=lambda file: file.suffix)
    if [file.suffix for file in files] != [".gz", ".whl"]:
        raise ReleaseError(f"the build left {[file.name for file in files]}")
    return files


def repack(sdist, epoch):
    """Takes from an sdist who built it, when, and in which order."""
    with tarfile.open(sdist) as archive:
        members = [
            (member, archive.extractfile(member))
            for member in sorted(archive.getmembers(), key=lambda m: m.name)
        ]
        with (
            open(f"{sdist}.new", "wb") as file,
            gzip.GzipFile("", "wb", mtime=epoch, fileobj=file) as packed,
            tarfile.open(
                fileobj=packed, mode="w", format=tarfile.PAX_FORMAT
            ) as new,
        ):
            for member, content in members:
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime = epoch
                member.mode = 0o755 if member.mode & 0o100 else 0o644
                member.pax_headers = {}
                new.addfile(member, content)
    os.replace(f"{sdist}.new", sdist)


def compare_bytes(one, another):
    """Refuses two builds of one file that are not the same bytes."""
    if one.name != another.name:
        raise ReleaseError(f"two builds are {one.name} and {another.name}")
    if one.read_bytes() == another.read_bytes():
        return
    first, second = map(_members, (one, another))
    names = first.keys() | second.keys()
    differing = sorted(n for n in names if first.get(n) != second.get(n))
    raise ReleaseError(
        f"two builds of {one.name} are not the same bytes: they differ in "
        f"{', '.join(differing) or 'order or compression'}"
    )


def _members(file):
    """`{name: all that is stored of it}` of an archive's members."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return {
                info.filename: (
                    archive.read(info),
                    info.date_time,
                    info.external_attr,
                )
                for info in archive.infolist()
            }
    with tarfile.open(file) as archive:
        return {
            member.name: (
                member.isfile() and archive.extractfile(member).read(),
                member.get_info(),
            )
            for member in archive.getmembers()
        }


def check_sdist(sdist, names):
    """An sdist holds what git has, but for git's own, and its metadata."""
    with tarfile.open(sdist) as archive:
        members = [m.name for m in archive.getmembers() if m.isfile()]
    held = {name.split("/", 1)[1] for name in members}
    generated = {
        name
        for name in held
        if name in ("PKG-INFO", "setup.cfg")
        or name.startswith("keras_nfnet.egg-info/")
    }
    wanted = {name for name in names if not name.startswith(NOT_IN_SDIST)}
    _compare(sdist.name, held - generated, wanted - generated)
    if "setup.cfg" not in held:
        raise ReleaseError(f"{sdist.name} lacks setup.cfg")


def check_wheel(wheel, names):
    """A wheel holds the package, all of it, and metadata with the licence."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    information = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    metadata = {name for name in held if name.startswith(information)}
    package = {name for name in names if name.startswith("keras_nfnet/")}
    _compare(wheel.name, held - metadata, package)
    needed = {
        information + name
        for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")
    }
    if needed - metadata:
        raise ReleaseError(
            f"{wheel.name} lacks {', '.join(sorted(needed - metadata))}"
        )


def _compare(file, held, wanted):
    if wanted - held:
        raise ReleaseError(
            f"{file} lacks {', '.join(sorted(wanted - held))}: see "
            "MANIFEST.in and package_data in setup.cfg"
        )
    if held - wanted:
        raise ReleaseError(
            f"{file} holds what it should not: "
            f"{', '.join(sorted(held - wanted))}"
        )


def smoke_test(name, python, wheel, version, backend, folder):
    """Installs the wheel alone and runs the smoke test; what was tried."""
    shown = _output(python, "-c", "import sys; print(sys.version.split()[0])")
    title = f"Python {shown.strip()} with {backend}"
    print(f"{title}: installing", flush=True)
    place = folder / f"{pathlib.Path(name).name}-{backend}"
    place.mkdir()
    _run(python, "-m", "venv", "--without-pip", place / "venv")
    inside = place / "venv" / "bin" / "python"
    extra, *more = BACKENDS[backend]
    # pip of the environment that runs this: an own copy takes 5 s to make.
    _run(
        *(sys.executable, "-m", "pip", "--python", inside, "install"),
        *("--quiet", "--no-compile", f"{wheel}{extra}", *more),
    )
    shutil.copy(ROOT / "tools" / "release_smoke.py", place)
    environment = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [inside, "-I", "release_smoke.py", version, str(place)],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"{title}:\n{done.stdout}", end="", flush=True)
    shutil.rmtree(place / "venv")
    if done.returncode:
        raise ReleaseError(f"{title}: the smoke test failed")
    return title


def _run(*command, umask=-1, **environment):
    command = [str(part) for part in command]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise ReleaseError(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
