"""A build with patches that begins with the objects of the tree's own build comes to what one from the start does.

An object that is not compiled anew would be verified as if the patch were in it.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from fuzzvm.compiled import reuse
from fuzzvm.compiled.build import Options, build
from fuzzvm.kbuild import patches as patching
from tests.compiled import small

pytestmark = small.needs_compiler
VMALLOC, SMALL = "mm/vmalloc.c", "include/small.h"
WALK = "\tif (!down_read_trylock(&init_mm.mmap_lock))\n\t\treturn 0;\n", ""
MEMBER = "struct mm_struct {", "struct mm_struct {\n\tlong before;"


def difference(name: str, old: str, new: str) -> str:
    from_ = f"a/{name}" if old else "/dev/null"
    return "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), from_, f"b/{name}"))


def edit(name: str, *edits: tuple[str, str]) -> str:
    old = new = (small.SOURCES / name).read_text()
    for before, after in edits:
        assert before in new, before
        new = new.replace(before, after)
    return difference(name, old, new)


LONGER = edit(SMALL, MEMBER)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build(Options(tree=small.SOURCES, jobs=2), folder)
    return folder


def built(folder: Path, patch: str, base: Path | None) -> tuple[str, set[str]]:
    """Return an image's digest, and the objects that were compiled for it."""
    file = folder.with_suffix(".patch")
    file.write_text(patch)
    digest = build(Options(tree=small.SOURCES, patches=(file,), jobs=2), folder, base=base).digest
    lines = (folder / "build.log").read_text().splitlines()
    return digest, {line.split()[-1] for line in lines if line.startswith("  CC ")}


def both(tmp_path: Path, patch: str, base: Path) -> set[str]:
    """Check that a build from the start and one from the base are equal; return what the second one has compiled."""
    whole, every = built(tmp_path / "whole", patch, None)
    taken, some = built(tmp_path / "taken", patch, base)
    assert taken == whole and some <= every and len(every) > 5
    return some


def test_what_a_patch_changes_is_compiled_and_nothing_else(tmp_path: Path, base: Path) -> None:
    assert both(tmp_path, edit(VMALLOC, WALK), base) == {"mm/vmalloc.o"}


@pytest.mark.always
def test_a_header_is_changed_for_all_that_include_it(tmp_path: Path, base: Path) -> None:
    assert len(both(tmp_path, LONGER, base)) > 5


def test_a_new_header_hides_another_and_no_object_knows(tmp_path: Path, base: Path) -> None:
    text = (small.SOURCES / SMALL).read_text()
    nearer = difference("mm/small.h", "", text.replace(*MEMBER))
    assert len(both(tmp_path, nearer, base)) > 5


@pytest.mark.always
def test_a_patched_file_that_is_older_than_the_objects_is_compiled(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a clock was set back: make sees nothing to do."""
    apply = patching.apply

    def early(patches: list[patching.Patch], into: Path) -> None:
        apply(patches, into)
        os.utime(into / VMALLOC, (1e9, 1e9))

    monkeypatch.setattr(patching, "apply", early)
    assert len(both(tmp_path, edit(VMALLOC, WALK), base)) > 5


def test_a_dependency_that_still_names_the_base_is_not_believed(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make then looks at the header without the patch, which is as it was."""
    monkeypatch.setattr(reuse.re, "escape", lambda path: "nothing is replaced")
    assert len(both(tmp_path, LONGER, base)) > 5


@pytest.mark.parametrize("changed", ["source", "fragment", "cut"])
def test_a_base_of_something_else_is_not_begun_with(tmp_path: Path, changed: str) -> None:
    tree = small.copy_tree(tmp_path / "tree")
    base, out = tmp_path / "base", tmp_path / "out"
    build(Options(tree=tree, jobs=2), base)
    file, fragment = tmp_path / "patch", None
    file.write_text(edit(VMALLOC, WALK))
    if changed == "source":
        path = tree / "mm/ptdump.c"
        stat = path.stat()
        path.write_text(path.read_text() + "int behind;\n")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif changed == "fragment":
        fragment = tmp_path / "fragment"
        fragment.write_text(small.FRAGMENT)
    else:
        state = base / "state.json"
        state.write_text(state.read_text().replace('"done"', '"again"'))
    build(Options(tree=tree, patches=(file,), fragment=fragment, jobs=2), out, base=base)
    assert (out / "build.log").read_text().count("  CC ") > 5
