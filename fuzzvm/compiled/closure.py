"""What a function of an image reaches: by calls, by jumps to another function, and by addresses of functions.

An address of a function counts as reached where code that is reached holds it, or data whose address that code holds:
struct mm_walk_ops is such data. Over-approximates: it asks neither whether a branch is taken nor what is called through
an address. Calls through an address that was stored at run time, by code that is not reached, are not followed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from fuzzvm.compiled.arch import Alternative, Line
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.records import Bug, JumpSite, Symbol

_INDIRECT = ("blr", "br", "call", "jmp")


@dataclass(frozen=True)
class Closure:
    """The functions that entries reach, in order of address.

    `functions` are those whose code the image has and that are not modelled; `boundary` the others, with the functions
    that call them or hold their address.
    """

    image: Image
    entries: tuple[Symbol, ...]
    functions: tuple[Symbol, ...]
    boundary: dict[Symbol, tuple[Symbol, ...]]

    @cached_property
    def lines(self) -> dict[Symbol, tuple[Line, ...]]:
        """Return the instructions of each function."""
        return {function: instructions(self.image, function) for function in self.functions}

    @cached_property
    def mnemonics(self) -> Counter[str]:
        """Return how often each mnemonic stands in the code."""
        return Counter(line.mnemonic for lines in self.lines.values() for line in lines)

    @property
    def indirect_calls(self) -> int:
        """Return the number of calls and jumps through a register or memory."""
        every = (line for lines in self.lines.values() for line in lines)
        return sum(line.target is None and line.mnemonic in _INDIRECT for line in every)

    def holds(self, address: int) -> bool:
        """Return whether an address lies in the code."""
        place = bisect_right(self._starts, address) - 1
        return place >= 0 and address < self.functions[place].address + self.functions[place].size

    @cached_property
    def _starts(self) -> list[int]:
        return [function.address for function in self.functions]

    @property
    def weak(self) -> tuple[Symbol, ...]:
        """Return the functions that another object of the kernel may replace: what runs there may be other code."""
        return tuple(function for function in self.functions if function.weak)

    @property
    def jump_sites(self) -> tuple[JumpSite, ...]:
        """Return the sites of static keys in the code."""
        return tuple(site for site in self.image.jump_sites if self.holds(site.code))

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """Return the alternatives in the code."""
        return tuple(found for found in self.image.alternatives if self.holds(found.address))

    @property
    def bugs(self) -> tuple[Bug, ...]:
        """Return the BUG() and WARN() in the code."""
        return tuple(bug for address, bug in sorted(self.image.bugs.items()) if self.holds(address))


def instructions(image: Image, function: Symbol) -> tuple[Line, ...]:
    """Return the instructions of a function, without data that stands between them."""
    code = image.read(function.address, function.size)
    return tuple(line for line in image.arch.disassemble(code, function.address) if image.is_code(line.address))


def close(image: Image, entries: Iterable[Symbol], modelled: Iterable[str] = ()) -> Closure:
    """Return what entries reach; functions whose source names are `modelled` are not entered."""
    return _Search(image, frozenset(modelled)).run(tuple(entries))


class _Search:
    def __init__(self, image: Image, modelled: frozenset[str]) -> None:
        self._image = image
        self._modelled = modelled
        self._data = [reference.place for reference in image.data_references]
        self._jumps = [(site.code, site.target) for site in image.jump_sites]
        self._code: dict[int, Symbol] = {}
        self._boundary: dict[Symbol, dict[Symbol, None]] = {}
        self._seen_data: set[int] = set()
        self._bounds = sorted({symbol.address for symbol in image.symbols})

    def run(self, entries: tuple[Symbol, ...]) -> Closure:
        todo = list(entries)
        while todo:
            function = todo.pop()
            if function.address in self._code:
                continue
            self._code[function.address] = function
            for target in self._targets(function):
                if not target.defined or self._image.source_name(target) in self._modelled:
                    self._boundary.setdefault(target, {})[function] = None
                else:
                    todo.append(target)
        functions = tuple(self._code[address] for address in sorted(self._code))
        boundary = {symbol: tuple(self._boundary[symbol]) for symbol in sorted(self._boundary, key=lambda s: s.name)}
        return Closure(self._image, entries, functions, boundary)

    def _targets(self, function: Symbol) -> list[Symbol]:
        """Return the functions that one may go on to."""
        image, found = self._image, []
        end = function.address + function.size
        lines = instructions(image, function)
        for line in lines:
            if line.target is not None and not function.address <= line.target < end:
                target = image.symbol_at(line.target)
                if target is not None and target.kind == "function":
                    found.append(target)
        for address, accessed in sorted(image.arch.addresses(lines, self._jumps)):
            if accessed:
                # a pair of words at most
                found += self._pointed(address, address + 16, function)
            else:
                found += self._held(address, function)
        return found

    def _held(self, address: int, holder: Symbol) -> list[Symbol]:
        """Return the functions that an address leads to: its own, or those whose addresses the data there holds."""
        symbol = self._image.symbol_at(address)
        if symbol is not None and symbol.kind == "function":
            # a label inside a function is a place to jump to
            return [symbol] if symbol.address == address and symbol.address != holder.address else []
        start, end = self._extent(address, symbol)
        if start in self._seen_data:
            return []
        self._seen_data.add(start)
        return self._pointed(start, end, holder)

    def _pointed(self, start: int, end: int, holder: Symbol) -> list[Symbol]:
        """Return the functions that the words of a piece of data lead to."""
        first, last = bisect_left(self._data, start), bisect_left(self._data, end)
        return [
            found
            for reference in self._image.data_references[first:last]
            for found in self._held(reference.target, holder)
        ]

    def _extent(self, address: int, symbol: Symbol | None) -> tuple[int, int]:
        """Return where the data at an address begins and ends; data without a name ends where the next name stands."""
        if symbol is not None:
            return symbol.address, symbol.address + symbol.size
        place = bisect_right(self._bounds, address)
        section = self._image.section_at(address)
        end = section.end if section is not None else address
        return address, min(end, self._bounds[place]) if place < len(self._bounds) else end
