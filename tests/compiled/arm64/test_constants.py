"""Which addresses a function hands on: the forms that compilers put them together by."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fuzzvm.compiled.arm64.constants import addresses
from fuzzvm.compiled.arm64.image import ARCH
from fuzzvm.kbuild.arch import ARM64
from tests.compiled import small

BASE = 0xFFFF_8000_8000_0000
PAGE = 0xFFFF_8000_8001_0000

pytestmark = small.needs_compiler


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Assembles code at BASE, and returns what is found in it, as offsets from PAGE."""
    folder: Path = tmp_path_factory.mktemp("code")

    def find(*code: str, jumps: tuple[tuple[int, int], ...] = ()) -> set[tuple[int, bool]]:
        (folder / "a.s").write_text(".globl page\n" + "\n".join(code) + "\n")
        tools = ARM64.cross
        subprocess.run([f"{tools}as", "a.s", "-o", "a.o"], cwd=folder, check=True)
        link = [f"{tools}ld", f"-Ttext={BASE:#x}", f"--defsym=page={PAGE:#x}", "-e", "0", "a.o", "-o", "a.elf"]
        subprocess.run(link, cwd=folder, check=True)
        subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", "a.elf", "a.bin"], cwd=folder, check=True)
        lines = list(ARCH.disassemble((folder / "a.bin").read_bytes(), BASE))
        edges = [(BASE + 4 * place, BASE + 4 * target) for place, target in jumps]
        return {(address - PAGE, accessed) for address, accessed in addresses(lines, edges)}

    return find


CALL = ("bl page", "ret")


def test_an_argument_is_handed_on(found) -> None:  # type: ignore[no-untyped-def]
    assert found("adrp x0, page", "add x0, x0, #0x10", *CALL) == {(0x10, False)}
    assert found("adr x1, .+8", *CALL) == {(BASE + 8 - PAGE, False)}
    # what a register held before a call is gone after it, and one that is no argument is not handed on
    assert found("adrp x9, page", "add x9, x9, #0x10", "bl page", "mov x0, x9", *CALL) == set()


def test_an_anchor_is_not_what_is_handed_on(found) -> None:  # type: ignore[no-untyped-def]
    assert found("adrp x2, page", "add x2, x2, #0x10", "add x2, x2, #0x110", "mov x3, x2", *CALL) == {(0x120, False)}
    kept = ("adrp x19, page", "add x19, x19, #0x10", "bl page")
    assert found(*kept, "add x0, x19, #0x20", "bl page", "sub x0, x19, #8", *CALL) == {(0x30, False), (0x8, False)}
    assert found(*kept, "add x0, x19, #2, lsl #12", *CALL) == {(0x2010, False)}


def test_what_is_accessed_is_not_handed_on(found) -> None:  # type: ignore[no-untyped-def]
    assert found("adrp x2, page", "ldr x0, [x2, #0x18]", *CALL) == {(0x18, True)}
    assert found("adrp x2, page", "add x2, x2, #8", "stp xzr, xzr, [x2, #0x10]", "ret") == {(0x18, True)}
    # the base moves
    assert found("adrp x2, page", "ldr x0, [x2], #8", "ldr x1, [x2, #8]", "ret") == {(0, True)}


def test_a_value_that_is_stored_or_compared_is_handed_on(found) -> None:  # type: ignore[no-untyped-def]
    made = ("adrp x9, page", "add x9, x9, #0x10")
    assert found(*made, "str x9, [x0, #8]", "ret") == {(0x10, False)}
    assert found(*made, "cmp x9, x0", "ret") == {(0x10, False)}
    assert found(*made, "ldr x1, [x0, x9]", "ret") == {(0x10, False)}
    # it may be part of a structure whose address is handed on
    assert found(*made, "stp x9, xzr, [sp, #16]", "mov x0, sp", *CALL) == {(0x10, False)}


def test_a_spilled_anchor_is_found_again(found) -> None:  # type: ignore[no-untyped-def]
    code = ("adrp x9, page", "add x9, x9, #0x10", "str x9, [sp, #24]", "bl page", "ldr x9, [sp, #24]")
    assert (0x50, False) in found(*code, "add x0, x9, #0x40", *CALL)


def test_paths_join(found) -> None:  # type: ignore[no-untyped-def]
    code = ("adrp x1, page", "cbz x0, 1f", "add x2, x1, #8", "b 2f", "1: add x2, x1, #16", "2: mov x0, x2", *CALL)
    assert found(*code) >= {(8, False), (16, False)}
    # back round a loop
    code = ("adrp x19, page", "1: bl page", "add x0, x20, #8", "bl page", "add x20, x19, #0x40", "cbnz x21, 1b", "ret")
    assert found(*code) == {(0x48, False)}
    # one that would go on for ever
    assert len(found("adrp x9, page", "1: add x9, x9, #8", "str x9, [x0]", "b 1b")) < 40


def test_what_a_static_key_leads_to(found) -> None:  # type: ignore[no-untyped-def]
    code = ("adrp x19, page", "nop", "ret", "add x0, x19, #8", *CALL)
    assert found(*code) == set()
    assert found(*code, jumps=((1, 3),)) == {(8, False)}
