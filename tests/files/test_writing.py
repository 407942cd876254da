"""Writing: whole or not at all, and nothing replaced that is no regular file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fuzzvm.files.errors import FileError
from fuzzvm.files.writing import check_file, create, own_folder, write
from tests.devices import own_device


def test_new_files_and_regular_ones_are_written_whole(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write(tmp_path / "new" / "file", "text")
    finally:
        os.umask(umask)
    path = tmp_path / "new" / "file"
    assert path.read_text() == "text" and stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    before = path.stat().st_ino
    write(path, b"\xff")
    assert path.read_bytes() == b"\xff" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    # a name that is no UTF-8 can be repeated in a text
    write(path, os.fsdecode(b"\xff"))
    assert path.read_text() == "\\udcff"


def test_a_link_is_refused_where_the_user_names_it_and_replaced_where_the_name_is_ours(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for target in ("precious", "nothing", "/dev/null"):
        link = tmp_path / "link"
        link.symlink_to(target)
        with pytest.raises(FileError, match=f"link: not written, as it is a symbolic link to {target}$"):
            write(link, "text")
        write(link, "text", own_name=True)
        assert not link.is_symlink() and link.read_text() == "text"
        link.unlink()
    assert precious.read_text() == "precious" and not (tmp_path / "nothing").exists()
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(FileError, match="folder: not written to, as it is a symbolic link"):
        own_folder(tmp_path / "folder")


def test_a_pipe_is_written_to_if_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="pipe: No such device or address"):
        write(pipe, "text")
    got: list[str] = []
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(opened, True)

    def read() -> None:
        with os.fdopen(opened) as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    write(pipe, "text")
    reader.start()
    reader.join()
    assert got == ["text"] and stat.S_ISFIFO(pipe.lstat().st_mode)
    # a name that is ours is never that of a pipe
    with pytest.raises(FileError, match="not written, as it is a pipe"):
        write(pipe, "text", own_name=True)


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    null, full = (own_device(name, tmp_path / name) for name in ("null", "full"))
    write(null, "text")
    with pytest.raises(FileError, match="full: No space left on device"):
        write(full, "text")
    for device in (null, full):
        assert stat.S_ISCHR(device.stat().st_mode)
        with pytest.raises(FileError, match="not written, as it is a character device, and more files go beside it"):
            check_file(device)
    check_file(tmp_path / "new")
    with pytest.raises(FileError, match=r"an open file of this process|a symbolic link"):
        check_file(Path("/dev/stdout"))


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_open_file_of_this_process_is_written_to(name: str, tmp_path: Path) -> None:
    """Also where it is a regular file, which the path alone would replace, or begin anew."""
    code = f"from pathlib import Path; from fuzzvm.files.writing import write; write(Path({name!r}), 'more')"
    out = tmp_path / "out"
    with out.open("w") as file:
        file.write("before ")
        file.flush()
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert out.read_text() == "before more"


def test_other_things_are_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, why in ((tmp_path / "folder", "a folder"), (Path("a\0b"), "no file can have that name")):
        with pytest.raises(FileError, match=why):
            write(path, "text")
    with pytest.raises(FileError, match=r"No such file|Not a directory"):
        write(Path("/proc/none/file"), "text")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_what_is_created_was_not_there(tmp_path: Path) -> None:
    create(tmp_path / "file", "text")
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file", "link"):
        with pytest.raises(FileError, match="File exists"):
            create(tmp_path / name, "other")
    assert (tmp_path / "file").read_text() == "text" and not (tmp_path / "nothing").exists()
