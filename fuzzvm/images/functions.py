"""Calls of any function of an image by its name: what a scenario gives as arguments, as the image's addresses."""

from __future__ import annotations

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.records import Symbol
from fuzzvm.compiled.run.arch import running
from fuzzvm.compiled.run.entries import AskedCall, EntryOf, Word
from fuzzvm.compiled.run.private import ARGUMENTS, base_of
from fuzzvm.compiled.run.task import call
from fuzzvm.images.geometry import PHYS, Geometry
from fuzzvm.scenario.arguments import LEVELS, page_of, symbol_of
from fuzzvm.scenario.arguments import Word as Written
from fuzzvm.scenario.calls import CallFunction

_WORD = 8


class OwnWords:
    """The memory of one CPU that its calls are given words in, one list after the other."""

    def __init__(self, image: Image, cpu: int) -> None:
        self._next = base_of(cpu, running(image.manifest.arch).own_size) + ARGUMENTS

    def place(self, words: tuple[Word, ...]) -> tuple[int, dict[int, tuple[int, Word]]]:
        """Return the address of words, and the cells that they are."""
        start = self._next
        # an access past the last word of one list is none of the first of another
        self._next += (len(words) + 1) * _WORD
        return start, {start + number * _WORD: (_WORD, word) for number, word in enumerate(words)}


def function_call(image: Image, geometry: Geometry, one: CallFunction, own: OwnWords) -> AskedCall:
    """Return a call by name as a call of the image. Raises ImageError for what the image does not have."""
    _check_count(image, image.function(one.function), len(one.arguments))
    words: list[Word] = []
    cells: dict[int, tuple[int, Word]] = {}
    for argument in one.arguments:
        if isinstance(argument, tuple):
            address, placed = own.place(tuple(_word(image, geometry, word) for word in argument))
            words.append(address)
            cells |= placed
        else:
            words.append(_word(image, geometry, argument))
    return call(image, one.function, *words, cells=cells)


def _check_count(image: Image, function: Symbol, given: int) -> None:
    """Raise ImageError where a function does not take so many arguments, each in a register."""
    signature = image.signature(function)
    parameters = signature.parameters
    if signature.variadic or any(parameter.type.size > _WORD for parameter in parameters):
        raise ImageError(f"{signature}: its arguments are passed in a way that is not supported")
    if given != len(parameters):
        raise ImageError(f"{signature} takes {len(parameters)} arguments, not {given}")


def _word(image: Image, geometry: Geometry, written: Written) -> Word:
    symbol = symbol_of(written)
    if symbol is not None:
        return _address(image, symbol)
    page = page_of(written)
    if page is None:
        assert isinstance(written, int)
        return written & (1 << 64) - 1
    kind, number = page
    if kind == "phys":
        return PHYS + (geometry.page(number) << geometry.page_shift)
    if kind == "page":
        return geometry.addr(number)
    height = min(LEVELS.index(kind), image.manifest.levels - 1)
    return EntryOf(geometry.addr(number), height, str(written))


def _address(image: Image, name: str) -> int:
    """Return the address of a symbol, or of a member of a variable: `init_mm.mmap_lock`."""
    if image.symbols_named(name) or "." not in name:
        return image.symbol(name).address
    of, *path = name.split(".")
    symbol, kind = image.variable(of)
    address = symbol.address
    for part in path:
        member = next((one for one in kind.members if one.name == part), None)
        if member is None:
            raise ImageError(f"{kind} has no member {part}")
        address, kind = address + member.offset, member.type
    return address
