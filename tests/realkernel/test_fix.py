"""Taking the fix out: of text that has its form, of no other, and never by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.realkernel import fix
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.scenario import ordering_points

ARM64 = fix.edits([fix.PROMOTION], "arm64")


def promotion(level: str, below: str, *, comment: str = "\t/* why */\n", lock: str = "mmap_read_trylock") -> str:
    """Return made-up code of one level: what surrounds the lock is not the kernel's."""
    return (
        f"int promote_{level}(void)\n{{\n\tint ret;\n\n{comment}"
        f"\tif (!{lock}(&init_mm))\n\t\treturn 0;\n\n"
        f"\tif (!{level}_free_{below}_page({level}, addr)) {{\n"
        "\t\tmmap_read_unlock(&init_mm);\n\t\treturn 0;\n\t}\n\n"
        f"\tret = {level}_set_huge({level}, there);\n\tmmap_read_unlock(&init_mm);\n\n\treturn ret;\n}}\n"
    )


def guarded(level: str, below: str) -> str:
    """Return made-up code of one level with a guard: what surrounds the lock is not the kernel's."""
    return (
        f"int promote_{level}(void)\n{{\n\t/* why */\n"
        "\tscoped_cond_guard(mmap_read_lock_try, return 0, &init_mm) {\n"
        f"\t\tif (!{level}_free_{below}_page({level}, addr))\n\t\t\treturn 0;\n"
        f"\t\treturn {level}_set_huge({level}, there);\n\t}}\n}}\n"
    )


LEVELS = (("pmd", "pte"), ("pud", "pmd"), ("p4d", "pud"))
FIXED = "\n".join(promotion(*level) for level in LEVELS)
GUARDED = "\n".join(guarded(*level) for level in LEVELS)


def test_every_lock_goes_and_nothing_else() -> None:
    edited = fix.without_trylock(FIXED)
    assert "mmap_read" not in edited and "why" not in edited
    for level, below in LEVELS:
        assert f"\tif (!{level}_free_{below}_page({level}, addr))\n\t\treturn 0;\n" in edited
        assert f"\tret = {level}_set_huge({level}, there);\n\n\treturn ret;\n" in edited
    assert edited.count("{") == edited.count("}") == 3


def test_a_guard_goes_and_its_block_stays() -> None:
    edited = fix.without_trylock(GUARDED)
    assert "guard" not in edited and "why" not in edited
    for level, below in LEVELS:
        assert f"{{\n\t{{\n\t\tif (!{level}_free_{below}_page({level}, addr))\n\t\t\treturn 0;\n" in edited
    assert edited.count("{") == edited.count("}") == 6


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
    for text in (FIXED, GUARDED):
        with pytest.raises(RealKernelError):
            fix.without_trylock(fix.without_trylock(text))


def test_arm64s_choice() -> None:
    text = "a && !IS_ENABLED(CONFIG_PTDUMP_DEBUGFS);\n!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS);\n"
    assert fix.with_huge_beside_ptdump(text) == "a && true;\ntrue;\n"
    for text in ("!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS)", "#ifdef CONFIG_PTDUMP\n"):
        with pytest.raises(RealKernelError, match=r"[01] times"):
            fix.with_huge_beside_ptdump(text)
    # later kernels do not make it
    assert fix.with_huge_beside_ptdump("return true;\n") == "return true;\n"


OTHER = "\tif (mm != &init_mm)\n\t\t"
NESTED = "mmap_write_lock_nested(&init_mm, SINGLE_DEPTH_NESTING);\n"
LOCKS = {
    "walk-init-lock": (
        "mm/ptdump.c",
        f"{OTHER}{NESTED}\twalk();\n{OTHER}mmap_write_unlock(&init_mm);\n",
        "\twalk();\n",
    ),
    "collapse-lock": (
        "arch/x86/mm/pat/set_memory.c",
        "\tscoped_guard(mmap_write_lock, &init_mm)\n\t\t__cpa_collapse_large_pages(cpa);\n",
        "\t__cpa_collapse_large_pages(cpa);\n",
    ),
    "attributes-lock": (
        "arch/x86/mm/pat/set_memory.c",
        "\tcpa.init_mm_read_locked = true;\n\tscoped_guard(mmap_read_lock, &init_mm)\n\t\tret = change();\n",
        "\tret = change();\n",
    ),
    "lookup-lock": (
        "arch/x86/kernel/alternative.c",
        "\t\tguard(mmap_read_lock)(&init_mm);\n\t\tlook();\n",
        "\t\tlook();\n",
    ),
}


@pytest.mark.parametrize("step", LOCKS)
def test_a_lock_goes_and_nothing_else(step: str, tmp_path: Path) -> None:
    name, text, without = LOCKS[step]
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    for before, after in ((text, without), (f"before;\n{text}after;\n", f"before;\n{without}after;\n")):
        path.write_text(before)
        fix.apply(tmp_path, fix.edits([step], "x86_64"))
        assert path.read_text() == after
    for other in (without, text + text):
        path.write_text(other)
        with pytest.raises(RealKernelError, match=f"needs no --without-fix {step}"):
            fix.apply(tmp_path, fix.edits([step], "x86_64"))
        assert path.read_text() == other


def test_two_locks_of_one_file(tmp_path: Path) -> None:
    steps = ("collapse-lock", "attributes-lock")
    path = tmp_path / LOCKS[steps[0]][0]
    path.parent.mkdir(parents=True)
    path.write_text("".join(LOCKS[step][1] for step in steps))
    assert fix.apply(tmp_path, fix.edits(steps, "x86_64")) == [path]
    assert path.read_text() == "".join(LOCKS[step][2] for step in steps)


def test_steps_are_named_as_the_releases_ordering_points_are() -> None:
    for arch in ("x86_64", "arm64"):
        steps = {step for step, arches in fix.STEPS.items() if arch in arches}
        assert steps <= set(ordering_points.names(arch))


def tree(folder: Path, header: str) -> Path:
    for edit, text in zip(ARM64, (FIXED, header), strict=True):
        path = folder / edit.path
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder


def test_a_file_that_is_linked_elsewhere_is_replaced(tmp_path: Path) -> None:
    edited = tree(tmp_path / "tree", "!IS_ENABLED(CONFIG_PTDUMP_DEBUGFS)" * 2)
    (tmp_path / "other").hardlink_to(edited / "mm/vmalloc.c")
    assert len(fix.apply(edited, ARM64)) == 2
    assert (tmp_path / "other").read_text() == FIXED
    assert "trylock" not in (edited / "mm/vmalloc.c").read_text()


def test_all_or_nothing(tmp_path: Path) -> None:
    unedited = tree(tmp_path, "#ifdef CONFIG_PTDUMP\n")
    with pytest.raises(RealKernelError):
        fix.apply(unedited, ARM64)
    assert (unedited / "mm/vmalloc.c").read_text() == FIXED


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RealKernelError, match=r"mm/vmalloc\.c"):
        fix.apply(tmp_path, fix.edits([fix.PROMOTION], "x86_64"))
