"""Sources: trees seen through an overlay, archives, and that the user's own files stay as they are."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from fuzzvm.kbuild import source
from fuzzvm.kbuild.arch import ARM64
from fuzzvm.kbuild.errors import KbuildError

FILES = (
    "Kbuild",
    "Kconfig",
    "mm/a.c",
    "mm/b.c",
    "mm/deep/c.c",
    "include/linux/a.h",
    "drivers/x/x.c",
    "drivers/x/Kconfig",
    "arch/Kconfig",
    "arch/arm/mm/x.c",
    "arch/arm/Kconfig",
    "arch/arm64/mm/x.c",
)
MAKEFILE = "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION = -rc1\nNAME = x\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "Makefile").write_text(MAKEFILE)
    return folder


def content(folder: Path) -> dict[str, str]:
    """Return what a program that reads the folder sees, through links too."""
    found = {}
    for top, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(top) / name
            found[str(path.relative_to(folder))] = path.read_text()
    return found


def test_what_a_tree_is(tree: Path, tmp_path: Path) -> None:
    assert source.is_tree(tree) and not source.is_tree(tmp_path)
    assert source.version(tree) == "7.3.4-rc1"
    assert source.is_clean(tree, ARM64)
    (tree / "include/config").mkdir()
    assert not source.is_clean(tree, ARM64)


def test_a_stamp_tells_every_change(tree: Path) -> None:
    first = source.stamp(tree)
    assert source.stamp(tree) == first
    (tree / ".git").mkdir()
    (tree / ".git/index").write_text("git's own")
    assert source.stamp(tree) == first
    os.utime(tree / "mm/deep/c.c", (1, 1))
    second = source.stamp(tree)
    (tree / "mm/d.c").write_text("")
    assert len({first, second, source.stamp(tree)}) == 3


def test_an_overlay_shows_the_tree_and_can_be_written_to_where_it_is_copied(tree: Path, tmp_path: Path) -> None:
    (tree / "mm/a.c").chmod(0o444)
    before, stamp = content(tree), source.stamp(tree)
    over = tmp_path / "over"
    source.overlay(tree, over, ARM64, ["mm/a.c", "lib/new/new.c"])
    assert content(over) == before
    assert not (over / "mm/a.c").is_symlink() and (over / "mm/b.c").is_symlink() and (over / "lib/new").is_dir()
    # first, since nothing can be made in a directory that is the user's
    assert not (over / "mm").is_symlink() and not (over / "drivers").is_symlink() and (over / "drivers/x").is_symlink()
    (over / "mm/a.c").write_text("changed")
    (over / "lib/new/new.c").write_text("made")
    assert content(tree) == before and source.stamp(tree) == stamp
    # again, with other copies
    source.overlay(tree, over, ARM64, ["include/linux/a.h"])
    assert content(over) == before and (over / "mm/a.c").is_symlink()


def test_an_overlay_hides_what_a_build_left(tree: Path, tmp_path: Path) -> None:
    products = (
        ".config", ".config.old", "mm/a.o", "mm/.a.o.cmd", "mm/deep/c.o", "mm/deep/.c.o.cmd",
        "include/config/auto.conf", "include/generated/autoconf.h", "arch/arm64/include/generated/asm/x.h",
        "scripts/basic/fixdep", "scripts/basic/.fixdep.cmd", "scripts/mod/devicetable-offsets.h",
    )  # fmt: skip
    sources = content(tree)
    for name in products:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("made")
    over = tmp_path / "over"
    source.overlay(tree, over, ARM64, [])
    assert content(over) == sources
    assert source.is_clean(over, ARM64) and not source.is_clean(tree, ARM64)


def test_a_file_that_is_read_past_its_copy_is_seen(tree: Path, tmp_path: Path) -> None:
    over = tmp_path / "over"
    source.overlay(tree, over, ARM64, ["mm/a.c"])
    # what a compiler calls a file that mm/deep/c.c includes by `../a.c`
    past = over / "mm/deep/../a.c"
    assert past.read_text() == "mm/a.c" and os.path.realpath(past) == str(tree / "mm/a.c")
    source.check_includes(tree, ["mm/a.c"], [over / "mm/a.c", over / "mm/b.c"])
    with pytest.raises(KbuildError, match=r"names mm/a\.c in a way that leads past the patch"):
        source.check_includes(tree, ["mm/a.c"], [over / "mm/a.c", past])


def archive(tree: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as written:  # type: ignore[call-overload]
        written.add(tree, "linux-7.3")
    return path


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.xz", "w:xz"), ("x.tar.gz", "w:gz")])
def test_an_archive_is_unpacked_without_what_no_object_needs(name: str, mode: str, tree: Path, tmp_path: Path) -> None:
    packed = archive(tree, tmp_path / name, mode)
    log = tmp_path / "log"
    source.unpack(packed, tmp_path / "out", ARM64, ["mm/x.o"], log)
    kept = {name: text for name, text in content(tree).items() if name not in ("drivers/x/x.c", "arch/arm/mm/x.c")}
    assert content(tmp_path / "out") == kept
    source.unpack(packed, tmp_path / "out", ARM64, ["drivers/x/x.o"], log)
    assert (tmp_path / "out/drivers/x/x.c").is_file()


def test_what_is_no_archive(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("no archive")
    (tmp_path / "empty.tar").write_bytes(b"")
    (tree / "Kbuild").unlink()
    other = archive(tree, tmp_path / "other.tar", "w")
    for path in (tmp_path / "x.tar", tmp_path / "empty.tar", other):
        with pytest.raises(KbuildError, match="is no archive of a kernel tree"):
            source.unpack(path, tmp_path / "out", ARM64, [], tmp_path / "log")


def test_a_folder_is_taken_only_if_it_is_the_builds(tmp_path: Path) -> None:
    source.take_folder(tmp_path / "new/folder", "marker", "fuzzvm x")
    (tmp_path / "mine").write_text("")
    with pytest.raises(KbuildError, match="is not empty, and nothing that `fuzzvm x` made"):
        source.take_folder(tmp_path, "marker", "fuzzvm x")
    (tmp_path / "marker").write_text("")
    source.take_folder(tmp_path, "marker", "fuzzvm x")
    with pytest.raises(KbuildError, match="mine: "):
        source.take_folder(tmp_path / "mine", "marker", "fuzzvm x")
    with pytest.raises(KbuildError, match="must lie apart"):
        source.check_apart(tmp_path / "x/out", tmp_path / "x")
    source.check_apart(tmp_path / "x", tmp_path / "y")
