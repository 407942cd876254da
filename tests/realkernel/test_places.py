"""The model's pages on real tables, and the walk of real tables, on memory that is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel.arch import ARM64, X86_64, Arch
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.places import Entry, Tables, Window
from fuzzvm.realkernel.symbols import Symbols
from tests.support import geometry_of

X86 = Window(geometry_of("x86_64", 4, 2), X86_64.window(12, 4))
ARM = Window(geometry_of("arm64", 3, 2), ARM64.window(12, 3))


def test_a_page_is_its_path_of_indices() -> None:
    assert [X86.address(page) - X86.start for page in (0, 1, 2, 3, 4, 8)] == [
        *(0, 4096, 2 << 20, (2 << 20) + 4096),
        *(1 << 30, 1 << 39),
    ]
    with pytest.raises(NoCounterpartError):
        X86.address(-1)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_with_the_real_fan_out_pages_lie_as_in_the_model(first: int, second: int) -> None:
    window = Window(geometry_of("x86_64", 4, 512), X86_64.window(12, 4))
    assert window.address(first) - window.address(second) == (first - second) * 4096


@given(st.sampled_from([X86, ARM]), st.integers(0, 14))
def test_pages_keep_their_order_and_their_entries(window: Window, page: int) -> None:
    assert window.address(page) < window.address(page + 1)
    for level in (Level.PTE, Level.PMD):
        same = page >> (window.geometry.shifts[level] - 12) == (page + 1) >> (window.geometry.shifts[level] - 12)
        block = window.block(level)
        assert same == (window.address(page) // block == window.address(page + 1) // block)


class Memory:
    """Physical memory as a dict, and what the kernel sees of it, which is the same words elsewhere."""

    def __init__(self, words: dict[int, int], variables: dict[int, int] | None = None) -> None:
        self.words = words
        self.variables = variables or {}

    def physical(self, address: int) -> int:
        return self.words.get(address, 0)

    def memory(self, cpu: int, address: int, length: int) -> bytes:
        return self.variables[address].to_bytes(length, "little")


def tables(arch: Arch, words: dict[int, int]) -> Tables:
    if arch is X86_64:
        symbols = Symbols("ffffffff82000000 D init_top_pgt\n")
        return Tables(arch, symbols, Memory(words), 4, 12)  # type: ignore[arg-type]
    symbols = Symbols(
        "ffffffc080100000 D swapper_pg_dir\nffffffc080200000 D kimage_voffset\nffffffc080200008 D memstart_addr\n"
    )
    variables = {0xFFFFFFC080200000: 0xFFFFFFC040000000, 0xFFFFFFC080200008: 0x40000000}
    return Tables(arch, symbols, Memory(words, variables), 3, 12)  # type: ignore[arg-type]


def index(window: Window, level: Level) -> int:
    return (window.start >> window.shift(level)) & 511


def test_the_walk_goes_from_the_root_to_the_entry() -> None:
    words = {0x2000000 + 8 * index(X86, Level.PGD): 0x5000 | 0x63, 0x5000 + 8 * index(X86, Level.PUD): 0x6063}
    words[0x6000] = 0x7063
    found = tables(X86_64, words)
    assert found.find(X86, Entry(Level.PGD, 0)) == 0xFFFFFFFF82000000 + 8 * index(X86, Level.PGD)
    assert found.find(X86, Entry(Level.PMD, 0)) == 0xFFFF888000006000
    assert found.find(X86, Entry(Level.PTE, 1)) == 0xFFFF888000007008
    # the next block has no table, and the one after that is a block
    assert found.find(X86, Entry(Level.PTE, 2)) is None
    words[0x6008] = 0x4000_00E3
    assert found.find(X86, Entry(Level.PTE, 2)) is None
    assert found.find(X86, Entry(Level.PMD, 2)) == 0xFFFF888000006008


def test_arm64s_root_and_linear_map() -> None:
    root = 0xFFFFFFC080100000 - 0xFFFFFFC040000000
    words = {root + 8 * index(ARM, Level.PGD): 0x4500_0003, 0x4500_0000: 0x4600_0003, 0x4500_0008: 0x4800_0701}
    found = tables(ARM64, words)
    assert found.find(ARM, Entry(Level.PMD, 0)) == 0xFFFFFF8005000000
    assert found.find(ARM, Entry(Level.PTE, 1)) == 0xFFFFFF8006000008
    assert found.find(ARM, Entry(Level.PTE, 2)) is None
