"""arm64's part of images: encodings that alternatives and the closure depend on."""

from __future__ import annotations

import struct

import pytest

from fuzzvm.compiled.arch import Alternative
from fuzzvm.compiled.arm64.image import ARCH, branch_target
from fuzzvm.compiled.errors import ImageError

OLD, NEW = 0xFFFF_8000_8000_1000, 0xFFFF_8000_8004_0FF8


def replaced(*words: int) -> tuple[int, ...]:
    """Return what stands at OLD once code that stands at NEW is put there."""
    code = struct.pack(f"<{len(words)}I", *words)

    def read(address: int, size: int) -> bytes:
        return code[address - NEW : address - NEW + size]

    made = ARCH.replacement(Alternative(OLD, NEW, len(code), "X", False), read)
    return struct.unpack(f"<{len(words)}I", made)


@pytest.mark.parametrize(
    ("word", "offset"),
    [
        # b, bl, b.eq, cbz x0, cbnz w1, tbz x0 #0, tbnz x1 #33, forwards and backwards
        (0x14000002, 8),
        (0x97FFFFFF, -4),
        (0x54000040, 8),
        (0xB4FFFFE0, -4),
        (0x35000041, 8),
        (0x36000040, 8),
        (0xB70FFFE1, -4),
    ],
)
def test_branches(word: int, offset: int) -> None:
    assert branch_target(word, NEW) == NEW + offset


@pytest.mark.parametrize("word", [0xD503201F, 0xD65F03C0, 0xD61F0000, 0x54000050, 0x90000000])
def test_what_is_no_branch(word: int) -> None:
    assert branch_target(word, NEW) is None


def test_a_branch_out_of_the_new_code_is_moved() -> None:
    (moved,) = replaced(0x14000002)
    assert moved != 0x14000002 and branch_target(moved, OLD) == NEW + 8
    # to the end of the new code is inside of it
    assert replaced(0x14000001) == (0x14000001,)
    with pytest.raises(ImageError, match="out of reach"):
        # tbz reaches 32 KB
        replaced(0x36000040)


@pytest.mark.parametrize("pages", [0, 1, -1, 0x7FFF, -0x8000])
def test_adrp_comes_to_the_same_page_from_where_it_is_put(pages: int) -> None:
    immediate = pages & (1 << 21) - 1
    word = 0x90000007 | (immediate & 3) << 29 | (immediate >> 2) << 5
    (moved,) = replaced(word)
    offset = (moved >> 5 & 0x7FFFF) << 2 | moved >> 29 & 3
    offset -= (offset >> 20) << 21
    assert moved & 0x1F == 7 and (OLD & -4096) + offset * 4096 == (NEW & -4096) + pages * 4096


@pytest.mark.parametrize("word", [0x58000040, 0x10000040, 0x98000040])
def test_what_is_relative_in_another_way_is_refused(word: int) -> None:
    """LDR (literal), ADR and LDRSW (literal): the kernel stops at them, too."""
    with pytest.raises(ImageError, match="relative to itself"):
        replaced(word)


def test_where_the_kernel_is_linked() -> None:
    assert ARCH.base({"CONFIG_ARM64_VA_BITS": "48"}) == 0xFFFF_8000_8000_0000
    assert ARCH.base({"CONFIG_ARM64_VA_BITS": "39"}) == 0xFFFF_FFC0_8000_0000
    for bits in ("52", "16", "0"):
        with pytest.raises(ImageError, match="not supported"):
            ARCH.base({"CONFIG_ARM64_VA_BITS": bits})
    with pytest.raises(ImageError, match="no page size"):
        ARCH.page_size({})


@pytest.mark.parametrize(
    "table",
    [
        b"x",
        struct.pack("<iiHBB", 0, 0, 99, 4, 4),
        struct.pack("<iiHBB", 0, 0, 2, 4, 8),
        struct.pack("<iiHBB", 0, 0, 2, 3, 3),
    ],
)
def test_a_table_of_another_form_is_refused(table: bytes) -> None:
    with pytest.raises(ImageError, match="struct alt_instr"):
        list(ARCH.alternatives(table, OLD, {2: "HAS_LSE_ATOMICS"}))


def test_lines_of_a_disassembly() -> None:
    words = (0xD503201F, 0x54000040, 0x94000001, 0xD63F0000, 0x00000000, 0xFFFFFFFF)
    lines = list(ARCH.disassemble(struct.pack("<6I", *words), NEW))
    assert [(line.mnemonic, line.links) for line in lines] == [
        ("nop", False), ("b.cond", False), ("bl", True), ("blr", True), ("udf", False), ("(bad)", False),
    ]  # fmt: skip
    assert [line.target for line in lines] == [None, NEW + 12, NEW + 12, None, None, None]
