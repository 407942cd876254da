"""What a build checks before and after make; make itself is not run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from fuzzvm.kbuild import patches
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.realkernel import build as builds
from fuzzvm.realkernel import tools
from fuzzvm.realkernel.build import Options, load
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.fix import Edit
from tests.realkernel import fake_qemu


def test_what_was_built_is_read_back(tmp_path: Path) -> None:
    kernel = load(fake_qemu.install_kernel(tmp_path))
    assert (kernel.arch, kernel.levels, kernel.without) == ("x86_64", 4, ("promotion-lock",))
    assert kernel.symbols().address("vunmap_range")
    data = kernel.to_data()
    assert "folder" not in data and data["revert_fix"] is True and json.dumps(data)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arch": "x86_64"}', "{", '"text"', '{"without": 3}'])
def test_what_was_not_built_to_its_end(text: str, tmp_path: Path) -> None:
    (tmp_path / builds.MANIFEST).write_text(text)
    with pytest.raises(RealKernelError, match="holds no kernel"):
        load(tmp_path)


def test_the_fragments_are_found_and_further_options_come_last(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("CONFIG_MINE=y\n")
    options = Options(tmp_path, "arm64", fragment=tmp_path / "mine")
    config = builds._config(options, 4, builds.guest_sources())
    assert config.endswith("CONFIG_ARM64_VA_BITS_48=y\nCONFIG_MINE=y\n")
    # of two lines for one option, kconfig takes the last
    assert config.index("VA_BITS_48") > config.find("VA_BITS_39")
    assert {"CONFIG_KASAN=y", "CONFIG_PTDUMP_DEBUGFS=y", "CONFIG_PREEMPT_NONE=y"} <= set(config.splitlines())


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "missing_packages", lambda arch: [])


def test_a_folder_that_is_no_tree(tmp_path: Path, all_installed: None) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(RealKernelError, match="is no kernel tree"):
        builds.build(Options(tmp_path / "tree", "x86_64"), tmp_path / "out")


def test_a_tree_that_was_built_in(tmp_path: Path, all_installed: None) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("Kbuild", ".config"):
        (tree / name).write_text("")
    with pytest.raises(RealKernelError, match="mrproper"):
        builds.build(Options(tree, "x86_64"), tmp_path / "out")


def test_the_users_tree_is_not_written_to(tmp_path: Path, all_installed: None) -> None:
    tree = tmp_path / "tree"
    (tree / "mm").mkdir(parents=True)
    (tree / "Kbuild").write_text("")
    (tree / "mm/vmalloc.c").write_text("of another form\n")
    with pytest.raises(RealKernelError, match="vmap_try_huge_pmd"):
        builds.build(Options(tree, "x86_64", without=("promotion-lock",)), tmp_path / "out")
    assert sorted(path.name for path in tree.rglob("*")) == ["Kbuild", "mm", "vmalloc.c"]
    assert not (tmp_path / "out" / builds.MANIFEST).exists()


@pytest.mark.parametrize("without", [(), ("promotion-lock",)])
@pytest.mark.parametrize("out", [".", "source", "source/out"])
def test_the_users_tree_is_not_taken_for_the_builds(
    out: str, without: tuple[str, ...], tmp_path: Path, all_installed: None
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/Kbuild").write_text("")
    # not even where an earlier build has been
    (tmp_path / builds.FRAGMENT).write_text("")
    with pytest.raises(KbuildError, match="must lie apart"):
        builds.build(Options(tmp_path / "source", "x86_64", without=without), tmp_path / out)
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["Kbuild"]


@pytest.mark.parametrize("name", ["source", "module", "tmp"])
def test_a_folder_of_the_users_is_not_built_in(name: str, tmp_path: Path, all_installed: None) -> None:
    archive, out = tmp_path / "linux.tar", tmp_path / "out"
    archive.write_text("no archive")
    mine = out / name / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    with pytest.raises(KbuildError, match="is not empty"):
        builds.build(Options(archive, "x86_64"), out)
    assert mine.exists() and sorted(out.iterdir()) == [mine.parent]


def test_half_a_build_is_begun_anew(tmp_path: Path, all_installed: None) -> None:
    archive, out = tmp_path / "linux.tar", tmp_path / "out"
    archive.write_text("no archive")
    for _ in range(2):
        with pytest.raises(KbuildError, match="tar fails"):
            builds.build(Options(archive, "x86_64"), out)


PATCH = """\
--- a/mm/one.c
+++ b/mm/one.c
@@ -1 +1 @@
-one
+uno
"""


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    """Return a tree of the user's, and one that shares its files by hard links."""
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    for folder in (tree, copy):
        (folder / "mm").mkdir(parents=True)
    for name in ("one", "two"):
        (tree / f"mm/{name}.c").write_text(f"{name}\n")
        os.utime(tree / f"mm/{name}.c", (1000, 1000))
        (copy / f"mm/{name}.c").hardlink_to(tree / f"mm/{name}.c")
    return tree, copy


def test_what_a_build_edits_is_never_the_users_own(linked: tuple[Path, Path], tmp_path: Path) -> None:
    tree, copy = linked
    (tmp_path / "mine.patch").write_text(PATCH)
    edit = Edit(Path("mm/two.c"), lambda text: text + "more\n")
    builds._edit(copy, patches.read(tmp_path / "mine.patch"), (edit,), tmp_path / "edited")
    assert ((copy / "mm/one.c").read_text(), (copy / "mm/two.c").read_text()) == ("uno\n", "two\nmore\n")
    assert ((tree / "mm/one.c").read_text(), (tree / "mm/two.c").read_text()) == ("one\n", "two\n")
    assert (tmp_path / "edited").read_text().split() == ["mm/one.c", "mm/two.c"]


def test_what_an_earlier_build_had_edited_is_newer_than_its_object(linked: tuple[Path, Path], tmp_path: Path) -> None:
    tree, copy = linked
    (tmp_path / "edited").write_text("mm/two.c\nmm/gone.c\n")
    before = time.time() - 1
    builds._edit(copy, [], (), tmp_path / "edited")
    assert (copy / "mm/two.c").stat().st_mtime >= before and (copy / "mm/two.c").read_text() == "two\n"
    assert {(tree / "mm/two.c").stat().st_mtime, (copy / "mm/one.c").stat().st_mtime} == {1000}


def test_an_option_that_the_user_asks_for_is_not_optional(tmp_path: Path) -> None:
    guest = builds.guest_sources()
    (tmp_path / "mine").write_text("CONFIG_PREEMPT_NONE=y\n")
    assert "CONFIG_PREEMPT_NONE" in builds._optional(None, guest)
    # in 7.3 it is no option any more
    assert "CONFIG_X86_5LEVEL" in builds._optional(None, guest)
    left = set(builds._optional(None, guest)) - set(builds._optional(tmp_path / "mine", guest))
    assert left == {"CONFIG_PREEMPT_NONE"}


def test_a_fix_that_there_is_not(tmp_path: Path, all_installed: None) -> None:
    for without, arch, said in (("none", "x86_64", "no fix is named none"), ("collapse-lock", "arm64", "arm64 has no")):
        with pytest.raises(RealKernelError, match=said):
            builds.build(Options(tmp_path, arch, without=(without,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_module_and_init_know_the_same_calls() -> None:
    """Every call that a plan can ask for is one that the module parses."""
    module = (builds.guest_sources() / "module" / "fuzzvm_driver.c").read_text()
    for call in ("area", "vmap", "vunmap", "vmalloc", "vmalloc_huge", "vfree", "vm_unmap_aliases", "park"):
        assert f'"{call}' in module
