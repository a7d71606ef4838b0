"""A file is whole under its final name, or what stood there stays."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from matseg_shared.errors import OutputError
from matseg_shared.system.files import (
    TEMPORARY_PREFIX,
    atomic_write,
    output_errors,
    temporary_beside,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_is_there_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_write(path) as stream:
        stream.write(b"\x00\r\n")
        assert not path.exists()
    assert path.read_bytes() == b"\x00\r\n"
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (errno.ENOSPC, "no space is left on that disk"),
        (errno.EACCES, "no permission to write there"),
        (errno.EROFS, "no permission to write there"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_disk_that_refuses_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, part: str
) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError) as caught:
        write_text(path, "new")
    assert str(caught.value).startswith(f"{path}: cannot be written: ")
    assert part in str(caught.value)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_met_by_the_writer_itself(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "file.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="no space is left"):
        write()
    assert names(tmp_path) == []


def test_no_permission_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match="choose another output folder or change its permissions"):
        write_text(tmp_path / "file.txt", "new")


def test_a_file_where_a_folder_is_needed_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OutputError, match="choose another name"):
        write_text(tmp_path / "taken" / "file.txt", "new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "folder", "new")
    assert names(tmp_path) == ["folder", "taken"]


def test_an_error_inside_that_is_ours_keeps_its_own_words(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "outer"), output_errors(tmp_path / "inner"):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OutputError) as caught:
        write()
    assert str(caught.value).startswith(str(tmp_path / "inner"))


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    """Only what the operating system says of writing is an output error; a missing input keeps its own type."""

    def write() -> None:
        with atomic_write(tmp_path / "out" / "file.bin") as stream:
            stream.write((tmp_path / "in" / "missing.bin").read_bytes())

    with pytest.raises(FileNotFoundError):
        write()
    assert names(tmp_path / "out") == []


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    contents = [bytes([number]) * 50_000 for number in range(8)]
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        for _ in range(5):
            with atomic_write(path) as stream:
                stream.write(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file.bin"]


def test_temporary_names_are_hidden_beside_their_file_and_never_the_same(tmp_path: Path) -> None:
    first, second = temporary_beside(tmp_path / "a.png"), temporary_beside(tmp_path / "a.png")
    assert first != second
    assert first.parent == tmp_path
    assert first.name.startswith(TEMPORARY_PREFIX)
    assert TEMPORARY_PREFIX.startswith(".")


def test_the_longest_name_a_disk_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".png")
    write_text(path, "long")
    assert path.read_text(encoding="utf-8") == "long"


def test_text_is_utf8_with_its_line_ends_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "größe\n")
    assert (tmp_path / "file.txt").read_bytes() == "größe\n".encode()
