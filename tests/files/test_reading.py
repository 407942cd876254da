"""Reading: regular files of a bounded size, and nothing that would have to be waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import opened, read_bytes, read_text


def test_what_is_read_is_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert read_bytes(path, 3_000_000) == path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    assert len(read_bytes(str(tmp_path / "link"), 3_000_000)) == 3_000_000
    path.write_text("ä\n", encoding="utf-8")
    assert read_text(path, 3) == "ä\n"
    path.touch()
    assert read_bytes("/proc/self/status", 1 << 20).startswith(b"Name:")


def test_what_is_larger_is_refused_before_and_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(FileError, match=f"^{path}: larger than 1000 bytes$"):
        read_bytes(path, 1000)
    # the size of such a file is 0, whatever is in it
    with pytest.raises(FileError, match="larger than 10 bytes"):
        read_bytes("/proc/self/status", 10)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    bound = socket.socket(socket.AF_UNIX)
    # short, as the names of sockets must be
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        bound.bind("socket")
    finally:
        os.chdir(here)
        bound.close()
    for path, what in {
        tmp_path / "pipe": r"a pipe \(FIFO\)",
        tmp_path / "link": r"a pipe \(FIFO\)",
        tmp_path / "socket": "a socket",
        Path("/dev/zero"): "a character device",
    }.items():
        with pytest.raises(FileError, match=f"not a regular file but {what}"):
            read_bytes(path, 1000)
    with pytest.raises(FileError, match="Is a directory"):
        read_bytes(tmp_path, 1000)
    with pytest.raises(FileError, match="No such file"):
        opened(tmp_path / "none", 1000)
    with pytest.raises(FileError, match="no file can have that name"):
        read_bytes("a\0b", 1000)


def test_text_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(FileError, match="not UTF-8 text"):
        read_text(tmp_path / "file", 10)
