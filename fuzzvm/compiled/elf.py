"""Reads a linked ELF file: sections, bytes by address, symbols, relocations. Used when an image is built."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection, RelrRelocationSection
from elftools.elf.sections import SymbolTableSection

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.records import Reference, Section, Symbol
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import opened

MAX_BYTES = 8 << 30
"""Of a kernel with debug information, which has some 500 MB."""

_KINDS = {"STT_FUNC": "function", "STT_OBJECT": "object"}
_MASK = (1 << 64) - 1


class Elf:
    """A linked file, whose bytes can be changed by address; `save` writes them back. Raises ImageError throughout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened(path, MAX_BYTES) as file:
                # pyelftools reads as it is asked, and a kernel is large
                self._stream = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.file = ELFFile(cast(IO[bytes], self._stream))
        except FileError as error:
            raise ImageError(str(error)) from error
        except (ELFError, ValueError) as error:
            raise ImageError(f"{path} is no ELF file ({error})") from error
        if self.file.elfclass != 64 or not self.file.little_endian:
            raise ImageError(f"{path} is not of 64 bits, little-endian")
        self.sections = tuple(self._sections())
        self._bytes = {section.address: self._content(section) for section in self.sections if section.offset >= 0}

    @property
    def machine(self) -> str:
        """Return what ELF calls the architecture."""
        return str(self.file["e_machine"])

    def _sections(self) -> Iterator[Section]:
        for section in self.file.iter_sections():
            flags = section["sh_flags"]
            if flags & SH_FLAGS.SHF_ALLOC and section["sh_size"]:
                offset = -1 if section["sh_type"] == "SHT_NOBITS" else section["sh_offset"]
                yield Section(
                    section.name,
                    section["sh_addr"],
                    section["sh_size"],
                    offset,
                    bool(flags & SH_FLAGS.SHF_WRITE),
                    bool(flags & SH_FLAGS.SHF_EXECINSTR),
                )

    def _content(self, section: Section) -> bytearray:
        content = bytearray(self._stream[section.offset : section.offset + section.size])
        if len(content) != section.size:
            raise ImageError(f"{self.path} ends before {section.name} does")
        return content

    def section_at(self, address: int) -> Section | None:
        """Return the section that holds an address."""
        return next((section for section in self.sections if section.address <= address < section.end), None)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes as linked; those of a section without content are zero."""
        section = self.section_at(address)
        if section is None or address + size > section.end:
            raise ImageError(f"{self.path}: nothing stands at {address:#x}")
        if section.offset < 0:
            return bytes(size)
        start = address - section.address
        return bytes(self._bytes[section.address][start : start + size])

    def write(self, address: int, data: bytes) -> None:
        """Change bytes."""
        section = self.section_at(address)
        if section is None or section.offset < 0 or address + len(data) > section.end:
            raise ImageError(f"{self.path}: nothing that can be changed stands at {address:#x}")
        start = address - section.address
        self._bytes[section.address][start : start + len(data)] = data

    def save(self, path: Path) -> None:
        """Write the changed bytes of all sections into a file that has them at the same offsets."""
        with path.open("r+b") as written:
            for section in self.sections:
                if section.offset >= 0:
                    written.seek(section.offset)
                    written.write(self._bytes[section.address])

    def symbols(self) -> Iterator[tuple[Symbol, str]]:
        """Yield the symbols that stand in a section, with that section's name; an undefined one has the name ""."""
        table = self.file.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise ImageError(f"{self.path} has no symbols")
        # by number: a name costs a look-up each
        names = [section.name for section in self.file.iter_sections()]
        unit = ""
        for symbol in table.iter_symbols():
            kind, binding, index = symbol["st_info"]["type"], symbol["st_info"]["bind"], symbol["st_shndx"]
            if kind == "STT_FILE":
                unit = symbol.name
            elif kind != "STT_SECTION" and symbol.name and not isinstance(index, str | None):
                local = binding == "STB_LOCAL"
                yield (
                    Symbol(
                        symbol.name,
                        symbol["st_value"],
                        symbol["st_size"],
                        _KINDS.get(kind, ""),
                        unit if local else "",
                        local,
                        weak=binding == "STB_WEAK",
                    ),
                    names[index],
                )
            elif symbol.name and index == "SHN_UNDEF":
                yield Symbol(symbol.name, 0, 0, _KINDS.get(kind, ""), defined=False), ""

    def relocations(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield section, place, type, and target (value and addend) of each relocation that the linker left."""
        for table in self.file.iter_sections():
            if not isinstance(table, RelocationSection) or not table.is_RELA():
                continue
            if table["sh_flags"] & SH_FLAGS.SHF_ALLOC or not table["sh_info"]:
                continue
            section = self.file.get_section(table["sh_info"])
            if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC:
                continue
            symbols: Any = self.file.get_section(table["sh_link"])
            values: dict[int, int] = {}
            for place, info, addend in struct.iter_unpack("<QQq", table.data()):
                number = info >> 32
                if number not in values:
                    values[number] = symbols.get_symbol(number)["st_value"]
                yield section.name, place, info & 0xFFFFFFFF, (values[number] + addend) & _MASK

    def apply_dynamic(self, pointer: int, relative: int) -> Iterator[Reference]:
        """Write the addresses that a kernel linked as a shared object writes itself at boot, and yield where they are.

        `pointer` and `relative` are the types of relocations of an address. Others raise ImageError.
        """
        for table in self.file.iter_sections():
            if isinstance(table, RelrRelocationSection):
                # the address stands in its place already, since the kernel is not moved
                for entry in table.iter_relocations():
                    place = entry["r_offset"]
                    yield Reference(place, int.from_bytes(self.read(place, 8), "little"))
            elif isinstance(table, RelocationSection) and table["sh_flags"] & SH_FLAGS.SHF_ALLOC:
                symbols: Any = self.file.get_section(table["sh_link"]) if table["sh_link"] else None
                for entry in table.iter_relocations():
                    kind, value, place = entry["r_info_type"], entry["r_addend"], entry["r_offset"]
                    if kind == pointer and symbols is not None:
                        value += symbols.get_symbol(entry["r_info_sym"])["st_value"]
                    elif kind != relative:
                        raise ImageError(f"{self.path}: dynamic relocation {kind} at {place:#x} is not known")
                    self.write(place, struct.pack("<Q", value & _MASK))
                    yield Reference(place, value & _MASK)

    def string(self, address: int) -> str:
        """Return the text, ended by a zero byte, that stands at an address."""
        section = self.section_at(address)
        if section is None or section.offset < 0:
            raise ImageError(f"{self.path}: no text stands at {address:#x}")
        content = self._bytes[section.address]
        start = address - section.address
        return content[start : content.index(0, start)].decode(errors="replace")
