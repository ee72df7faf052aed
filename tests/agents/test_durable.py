import os
from pathlib import Path

import pytest

from agents.durable import write_file, write_text


class Crash(BaseException):
    """The power failed."""


def crash(*_: object) -> None:
    raise Crash


def test_text_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.txt"
    for text in ("one\n", "zwei: ü\n"):
        write_text(file, text)
        assert file.read_bytes() == text.encode()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_crash_before_the_renaming_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os if stage == "fsync" else Path, stage, crash)
        with pytest.raises(Crash):
            write_text(file, "new")
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    real, file = os.fsync, tmp_path / "a"

    def fsync(descriptor: int) -> None:
        seen.append((file.exists(), (tmp_path / "a.partial").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(file, "text")
    assert seen == [(False, True), (True, False)]


def test_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def write(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_file(file, write)
    assert file.read_text() == "old"
