"""A kernel image: the code and data that `fuzzvm image build` linked, and what its tables and debug information say.

`load` reads the folder's index; types and lines are read when they are first asked for.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any

from fuzzvm.compiled import manifest as manifests
from fuzzvm.compiled.arch import Alternative, ImageArch, architecture
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.lines import Frame, Lines
from fuzzvm.compiled.manifest import Manifest
from fuzzvm.compiled.records import (
    FUNCTIONS,
    OTHERS,
    Bug,
    ExceptionEntry,
    JumpSite,
    Reference,
    Section,
    Symbol,
)
from fuzzvm.compiled.types import Signature, Type, Types
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes, read_text
from fuzzvm.kbuild.config import parse

MAX_BYTES = 1 << 30
"""Of each file of an image; one of a whole kernel has some 100 MB."""

_CLONES = (".constprop.", ".isra.", ".part.", ".cold", ".llvm.")
"""What compilers add to the name of a copy of a function whose parameters or body they changed."""


class Image:
    """A loaded image. Everything in it is as at boot, after alternatives were applied.

    Raises ImageError for every name and address that it does not have.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = manifests.read(folder)
        self.arch: ImageArch = architecture(self.manifest.arch)
        self._content = read_bytes(folder / manifests.IMAGE, MAX_BYTES)
        layout = self._index("layout")
        self.sections = tuple(Section(*fields) for fields in layout["sections"])
        self.symbols = tuple(Symbol(*fields) for fields in layout["symbols"])
        self.jump_sites = tuple(JumpSite(*fields) for fields in layout["jump_sites"])
        self.alternatives = tuple(Alternative(*fields) for fields in layout["alternatives"])
        self.bugs = {bug.address: bug for bug in (Bug(*fields) for fields in layout["bugs"])}
        self.exceptions = {entry.address: entry for entry in (ExceptionEntry(*f) for f in layout["exceptions"])}
        self.unwritten = {a.address: a for a in self.alternatives if a.address in layout["unwritten"]}
        self.features = frozenset(layout.get("features", ()))
        """The numbers of the CPUs' features."""
        self._data_in_text = [(start, end) for start, end in layout["data_in_text"]]
        self._names: dict[str, list[Symbol]] = {}
        for symbol in self.symbols:
            self._names.setdefault(symbol.name, []).append(symbol)
        placed = sorted((s for s in self.symbols if s.kind or s.size or not s.defined), key=_rank)
        self._placed = placed
        self._addresses = [symbol.address for symbol in placed]
        by_address = sorted(self.sections, key=lambda section: section.address)
        self._sections = by_address
        self._starts = [section.address for section in by_address]

    def _index(self, name: str) -> Any:
        path = self.folder / manifests.INDEX / f"{name}.json"
        try:
            return json.loads(read_bytes(path, MAX_BYTES))
        except (FileError, ValueError) as error:
            raise ImageError(f"{path}: {error}: build the image again") from error

    @cached_property
    def types(self) -> Types:
        """Return the types of the image."""
        return Types(self._index("types"))

    @cached_property
    def lines(self) -> Lines:
        """Return the source lines of the image."""
        return Lines(self._index("lines"))

    @cached_property
    def config(self) -> dict[str, str]:
        """Return the kernel's configuration, by option; what is not set has "n" or is not there."""
        return parse(read_text(self.folder / "config", MAX_BYTES))

    @cached_property
    def data_references(self) -> tuple[Reference, ...]:
        """Return the words of data that hold an address, in order."""
        return tuple(Reference(*fields) for fields in self._index("references"))

    # bytes

    def section_at(self, address: int) -> Section | None:
        """Return the section that holds an address."""
        place = bisect_right(self._starts, address) - 1
        section = self._sections[place] if place >= 0 else None
        return section if section is not None and address < section.end else None

    def read(self, address: int, size: int) -> bytes:
        """Return bytes as they are at boot. Those of a name that the image does not define raise ImageError."""
        section = self.section_at(address)
        if section is None or address + size > section.end:
            raise ImageError(f"the image has nothing at {address:#x}")
        if section.name in (FUNCTIONS, OTHERS):
            raise ImageError(f"{self.describe(address)} is not in the image: it has an address and no content")
        if section.offset < 0:
            return bytes(size)
        start = section.offset + address - section.address
        return self._content[start : start + size]

    def read_code(self, address: int) -> int:
        """Return the instruction word at an address. Raises ImageError where no code stands, or none that is final."""
        if address % 4:
            raise ImageError(f"no code stands at {address:#x} ({self.describe(address)})")
        return int.from_bytes(self.code(address, 4), "little")

    def code(self, address: int, size: int) -> bytes:
        """Return so many bytes of code, or fewer where it ends. Raises as `read_code` does."""
        if not self.is_code(address):
            raise ImageError(f"no code stands at {address:#x} ({self.describe(address)})")
        for alternative in self.unwritten.values():
            if alternative.address <= address < alternative.address + alternative.size:
                raise ImageError(
                    f"the code at {self.describe(address)} is written at boot by "
                    f"{self.describe(alternative.replacement)}, which is not known"
                )
        section = self.section_at(address)
        assert section is not None
        return self.read(address, min(size, section.end - address))

    def is_code(self, address: int) -> bool:
        """Return whether an instruction stands at an address, as far as sections and the assembler's marks say."""
        section = self.section_at(address)
        if section is None or not section.executable:
            return False
        place = bisect_right(self._data_in_text, (address, 1 << 64)) - 1
        return place < 0 or address >= self._data_in_text[place][1]

    # names

    def symbols_named(self, name: str) -> tuple[Symbol, ...]:
        """Return all that have a name, static ones too."""
        return tuple(self._names.get(name, ()))

    def symbol(self, name: str, unit: str = "") -> Symbol:
        """Return what has a name; `unit` is the source file, or the end of its path, where several have the name.

        A function may be named as the source does, if the compiler made exactly one copy of it under a name of its own.
        """
        found = [s for s in self._names.get(name, ()) if not unit or s.unit.endswith(unit)]
        if not found:
            found = [s for s in self.symbols if s.name.startswith(name) and self.source_name(s) == name]
            found = [s for s in found if not s.name.endswith(".cold") and (not unit or s.unit.endswith(unit))]
        if not found:
            raise ImageError(f"the image has no {name}{self._instead(name)}")
        if len({symbol.address for symbol in found}) > 1:
            where = ", ".join(symbol.unit or f"{symbol.address:#x}" for symbol in found)
            raise ImageError(f"the image has several {name}: in {where}")
        return found[0]

    def function(self, name: str, unit: str = "") -> Symbol:
        """Return a function by its name, one that the image has the code of."""
        symbol = self.symbol(name, unit)
        if not symbol.defined:
            raise ImageError(f"{name} is not in the image: give its object by --object when it is built")
        if symbol.kind != "function":
            raise ImageError(f"{name} is no function")
        return symbol

    def _instead(self, name: str) -> str:
        callers = self.lines.inlined(name)
        return f": the compiler has inlined it in {', '.join(callers[:4])}" if callers else ""

    def source_name(self, symbol: Symbol) -> str:
        """Return the name that the source has for what the compiler may have renamed."""
        cut = min((symbol.name.find(part) for part in _CLONES if part in symbol.name), default=-1)
        return symbol.name if cut < 0 else symbol.name[:cut]

    def is_clone(self, symbol: Symbol) -> bool:
        """Return whether the compiler made a function with other parameters, or a part of one, under this name."""
        return self.source_name(symbol) != symbol.name

    def signature(self, symbol: Symbol) -> Signature:
        """Return what a function takes and returns. Raises ImageError for a copy whose parameters may have changed."""
        if self.is_clone(symbol):
            raise ImageError(f"{symbol.name} is a copy of a function, whose parameters the compiler may have changed")
        return self.types.function(symbol.name, symbol.unit)

    def variable(self, name: str, unit: str = "") -> tuple[Symbol, Type]:
        """Return a variable and its type."""
        symbol = self.symbol(name, unit)
        return symbol, self.types.variable(name.partition(".")[0], symbol.address)

    def symbol_at(self, address: int) -> Symbol | None:
        """Return the function or variable that an address lies in; of several, one that all units see."""
        place = bisect_right(self._addresses, address) - 1
        section = self.section_at(address)
        if section is not None and section.name == OTHERS:
            # the size is not known of all of them, and each has the room up to the next
            return self._placed[place]
        # a symbol without a size has none inside
        while place >= 0 and address - self._addresses[place] < 1 << 24:
            symbol = self._placed[place]
            if address == symbol.address or address < symbol.address + symbol.size:
                return self._first_at(place)
            if symbol.size:
                break
            place -= 1
        return None

    def _first_at(self, place: int) -> Symbol:
        while place > 0 and self._addresses[place - 1] == self._addresses[place]:
            place -= 1
        return self._placed[place]

    def name_at(self, address: int) -> str:
        """Return an address as a name and an offset: "vmap_range+0x10"."""
        symbol = self.symbol_at(address)
        offset = 0 if symbol is None else address - symbol.address
        return f"{address:#x}" if symbol is None else f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def describe(self, address: int) -> str:
        """Return an address as a name and an offset, with the source line: "vmap_range+0x10 (mm/vmalloc.c:300)"."""
        name = self.name_at(address)
        file, line = self.lines.line(address)
        return f"{name} ({file}:{line})" if file else name

    def frames(self, address: int) -> tuple[Frame, ...]:
        """Return the source lines of an address: its function, and before it what is inlined there, innermost first."""
        frames = self.lines.frames(address)
        symbol = None if frames else self.symbol_at(address)
        if symbol is not None and symbol.kind == "function" and symbol.defined:
            # one of two equal functions, of which the compiler has described the other only
            return (Frame(self.source_name(symbol), *self.lines.line(address), inlined=False),)
        return frames


def _rank(symbol: Symbol) -> tuple[int, bool, bool, str]:
    """Order by address; of several at one, a function or variable that all units see comes first."""
    return symbol.address, not symbol.kind, symbol.local, symbol.name


def load(folder: Path) -> Image:
    """Return the image in a folder that `fuzzvm image build` made. Raises ImageError."""
    return Image(folder)
