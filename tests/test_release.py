"""The release: builds that are not the same bytes are caught and named.

`make release-check` builds twice in earnest.
"""

import importlib.util
import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from keras_nfnet import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def release_check():
    path = ROOT / "tools" / "release_check.py"
    spec = importlib.util.spec_from_file_location("release_check", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sdist(folder, content=b"same", mtime=1, mode=0o644, names=("a", "b")):
    folder.mkdir()
    path = folder / "package-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"package-1/{name}")
            member.size, member.mode = len(content), mode
            member.mtime = member.uid = mtime
            archive.addfile(member, io.BytesIO(content))
    return path


def test_who_built_an_sdist_when_and_in_which_order_is_not_in_it(
    release_check, tmp_path
):
    one = sdist(tmp_path / "one")
    other = sdist(tmp_path / "other", b"same", 1.5, 0o600, ("b", "a"))
    assert one.read_bytes() != other.read_bytes()
    for path in (one, other):
        release_check.repack(path, 1_000_000_000)
    release_check.compare_bytes(one, other)
    assert one.read_bytes() == other.read_bytes()
    assert os.listdir(one.parent) == [one.name]
    with tarfile.open(one) as archive:
        assert archive.getnames() == ["package-1/a", "package-1/b"]
        assert archive.extractfile("package-1/a").read() == b"same"


@pytest.mark.parametrize(
    "change", [{"content": b"another"}, {"mtime": 2}, {"mode": 0o755}]
)
def test_two_sdists_that_differ_are_refused_by_name(
    change, release_check, tmp_path
):
    one = sdist(tmp_path / "one", names=("a",))
    other = sdist(tmp_path / "other", names=("a",), **change)
    with pytest.raises(release_check.ReleaseError, match="differ in package-1"):
        release_check.compare_bytes(one, other)


def test_two_wheels_that_differ_are_refused_by_name(release_check, tmp_path):
    wheels = []
    for year in (2001, 2002):
        path = tmp_path / str(year) / "package-1-py3-none-any.whl"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            for name, date in (("same.py", 2001), ("dated.py", year)):
                info = zipfile.ZipInfo(name, (date, 1, 1, 0, 0, 0))
                archive.writestr(info, b"")
        wheels.append(path)
    with pytest.raises(release_check.ReleaseError, match=r"in dated\.py"):
        release_check.compare_bytes(*wheels)
    release_check.compare_bytes(wheels[0], wheels[0])


def test_the_changelog_is_one_as_keep_a_changelog_has_it():
    """Versions with their dates, newest first, and the six kinds of change."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    kinds = "Added|Changed|Deprecated|Removed|Fixed|Security"
    for line in re.findall("^#{2,}.*", text, re.MULTILINE):
        assert re.fullmatch(
            r"## \[Unreleased\]"
            r"|## \[\d+\.\d+\.\d+\w*\] - \d{4}-\d{2}-\d{2}"
            rf"|### ({kinds})",
            line,
        ), line
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)", text, re.MULTILINE)
    assert released[0][0] == __version__
    dates = [date for _, date in released]
    assert dates == sorted(dates, reverse=True)
    for version in ("Unreleased", *(version for version, _ in released)):
        assert re.search(rf"^\[{re.escape(version)}\]: \S", text, re.MULTILINE)
    for section in re.split("^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(f"^### ({kinds})$", section, re.MULTILINE)
        assert len(found) == len(set(found)), "a kind of change stands twice"
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in cited


def test_each_figure_says_where_it_is_from():
    folder = ROOT / "tests" / "figures"
    said = set(
        re.findall(
            r"`([a-z0-9_]+\.(?:json|npz))`", (folder / "README.md").read_text()
        )
    )
    assert said == {path.name for path in folder.iterdir()} - {"README.md"}
