"""Where the image's addresses are in the machine's memory.

The machine's memory is objects of locations. A location here is the byte at which an access starts (see `units`), so
that an object has as many as bytes. Objects are:

- each writable section of the image, in pieces of 64 KiB, and each page table that the image has room for
- pages of the linear map: the object of number n is page n, so that its address never comes again
- all `struct page` together

A location holds the difference to what is there at boot, by exclusive or, so that 0 is what nobody has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fuzzvm.compiled.errors import WILD_ACCESS, ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.records import FUNCTIONS, OTHERS
from fuzzvm.compiled.run.arch import Layout, running
from fuzzvm.compiled.run.private import BASE
from fuzzvm.compiled.run.units import Unit, Units
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import OFFSET_BITS, Address, address_of, object_of, offset_of
from fuzzvm.machine.program import Constant

PIECE = 1 << OFFSET_BITS
STRUCT_PAGE_SHIFT = 6
"""struct page has 64 bytes (STRUCT_PAGE_MAX_SHIFT)."""
_MOST_CPUS = 64
_TABLES = (".altinstructions", "__bug_table", "__ex_table", "__jump_table")
"""Writable sections of an image that the code does not look at."""


class _Range(NamedTuple):
    start: int
    end: int
    first: Address


class MemoryMap(Constant):
    """The map of one image and one booted machine. `boot` are bytes that are not those of the image, by address."""

    def __init__(self, image: Image, layout: Layout, machine: Machine, boot: Mapping[int, bytes], units: Units) -> None:
        self.image = image
        self.arch = running(image.manifest.arch)
        self.layout = layout
        self._boot = dict(boot)
        self._units = units
        self._initial: dict[Unit, int] = {}
        self._ranges: list[_Range] = []
        tables = {name: image.symbol(name) for name in image.arch.tables if image.symbols_named(name)}
        for symbol in tables.values():
            self._add(machine, symbol.address, symbol.address + (1 << layout.page_shift), symbol.name)
        self._tables = frozenset(object_of(one.first) for one in self._ranges)
        for section in image.sections:
            if section.executable or not section.writable or section.name in (*_TABLES, FUNCTIONS, OTHERS):
                continue
            for start in range(section.address, section.end, PIECE):
                self._add(machine, start, min(start + PIECE, section.end), section.name)
        self._struct_pages = machine.allocate(PIECE, "struct pages")
        self._sites: dict[int, Address] = {}
        for site in image.jump_sites:
            self._sites[site.code] = machine.allocate(1, f"site in {image.name_at(site.code)}")
            machine.memory.hold_code(self._sites[site.code])
        self.boot_objects = len(machine.allocator.allocations)
        """Number of objects that are there before any page is allocated."""

    def may_be_entry(self, address: Address) -> bool:
        """Return whether a location is one of a page, or of a table that the image has room for."""
        number = object_of(address)
        return number >= self.boot_objects or number in self._tables

    def _add(self, machine: Machine, start: int, end: int, name: str) -> None:
        self._ranges.append(_Range(start, end, machine.allocate(end - start, name)))

    def location(self, va: int, size: int) -> Unit | None:
        """Return the location of an access, None where it reads what cannot be written.

        Raises ModelError wild-access where nothing is, ImageError for what the image does not define, MixedSizeError
        and OutdatedProgramError.
        """
        address = self._address(va, size)
        return None if address is None else self._units.find(address, size)

    def _address(self, va: int, size: int) -> Address | None:
        layout = self.layout
        number = va - layout.page_offset >> layout.page_shift
        if 0 <= number < PIECE >> STRUCT_PAGE_SHIFT:
            return address_of(number, va & (1 << layout.page_shift) - 1)
        offset = va - layout.vmemmap
        if 0 <= offset <= PIECE - size:
            return self._struct_pages + offset
        for start, end, first in self._ranges:
            if start <= va <= end - size:
                return first + va - start
        if any(start <= va < start + len(content) for start, content in self._boot.items()):
            # of those that the image does not define; the others are in a range
            return None
        if BASE <= va < BASE + _MOST_CPUS * self.arch.own_size:
            raise ImageError(f"{va:#x} is accessed, which is of a CPU's own memory and another's here")
        section = self.image.section_at(va)
        if section is None:
            where = self.arch.not_followed(self.image, va)
            if where:
                raise ImageError(f"access to {va:#x}, in {where}, which is not followed")
            raise ModelError(WILD_ACCESS, f"access to {va:#x}, where nothing is")
        if section.name in (FUNCTIONS, OTHERS) and va not in self._boot:
            raise ImageError(f"{self.image.describe(va)} is accessed, and the image does not define it")
        return None

    def va(self, address: Address) -> int:
        """Return the kernel's address of a location."""
        number, offset = object_of(address), offset_of(address)
        for start, _, first in self._ranges:
            if object_of(first) == number:
                return start + offset
        if number == object_of(self._struct_pages):
            return self.layout.vmemmap + offset
        return self.layout.page(number) + offset

    def constant(self, va: int, size: int) -> int:
        """Return what stands at an address at boot."""
        return int.from_bytes(self._bytes(va, size), "little")

    def _bytes(self, va: int, size: int) -> bytes:
        for start, content in self._boot.items():
            if start <= va and va + size <= start + len(content):
                return content[va - start : va - start + size]
            if start < va + size and va < start + len(content):
                raise ImageError(f"{self.image.name_at(va)} is set at boot in other pieces than it is read")
        return self.image.read(va, size)

    def initial(self, unit: Unit) -> int:
        """Return what a location holds at boot."""
        found = self._initial.get(unit)
        if found is None:
            number = object_of(unit.address)
            inside = any(object_of(one.first) == number for one in self._ranges)
            found = self._initial[unit] = self.constant(self.va(unit.address), unit.size) if inside else 0
        return found

    def unit_of(self, address: Address) -> Unit:
        """Return the location that an operation has accessed at an address."""
        return self._units.known(address)

    def site(self, code: int) -> Address:
        """Return the location of the instruction at the site of a static key: 0 as at boot, 1 if it is patched."""
        return self._sites[code]

    def phys(self, number: int) -> int:
        """Return the physical address of a page of the linear map."""
        return self.layout.phys + (number << self.layout.page_shift)

    def object_at(self, phys: int) -> Address | None:
        """Return the page of the linear map at a physical address, None where that is no page of it."""
        number = phys - self.layout.phys >> self.layout.page_shift
        return address_of(number) if 0 <= number < PIECE >> STRUCT_PAGE_SHIFT else None
