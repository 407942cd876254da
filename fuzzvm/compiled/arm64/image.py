"""What building and loading a kernel image needs to know of arm64.

Sources: Arm ARM (DDI 0487), section C4.1 for the encodings; ELF for the Arm 64-bit Architecture (IHI 0056) for the
relocations; arch/arm64 of Linux 6.12 to 7.3 for alternatives (asm/alternative-macros.h, kernel/alternative.c), for
where the kernel is linked (asm/memory.h) and for its linker script (kernel/vmlinux.lds.S).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from fuzzvm.compiled.arch import Alternative, Line, ReadMemory
from fuzzvm.compiled.arm64.constants import addresses
from fuzzvm.compiled.errors import ImageError
from fuzzvm.kbuild.arch import ARM64

_NOP = 0xD503201F
_CALLBACK_BIT = 1 << 15
"""ARM64_CB_BIT: the alternative is written by a function."""
_ENTRY = struct.Struct("<iiHBB")
"""struct alt_instr: original and replacement, relative to their own place; capability; the two lengths."""
_MODULES_SIZE = 1 << 31


def _nops(size: int) -> bytes:
    return struct.pack("<I", _NOP) * (size // 4)


class Arm64:
    """arm64, for images: see ImageArch."""

    kernel = ARM64
    objects = (
        ("arch/arm64/mm/mmu.o", ()),
        ("arch/arm64/mm/ptdump.o", ("CONFIG_PTDUMP", "CONFIG_PTDUMP_CORE")),
        ("arch/arm64/mm/pageattr.o", ()),
        ("arch/arm64/mm/fixmap.o", ()),
        # memstart_addr
        ("arch/arm64/mm/init.o", ()),
        ("arch/arm64/kernel/jump_label.o", ("CONFIG_JUMP_LABEL",)),
    )
    tables = ("idmap_pg_dir", "reserved_pg_dir", "swapper_pg_dir")
    elf_machine = "EM_AARCH64"
    output_format = "elf64-littleaarch64"
    # R_AARCH64_TSTBR14, CONDBR19, JUMP26, CALL26
    branch_relocations = frozenset({279, 280, 282, 283})
    # R_AARCH64_ABS64
    pointer_relocation = 257
    # R_AARCH64_RELATIVE
    relative_relocation = 1027
    atomics: Mapping[str, tuple[str, ...]] = MappingProxyType({"lse": ("HAS_LSE_ATOMICS",), "ll-sc": ()})
    always = ("ALWAYS_BOOT", "ALWAYS_SYSTEM")
    callbacks: Mapping[str, Callable[[int], bytes]] = MappingProxyType({"alt_cb_patch_nops": _nops})
    feature_header = "arch/arm64/include/generated/asm/cpucap-defs.h"

    def base(self, config: Mapping[str, str]) -> int:
        """Return KIMAGE_VADDR: 2 GB of modules after the linear map. Raises ImageError for 52 bits of addresses."""
        bits = int(config.get("CONFIG_ARM64_VA_BITS", "0"))
        if not 36 <= bits <= 48:
            raise ImageError(f"images of kernels with CONFIG_ARM64_VA_BITS={bits} are not supported: say --levels")
        return (1 << 64) - (1 << bits - 1) + _MODULES_SIZE

    def page_size(self, config: Mapping[str, str]) -> str:
        """Return the page size of a configuration."""
        for size in self.kernel.levels:
            if config.get(f"CONFIG_ARM64_{size}_PAGES") == "y":
                return size
        raise ImageError("the configuration has no page size: it is not one of arm64")

    def levels(self, config: Mapping[str, str], features: Collection[str]) -> int:
        """Return CONFIG_PGTABLE_LEVELS."""
        return int(config.get("CONFIG_PGTABLE_LEVELS", "0"))

    def check_atomics(self, config: Mapping[str, str], atomics: str) -> None:
        """Raise ImageError for LSE in a kernel that has LL/SC only; Linux 7.2 and 7.3 always have both."""
        if atomics == "lse" and config.get("CONFIG_ARM64_USE_LSE_ATOMICS") == "n":
            raise ImageError("CONFIG_ARM64_USE_LSE_ATOMICS is off: this kernel has --atomics ll-sc only")

    def features(self, header: str) -> dict[int, str]:
        """Return the names of the capabilities, without ARM64_, by their number."""
        return {int(number): name for name, number in re.findall(r"^#define ARM64_(\w+)\s+(\d+)$", header, re.M)}

    def alternatives(self, table: bytes, address: int, features: Mapping[int, str]) -> Iterator[Alternative]:
        """Yield the entries of .altinstructions. Raises ImageError where they are not those of struct alt_instr."""
        if len(table) % _ENTRY.size:
            raise ImageError("the table of alternatives is not one of struct alt_instr")
        for place in range(0, len(table), _ENTRY.size):
            original, replacement, capability, size, new_size = _ENTRY.unpack_from(table, place)
            callback = bool(capability & _CALLBACK_BIT)
            number = capability & ~_CALLBACK_BIT
            if number not in features or size % 4 or new_size != (0 if callback else size):
                raise ImageError(f"alternative {place // _ENTRY.size}: not an entry of struct alt_instr")
            here = address + place
            yield Alternative(here + original, here + 4 + replacement, size, features[number], callback)

    def replacement(self, alternative: Alternative, read: ReadMemory) -> bytes:
        """Return the new code, its branches and its ADRP adjusted to their new place (get_alt_insn)."""
        written = bytearray()
        for offset in range(0, alternative.size, 4):
            old, new = alternative.replacement + offset, alternative.address + offset
            (word,) = struct.unpack("<I", read(old, 4))
            end = alternative.replacement + alternative.size
            if (target := branch_target(word, old)) is not None:
                if not alternative.replacement <= target <= end:
                    word = _with_target(word, new, target)
            elif word & 0x9F000000 == 0x90000000:
                page = (old & ~0xFFF) + _adr_offset(word) * 4096
                word = _with_page(word, new, page)
            elif word & 0x3B000000 == 0x18000000 or word & 0x9F000000 == 0x10000000:
                raise ImageError(f"the alternative of {alternative.address:#x} has an instruction relative to itself")
            written += struct.pack("<I", word)
        return bytes(written)

    def disassemble(self, code: bytes, address: int) -> Iterator[Line]:
        """Yield the instructions of a run of words."""
        decoder = _decoder()
        for offset in range(0, len(code) - 3, 4):
            here = address + offset
            (word,) = struct.unpack_from("<I", code, offset)
            _, _, mnemonic, operands = next(decoder.disasm_lite(code[offset : offset + 4], here), (0, 0, "(bad)", ""))
            # b.eq and its like are one instruction
            name = "b.cond" if mnemonic.startswith("b.") else mnemonic
            links = word & 0xFC000000 == 0x94000000 or mnemonic == "blr"
            yield Line(here, 4, name, operands, branch_target(word, here), links)

    def addresses(self, lines: Sequence[Line], jumps: Iterable[tuple[int, int]]) -> set[tuple[int, bool]]:
        """Return the addresses that a function hands on, and those that it accesses itself: see `constants`."""
        return addresses(lines, jumps)


ARCH = Arm64()


@cache
def _decoder() -> Any:
    # imported here: loading an image needs no disassembler
    try:
        import capstone
    except ModuleNotFoundError as error:
        raise ImageError("showing code needs capstone: pip install 'fuzzvm[compiled]'") from error

    return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


# mask, value, lowest bit of the offset in words, and its width: B and BL; B.cond; CBZ and CBNZ; TBZ and TBNZ
_BRANCHES = (
    (0x7C000000, 0x14000000, 0, 26),
    (0xFF000010, 0x54000000, 5, 19),
    (0x7E000000, 0x34000000, 5, 19),
    (0x7E000000, 0x36000000, 5, 14),
)


def branch_target(word: int, address: int) -> int | None:
    """Return where an instruction branches to, None where it says no address."""
    for mask, value, low, width in _BRANCHES:
        if word & mask == value:
            offset = _signed(word >> low & (1 << width) - 1, width) * 4
            return (address + offset) & (1 << 64) - 1
    return None


def _with_target(word: int, address: int, target: int) -> int:
    for mask, value, low, width in _BRANCHES:
        if word & mask == value:
            offset = (target - address) >> 2
            if not -(1 << width - 1) <= offset < 1 << width - 1:
                raise ImageError(f"an alternative's branch from {address:#x} to {target:#x} is out of reach")
            field = (1 << width) - 1
            return word & ~(field << low) | (offset & field) << low
    raise ValueError(f"{word:#x} is no branch")


def _adr_offset(word: int) -> int:
    return _signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)


def _with_page(word: int, address: int, page: int) -> int:
    offset = (page - (address & ~0xFFF)) >> 12
    if not -(1 << 20) <= offset < 1 << 20:
        raise ImageError(f"an alternative's ADRP at {address:#x} is out of reach of {page:#x}")
    return word & 0x9F00001F | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5
