"""Files and directories are replaced whole or not at all."""

import os

import pytest

from keras_nfnet.utils.files import FileError, replacing, staged


def test_the_ending_is_what_writers_see(tmp_path):
    with replacing(tmp_path / "a.keras", ".keras") as path:
        assert path.endswith(".keras") and not os.path.exists(path)
        with open(path, "w") as file:
            file.write("new")
    assert (tmp_path / "a.keras").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.keras"]


@pytest.mark.parametrize("writer", [replacing, staged])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError, ValueError])
def test_what_was_there_stays_when_writing_fails(tmp_path, writer, fault):
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(fault):
        with writer(target) as path:
            with open(path, "w") as file:
                file.write("ne")
            raise fault("stopped")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("writer", [replacing, staged])
def test_nothing_is_renamed_before_it_is_on_the_disk(
    tmp_path, monkeypatch, writer
):
    target = tmp_path / "a"
    target.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        with writer(target) as path:
            with open(path, "w") as file:
                file.write("new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_links_stay_links_and_errors_are_of_both_kinds(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with replacing(tmp_path / "link") as path:
        with open(path, "w") as file:
            file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"
    assert issubclass(FileError, OSError) and issubclass(FileError, ValueError)
