"""What differs between the code of two builds of the same objects: functions and data whose own content differs.

Objects are compared before they are linked: there a function does not change because another one grew. A relocation is
compared by what it names. Line numbers of BUG() and WARN(), and what is for exports and for the linker alone, are left
out. What cannot be told apart counts as different.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from fuzzvm.compiled.arch import ImageArch
from fuzzvm.compiled.errors import ImageError
from fuzzvm.files.reading import read_bytes

MAX_BYTES = 256 << 20
_ALTERNATIVES = ".altinstructions"
"""Its entries end in the length of the code that is put there."""
TABLES = {_ALTERNATIVES: 2, "__ex_table": 2, "__jump_table": 3}
"""Sections that say how code is patched, or where it goes on after a fault, and the relocations of an entry of each."""
_BUGS, _BUG_WORDS = "__bug_table", 3
"""What BUG() and WARN() are listed in, and how many words of an entry may be relocated."""
_KINDS = {"STT_FUNC": "function", "STT_OBJECT": "object"}
_MAINTENANCE = ("tlbi", "dsb", "isb", "invlpg", "invpcid")
_MAINTAINS = re.compile(r"^(tlbi|invlpg|invpcid) |flush_tlb|invlpg")
_NUMBERED = re.compile(r"\.\d+$")
_FOR_THE_LINKER = ("__UNIQUE_ID_", "__already_done", "__func__", "__ksym")
_ANONYMOUS = 16
"""Bytes of data without a name that are compared from where code refers to it, unless it is text."""


@dataclass(frozen=True)
class CodeChanges:
    """Names of functions, and of variables and other data, whose content differs; as the object files have them.

    `flushes` are those of the functions whose maintenance of TLBs differs, or the order of it and of what they free.
    """

    functions: frozenset[str]
    data: frozenset[str]
    flushes: frozenset[str] = frozenset()


def code_changes(base: Path, head: Path, objects: Iterable[str], arch: ImageArch) -> CodeChanges:
    """Return what differs between the objects of two folders that make has built in. Raises ImageError, FileError.

    All of an object that only one of them has is different.
    """
    functions: set[str] = set()
    data: set[str] = set()
    flushes: set[str] = set()
    for name in objects:
        paths = [folder / name for folder in (base, head)]
        contents = [read_bytes(path, MAX_BYTES) if path.is_file() else b"" for path in paths]
        if contents[0] == contents[1]:
            continue
        before, after = (_Object(content, name, arch) for content in contents)
        for kind, found in (("function", functions), ("object", data)):
            old, new = before.digests(kind), after.digests(kind)
            found |= {one for one in old.keys() | new.keys() if old.get(one) != new.get(one)}
        functions |= _patched_otherwise(before, after)
        flushes |= {one for one in functions if before.maintenance(one) != after.maintenance(one)}
    return CodeChanges(frozenset(functions), frozenset(data), frozenset(flushes))


def _patched_otherwise(before: _Object, after: _Object) -> set[str]:
    """Return the functions that tables name in entries that only one of two objects has."""
    old, new = before.entries(), after.entries()
    names = {name for entry in (old - new) + (new - old) for name in entry[1]}
    return names & (before.digests("function").keys() | after.digests("function").keys())


@dataclass(frozen=True)
class _Named:
    name: str
    section: int
    start: int
    end: int
    kind: str


class _Object:
    """One object file."""

    def __init__(self, content: bytes, name: str, arch: ImageArch) -> None:
        self._name = name
        self._arch = arch
        self._sections: list[Any] = []
        self._symbols: list[Any] = []
        try:
            if content:
                file = ELFFile(BytesIO(content))
                self._sections += file.iter_sections()
                symbols: Any = file.get_section_by_name(".symtab")
                self._symbols += symbols.iter_symbols()
        except (ELFError, AttributeError) as error:
            raise ImageError(f"{name} is no object file ({error})") from error
        self._contents: dict[int, bytes] = {}
        self._relocations: dict[int, list[tuple[int, int, str]]] = {}
        self._by_place: dict[int, dict[int, Any]] = {}
        places = sorted(self._names(), key=lambda one: (one.section, one.start))
        self._named = places
        self._starts = [(one.section, one.start) for one in places]

    def _names(self) -> Iterator[_Named]:
        for symbol in self._symbols:
            kind, index = _KINDS.get(symbol["st_info"]["type"], ""), symbol["st_shndx"]
            if kind and isinstance(index, int) and symbol["st_size"]:
                start = symbol["st_value"]
                yield _Named(symbol.name, index, start, start + symbol["st_size"], kind)

    def _content(self, section: int) -> bytes:
        if section not in self._contents:
            one = self._sections[section]
            self._contents[section] = bytes(one["sh_size"]) if one["sh_type"] == "SHT_NOBITS" else one.data()
        return self._contents[section]

    @cached_property
    def _tables(self) -> dict[int, list[RelocationSection]]:
        """The tables of relocations, by the section that each is for."""
        found: dict[int, list[RelocationSection]] = {}
        for table in self._sections:
            if not isinstance(table, RelocationSection) or not table.is_RELA():
                continue
            if self._sections[table["sh_info"]]["sh_flags"] & SH_FLAGS.SHF_ALLOC:
                found.setdefault(table["sh_info"], []).append(table)
        return found

    def _relocated(self, section: int) -> list[tuple[int, int, str]]:
        """Return place, type and what is named, in order of place, of the relocations of a section."""
        if section not in self._relocations:
            self._relocations[section] = sorted(
                (
                    one["r_offset"],
                    one["r_info_type"],
                    self._described(self._symbols[one["r_info_sym"]], one["r_addend"]),
                )
                for table in self._tables.get(section, ())
                for one in table.iter_relocations()
            )
        return self._relocations[section]

    def _described(self, symbol: Any, addend: int, length: int = _ANONYMOUS) -> str:
        index = symbol["st_shndx"]
        if not isinstance(index, int):
            return f"{symbol.name}+{addend}"
        return self._at(index, symbol["st_value"] + addend, length)

    def _at(self, section: int, offset: int, length: int = _ANONYMOUS) -> str:
        """Return a place by the name of what is there, else by its content, as far as that length."""
        number = bisect_right(self._starts, (section, offset)) - 1
        one = self._named[number] if number >= 0 else None
        if one is not None and one.section == section and offset < one.end:
            return f"{_plain(one.name)}+{offset - one.start}"
        place, content = self._sections[section], self._content(section)
        if place["sh_flags"] & SH_FLAGS.SHF_STRINGS and 0 <= offset < len(content):
            return f"text {content[offset : content.find(0, offset)]!r}"
        if place.name == _BUGS:
            return self._bug(section, offset)
        return f"{place.name} {content[max(offset, 0) : max(offset, 0) + length]!r}"

    def _bug(self, section: int, offset: int) -> str:
        """Return an entry of the table of bugs that code refers to, by all but its line.

        It has relocations for where it is, on some architectures for its format, and for its file, then line and flags.
        """
        first = next((place for place, _, _ in self._relocated(section) if place >= offset), offset)
        mine = [(place, what) for place, _, what in self._relocated(section) if first <= place < first + _BUG_WORDS * 4]
        flags = first + len(mine) * 4 + 2
        return f"{_BUGS} {[what for _, what in mine]} {self._content(section)[flags : flags + 2]!r}"

    def _replacement(self, section: int, place: int, length: int) -> str:
        """Return the code that an alternative has instead, which that place names; what lies behind it is another's."""
        if section not in self._by_place:
            every = (one for table in self._tables[section] for one in table.iter_relocations())
            self._by_place[section] = {one["r_offset"]: one for one in every}
        one = self._by_place[section][place]
        return self._described(self._symbols[one["r_info_sym"]], one["r_addend"], length)

    def _between(self, one: _Named) -> list[tuple[int, int, str]]:
        every = self._relocated(one.section)
        first, last = bisect_right(every, (one.start, -1, "")), bisect_right(every, (one.end, -1, ""))
        return [(place - one.start, kind, what) for place, kind, what in every[first:last]]

    def digests(self, kind: str) -> dict[str, Counter[tuple[object, ...]]]:
        """Return what is in each function, or in each piece of data, by name; several may have one name."""
        found: dict[str, Counter[tuple[object, ...]]] = {}
        for one in self._named:
            if one.kind != kind or one.name.startswith(_FOR_THE_LINKER):
                continue
            bytes_ = self._content(one.section)[one.start : one.end]
            relocations = tuple(self._between(one))
            content: object = bytes_
            if kind == "function":
                content = tuple(self._instructions(one, bytes_, {place for place, _, _ in relocations}))
            name = _plain(one.name) if kind == "object" else one.name
            found.setdefault(name, Counter())[content, relocations] += 1
        return found

    def _instructions(self, one: _Named, code: bytes, relocated: set[int]) -> Iterator[tuple[object, ...]]:
        """Yield the instructions of a function; a branch to somewhere else by what is there, as a relocation is."""
        for line in self._arch.disassemble(code, one.start):
            offset = line.address - one.start
            target = line.target
            if target is None or any(place in relocated for place in range(offset, offset + line.size)):
                yield (code[offset : offset + line.size],)
            else:
                inside = one.start <= target < one.end
                registers = line.operands.rpartition(",")[0]
                where = target - one.start if inside else self._at(one.section, target)
                # of conditions under one mnemonic the name does not tell which
                yield line.mnemonic, registers, where, code[offset : offset + line.size] if inside else b""

    def maintenance(self, function: str) -> tuple[tuple[str, ...], ...]:
        """Return, of each function of that name that maintains TLBs, its maintenance, barriers and frees in order."""
        found = []
        for one in self._named:
            if one.kind != "function" or one.name != function:
                continue
            named = {place: what.partition("+")[0] for place, _, what in self._between(one)}
            events = []
            for line in self._arch.disassemble(self._content(one.section)[one.start : one.end], one.start):
                offset = line.address - one.start
                calls = {named[place] for place in range(offset, offset + line.size) if place in named}
                if line.target is not None and not one.start <= line.target < one.end:
                    calls.add(self._at(one.section, line.target).partition("+")[0])
                if line.mnemonic in _MAINTENANCE:
                    events.append(f"{line.mnemonic} {line.operands}".partition(",")[0])
                events += sorted(name for name in calls if _MAINTAINS.search(name) or "free" in name)
            if any(_MAINTAINS.search(event) for event in events):
                found.append(tuple(events))
        return tuple(found)

    def entries(self) -> Counter[tuple[object, tuple[str, ...]]]:
        """Return the entries of tables about functions, and the names in each."""
        found: Counter[tuple[object, tuple[str, ...]]] = Counter()
        for number, section in enumerate(self._sections):
            length = TABLES.get(section.name, 0)
            every = self._relocated(number) if length else []
            ends = [place for place, _, _ in every[length::length]] if length else []
            for first, end in zip(range(0, len(every), length or 1), [*ends, section["sh_size"]], strict=False):
                if length:
                    entry = every[first : first + length]
                    content = self._content(number)[entry[0][0] : end]
                    named = tuple(what for _, _, what in entry)
                    if section.name == _ALTERNATIVES:
                        named = (named[0], self._replacement(number, entry[1][0], content[-1]))
                    found[(section.name, named, content), tuple(what.partition("+")[0] for what in named)] += 1
        return found


def _plain(name: str) -> str:
    """Return a name without the number that a compiler tells equal names of one file apart by."""
    return _NUMBERED.sub("", name)
