"""Taking the fix out: of text that has its form, of no other, and never by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.realkernel import fix
from fuzzvm.realkernel.errors import RealKernelError


def promotion(level: str, below: str, *, comment: str = "\t/* why */\n", lock: str = "mmap_read_trylock") -> str:
    """Return made-up code of one level: what surrounds the lock is not the kernel's."""
    return (
        f"int promote_{level}(void)\n{{\n\tint ret;\n\n{comment}"
        f"\tif (!{lock}(&init_mm))\n\t\treturn 0;\n\n"
        f"\tif (!{level}_free_{below}_page({level}, addr)) {{\n"
        "\t\tmmap_read_unlock(&init_mm);\n\t\treturn 0;\n\t}\n\n"
        f"\tret = {level}_set_huge({level}, there);\n\tmmap_read_unlock(&init_mm);\n\n\treturn ret;\n}}\n"
    )


LEVELS = (("pmd", "pte"), ("pud", "pmd"), ("p4d", "pud"))
FIXED = "\n".join(promotion(*level) for level in LEVELS)


def test_every_lock_goes_and_nothing_else() -> None:
    edited = fix.without_trylock(FIXED)
    assert "mmap_read" not in edited and "why" not in edited
    for level, below in LEVELS:
        assert f"\tif (!{level}_free_{below}_page({level}, addr))\n\t\treturn 0;\n" in edited
        assert f"\tret = {level}_set_huge({level}, there);\n\n\treturn ret;\n" in edited
    assert edited.count("{") == edited.count("}") == 3


def test_a_comment_of_something_else_stays() -> None:
    text = FIXED.replace("\tint ret;\n\n", "\t/* of ret */\n\tint ret;\n\n")
    assert fix.without_trylock(text).count("of ret") == 3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_level_of_another_form_is_an_error(missing: int) -> None:
    parts = [promotion(*level) for level in LEVELS]
    parts[missing] = promotion(*LEVELS[missing], lock="some_other_lock")
    with pytest.raises(RealKernelError, match=f"vmap_try_huge_{LEVELS[missing][0]}"):
        fix.without_trylock("\n".join(parts))


def test_a_second_time_is_an_error() -> None:
    with pytest.raises(RealKernelError):
        fix.without_trylock(fix.without_trylock(FIXED))


def test_arm64s_choice() -> None:
    text = "a && !IS_ENABLED(CONFIG_PTDUMP_DEBUGFS);\n!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS);\n"
    assert fix.with_huge_beside_ptdump(text) == "a && true;\ntrue;\n"
    with pytest.raises(RealKernelError, match="1 times"):
        fix.with_huge_beside_ptdump("!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS)")


def tree(folder: Path, header: str) -> Path:
    for edit, text in zip(fix.EDITS["arm64"], (FIXED, header), strict=True):
        path = folder / edit.path
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder


def test_a_file_that_is_linked_elsewhere_is_replaced(tmp_path: Path) -> None:
    edited = tree(tmp_path / "tree", "!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS)" * 2)
    (tmp_path / "other").hardlink_to(edited / "mm/vmalloc.c")
    assert len(fix.apply(edited, fix.EDITS["arm64"])) == 2
    assert (tmp_path / "other").read_text() == FIXED
    assert "trylock" not in (edited / "mm/vmalloc.c").read_text()


def test_all_or_nothing(tmp_path: Path) -> None:
    unedited = tree(tmp_path, "nothing of the kind")
    with pytest.raises(RealKernelError):
        fix.apply(unedited, fix.EDITS["arm64"])
    assert (unedited / "mm/vmalloc.c").read_text() == FIXED


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RealKernelError, match=r"mm/vmalloc\.c"):
        fix.apply(tmp_path, fix.EDITS["x86_64"])
