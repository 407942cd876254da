"""Reads the tables that a kernel has about its own code: static keys, alternatives, bugs, exceptions."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from fuzzvm.compiled.arch import Alternative, ImageArch
from fuzzvm.compiled.elf import Elf
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.records import Bug, ExceptionEntry, JumpSite
from fuzzvm.compiled.types import Types

_JUMP = struct.Struct("<iiq")
"""struct jump_entry: code, target and key, each relative to its own place (HAVE_ARCH_JUMP_LABEL_RELATIVE)."""
_EXCEPTION = struct.Struct("<iii")
"""struct exception_table_entry: instruction and fix-up, relative; and what kind it is."""
_BUGFLAG_WARNING = 1
_MASK = (1 << 64) - 1


def _table(elf: Elf, symbols: Mapping[str, int], start: str, stop: str) -> tuple[int, bytes]:
    """Return where a table stands, and its bytes; none where the image has no such table."""
    first, end = symbols.get(start), symbols.get(stop)
    if first is None or end is None or first >= end:
        return 0, b""
    return first, elf.read(first, end - first)


def alternatives(
    elf: Elf, symbols: Mapping[str, int], arch: ImageArch, features: Mapping[int, str]
) -> Iterator[Alternative]:
    """Yield the alternatives of an image."""
    address, table = _table(elf, symbols, "__alt_instructions", "__alt_instructions_end")
    yield from arch.alternatives(table, address, features)


def jump_sites(elf: Elf, symbols: Mapping[str, int]) -> Iterator[JumpSite]:
    """Yield the sites of static keys (include/linux/jump_label.h)."""
    address, table = _table(elf, symbols, "__start___jump_table", "__stop___jump_table")
    if len(table) % _JUMP.size:
        raise ImageError("__jump_table is not one of struct jump_entry")
    for place in range(0, len(table), _JUMP.size):
        code, target, key = _JUMP.unpack_from(table, place)
        here = address + place
        yield JumpSite(
            (here + code) & _MASK, (here + 4 + target) & _MASK, (here + 8 + (key & ~3)) & _MASK, bool(key & 1)
        )


def bugs(elf: Elf, symbols: Mapping[str, int], types: Types, config: Mapping[str, str]) -> Iterator[Bug]:
    """Yield the entries of __bug_table (struct bug_entry, include/asm-generic/bug.h)."""
    address, table = _table(elf, symbols, "__start___bug_table", "__stop___bug_table")
    if not table:
        return
    size, offsets = _bug_entry(types, config)
    if "bug_addr_disp" not in offsets or len(table) % size:
        raise ImageError("__bug_table is not one of struct bug_entry with relative addresses")

    def relative(place: int) -> int:
        return (address + place + int.from_bytes(table[place : place + 4], "little", signed=True)) & _MASK

    for place in range(0, len(table), size):
        where = relative(place + offsets["bug_addr_disp"])
        section = elf.section_at(where)
        if section is None or not section.executable:
            raise ImageError("__bug_table is not one of struct bug_entry with relative addresses")
        flags = _half(table, place + offsets["flags"])
        file, line = "", 0
        if "file_disp" in offsets:
            file = elf.string(relative(place + offsets["file_disp"]))
            line = _half(table, place + offsets["line"])
        yield Bug(where, file, line, bool(flags & _BUGFLAG_WARNING))


def _half(table: bytes, place: int) -> int:
    return int.from_bytes(table[place : place + 2], "little")


def _bug_entry(types: Types, config: Mapping[str, str]) -> tuple[int, dict[str, int]]:
    """Return size and offsets of struct bug_entry: from the debug information where it has that, else as in 6.12."""
    try:
        entry = types.aggregate("bug_entry")
    except ImageError:
        if config.get("CONFIG_DEBUG_BUGVERBOSE") == "y":
            return 12, {"bug_addr_disp": 0, "file_disp": 4, "line": 8, "flags": 10}
        return 8, {"bug_addr_disp": 0, "flags": 4}
    return entry.size, {member.name: member.offset for member in entry.members}


def exceptions(elf: Elf, symbols: Mapping[str, int]) -> Iterator[ExceptionEntry]:
    """Yield the entries of __ex_table (arch/*/include/asm/extable.h)."""
    address, table = _table(elf, symbols, "__start___ex_table", "__stop___ex_table")
    for place in range(0, len(table) - _EXCEPTION.size + 1, _EXCEPTION.size):
        instruction, fixup, _ = _EXCEPTION.unpack_from(table, place)
        yield ExceptionEntry((address + place + instruction) & _MASK, (address + place + 4 + fixup) & _MASK)
