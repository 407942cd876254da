"""What building and loading a kernel image needs to know of x86_64.

Sources: the x86-64 psABI for the relocations; arch/x86 of Linux 6.12 to 7.3 for alternatives (asm/alternative.h,
kernel/alternative.c), for where the kernel is linked (asm/page_types.h) and for its linker script
(kernel/vmlinux.lds.S).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any

from fuzzvm.compiled.arch import Alternative, Line, ReadMemory
from fuzzvm.compiled.errors import ImageError
from fuzzvm.kbuild.arch import X86_64

_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_NOP = b"\x90"
_FLAG_NOT, _FLAG_DIRECT_CALL = 1, 2
_ENTRY = struct.Struct("<iiHHBB")
"""struct alt_instr: original and replacement, relative to their own place; feature; flags; the two lengths."""
_FEATURE = re.compile(r"^#define\s+X86_FEATURE_(\w+)\s+\(\s*(\d+)\s*\*\s*32\s*\+\s*(\d+)\)", re.M)
_BUG = re.compile(r"^#define\s+X86_BUG_(\w+)\s+X86_BUG\(\s*(\d+)\s*\)", re.M)
_WORDS = re.compile(r"^#define\s+NCAPINTS\s+(\d+)", re.M)
_NUMBER = re.compile(r"-?0x[0-9a-f]+|-?\d+")
_MEMORY = re.compile(r"\[([^]]*)\]")
_DISPLACEMENT = re.compile(r"([+-])? ?(0x[0-9a-f]+|\d+)$")


class X8664:
    """x86_64, for images: see ImageArch."""

    kernel = X86_64
    objects = (
        ("arch/x86/mm/pgtable.o", ()),
        ("arch/x86/mm/dump_pagetables.o", ("CONFIG_PTDUMP", "CONFIG_PTDUMP_CORE")),
        ("arch/x86/mm/debug_pagetables.o", ("CONFIG_PTDUMP_DEBUGFS",)),
        ("arch/x86/mm/pat/set_memory.o", ()),
        # pgd_lock
        ("arch/x86/mm/fault.o", ()),
        ("arch/x86/kernel/jump_label.o", ("CONFIG_JUMP_LABEL",)),
    )
    tables = ("init_top_pgt",)
    elf_machine = "EM_X86_64"
    output_format = "elf64-x86-64"
    # R_X86_64_PLT32
    branch_relocations = frozenset({4})
    # R_X86_64_64
    pointer_relocation = 1
    # R_X86_64_RELATIVE
    relative_relocation = 8
    atomics: Mapping[str, tuple[str, ...]] = MappingProxyType({"lock": ()})
    # every x86_64 CPU has them (CONFIG_X86_REQUIRED_FEATURE_*); NX, and 1 GB blocks, those of the last decade
    always = (
        *("ALWAYS", "CX8", "CMOV", "FXSR", "LM", "MSR", "NOPL", "PAE", "PGE", "PSE", "TSC", "XMM", "XMM2"),
        *("NX", "GBPAGES"),
    )
    callbacks: Mapping[str, Callable[[int], bytes]] = MappingProxyType({})
    feature_header = "arch/x86/include/asm/cpufeatures.h"

    def base(self, config: Mapping[str, str]) -> int:
        """Return __START_KERNEL. Raises ImageError for a kernel that is linked to be moved elsewhere."""
        return _START_KERNEL_MAP + int(config.get("CONFIG_PHYSICAL_START", "0x1000000"), 16)

    def page_size(self, config: Mapping[str, str]) -> str:
        """Return the page size, which is the same in every configuration of 64 bits."""
        if config.get("CONFIG_X86_64") == "y":
            return "4K"
        raise ImageError("the configuration is not one of x86_64")

    def levels(self, config: Mapping[str, str], features: Collection[str]) -> int:
        """Return the levels of page tables: newer kernels have code for 5, and use them where the CPU has LA57."""
        if "LA57" in features:
            raise ImageError("images with 5 levels of page tables are not supported: leave out --feature LA57")
        return 4

    def check_atomics(self, config: Mapping[str, str], atomics: str) -> None:
        """Nothing can be wrong: there is one kind of atomics."""

    def features(self, header: str) -> dict[int, str]:
        """Return the names of features, without X86_FEATURE_, and of bugs, as BUG_NAME, by their number."""
        found = {int(word) * 32 + int(bit): name for name, word, bit in _FEATURE.findall(header)}
        words = _WORDS.search(header)
        if words is not None:
            found |= {int(words[1]) * 32 + int(bit): f"BUG_{name}" for name, bit in _BUG.findall(header)}
        return found

    def alternatives(self, table: bytes, address: int, features: Mapping[int, str]) -> Iterator[Alternative]:
        """Yield the entries of .altinstructions; one for CPUs without a feature has "!" before its name.

        Entries of one place follow each other, and of those that are applied the last counts (apply_alternatives).
        Raises ImageError where they are not those of struct alt_instr.
        """
        if len(table) % _ENTRY.size:
            raise ImageError("the table of alternatives is not one of struct alt_instr")
        found = []
        for place in range(0, len(table), _ENTRY.size):
            original, replacement, number, flags, size, new_size = _ENTRY.unpack_from(table, place)
            if flags & ~(_FLAG_NOT | _FLAG_DIRECT_CALL) or new_size > size:
                raise ImageError(f"alternative {place // _ENTRY.size}: not an entry of struct alt_instr")
            # a feature that has no name is one that nobody can state
            name = features.get(number, f"#{number}")
            here = address + place
            found.append((here + original, here + 4 + replacement, size, new_size, name, flags))
        for _, group in groupby(found, key=lambda one: one[0]):
            entries = list(group)
            longest = max(one[2] for one in entries)
            for site, replacement, _, new_size, name, flags in entries:
                feature = f"!{name}" if flags & _FLAG_NOT else name
                # a direct call is made of what an indirect one calls, which nobody knows before boot
                callback = bool(flags & _FLAG_DIRECT_CALL)
                yield Alternative(site, replacement, longest, feature, callback, new_size=new_size)

    def replacement(self, alternative: Alternative, read: ReadMemory) -> bytes:
        """Return the new code with what is relative adjusted to its new place, and NOPs after it."""
        old, size = alternative.replacement, alternative.new_size
        code = bytearray(read(old, size)) if size else bytearray()
        moved = old - alternative.address
        for instruction in _decoder(detail=True).disasm(bytes(code), old):
            at = instruction.address - old
            for offset, width, target in _relative(instruction):
                if not old <= target <= old + size:
                    field = slice(at + offset, at + offset + width)
                    value = int.from_bytes(code[field], "little", signed=True) + moved
                    try:
                        code[field] = value.to_bytes(width, "little", signed=True)
                    except OverflowError as error:
                        raise ImageError(f"the alternative of {alternative.address:#x} is out of reach") from error
        return bytes(code) + _NOP * (alternative.size - size)

    def disassemble(self, code: bytes, address: int) -> Iterator[Line]:
        """Yield the instructions of a run of code."""
        decoder, place = _decoder(detail=False), 0
        while place < len(code):
            end = place
            for here, size, mnemonic, operands in decoder.disasm_lite(code[place:], address + place):
                links = mnemonic == "call"
                branches = links or mnemonic.startswith(("j", "loop"))
                number = branches and re.fullmatch(r"0x[0-9a-f]+", operands)
                yield Line(here, size, mnemonic, operands, int(operands, 16) if number else None, links)
                end = here + size - address
            if end == place:
                yield Line(address + place, 1, "(bad)", "", None, False)
                end += 1
            place = end

    def addresses(self, lines: Sequence[Line], jumps: Iterable[tuple[int, int]]) -> set[tuple[int, bool]]:
        """Return the addresses of the kernel that instructions hold: compilers add to none to come to another.

        One that LEA makes, that an immediate operand is, or to which an index is added, is handed on.
        """
        found: set[tuple[int, bool]] = set()
        for line in lines:
            memory = _MEMORY.search(line.operands)
            if memory is not None:
                address, plain = _memory_address(memory[1], line.address + line.size)
                if address is not None:
                    found.add((address, plain and line.mnemonic != "lea"))
            if line.target is None:
                for number in _NUMBER.findall(_MEMORY.sub("", line.operands)):
                    value = int(number, 0) & (1 << 64) - 1
                    if value >= _START_KERNEL_MAP:
                        found.add((value, False))
        return found


ARCH = X8664()


def _memory_address(text: str, following: int) -> tuple[int | None, bool]:
    """Return the address of the kernel that a memory operand holds, and whether no register is added to it."""
    number = _DISPLACEMENT.search(text)
    value = 0 if number is None else int(number[2], 0) * (-1 if number[1] == "-" else 1)
    if text.startswith("rip"):
        return following + value & (1 << 64) - 1, True
    value &= (1 << 64) - 1
    return (value if value >= _START_KERNEL_MAP else None), number is not None and number[0] == text


@cache
def _decoder(*, detail: bool) -> Any:
    # imported here: loading an image needs no disassembler
    try:
        import capstone
    except ModuleNotFoundError as error:
        raise ImageError("showing code needs capstone: pip install 'fuzzvm[compiled]'") from error

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = detail
    return decoder


def _relative(instruction: Any) -> Iterator[tuple[int, int, int]]:
    """Yield offset, width and target of what an instruction holds relative to its own end."""
    from capstone.x86 import X86_OP_MEM, X86_REG_RIP

    end = instruction.address + instruction.size
    opcode = instruction.opcode[0]
    jcc = opcode == 0x0F and 0x80 <= instruction.opcode[1] <= 0x8F
    if jcc or 0x70 <= opcode <= 0x7F or opcode in (0xE8, 0xE9, 0xEB):
        yield instruction.imm_offset, instruction.imm_size, instruction.operands[0].imm
    for operand in instruction.operands:
        if operand.type == X86_OP_MEM and operand.mem.base == X86_REG_RIP:
            yield instruction.disp_offset, 4, end + operand.mem.disp
