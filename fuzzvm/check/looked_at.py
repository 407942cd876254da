"""Which of the functions that a series changes ran in the pairs that were verified.

A function that no schedule ran has not been looked at, whatever the verdicts are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fuzzvm.compiled.closure import instructions
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.object_code import CodeChanges
from fuzzvm.compiled.records import Symbol
from fuzzvm.compiled.run.boundary import BOUNDARY, IGNORED
from fuzzvm.compiled.run.own_memory import OWN_MEMORY
from fuzzvm.kbuild.changed_functions import ChangedFunction

RAN = "ran"
NOT_RUN = "did not run"
SAME_CODE = "same code"
NOT_COMPILED = "not compiled"
NOT_SEEN = (NOT_RUN, NOT_COMPILED)
"""A change of which no verdict says anything."""


@dataclass(frozen=True)
class Pair:
    """A scenario and a memory model, and the addresses that ran in the image before the series and after it."""

    name: str
    before: frozenset[int]
    after: frozenset[int]


@dataclass(frozen=True)
class Look:
    """A function that differs, and whether it ran. `lines` are its changed lines that have code, `lines_ran` of those.

    Where none of its changed lines has code, the function counts as a whole. `pairs` names those in which it ran.
    `why` says what is known of the reason where it did not.
    """

    name: str
    file: str
    state: str
    lines: int = 0
    lines_ran: int = 0
    pairs: tuple[str, ...] = ()
    why: str = ""


def look(
    images: Sequence[Image], bodies: Sequence[ChangedFunction], changes: CodeChanges, pairs: Sequence[Pair]
) -> tuple[Look, ...]:
    """Return what became of each function that differs.

    `images` are those before and after the series, `bodies` what differs in the source that they are compiled from, and
    `changes` what differs in their code. A function of which only the code differs, because of a macro or a type, is
    among them.
    """
    looks = []
    explained: set[str] = set()
    for body in bodies:
        places = [dict(_places(image, body)) for image in images]
        hosts = {symbol.name for found in places for symbol, _ in found.values()}
        explained |= hosts
        if not hosts:
            looks.append(Look(body.name, body.file, NOT_COMPILED, why="no image has it in this configuration"))
        elif not hosts & changes.functions:
            looks.append(Look(body.name, body.file, SAME_CODE))
        else:
            looks.append(_looked(body, places, pairs))
    for name in sorted(changes.functions - explained):
        whole = [{address: (symbol, frozenset[int]()) for symbol in image.symbols_named(name) if symbol.defined
                  for address in _addresses(image, symbol)} for image in images]  # fmt: skip
        symbols = [symbol for image in images for symbol in image.symbols_named(name)]
        source = images[0].source_name(symbols[0]) if symbols else name
        body = ChangedFunction(source, symbols[0].unit if symbols else "", frozenset(), frozenset())
        found = _looked(body, whole, pairs)
        why = f"its source is as before, its code is not; {found.why}" if found.why else ""
        looks.append(replace(found, why=why))
    return tuple(looks)


def _looked(
    body: ChangedFunction, places: Sequence[Mapping[int, tuple[Symbol, frozenset[int]]]], pairs: Sequence[Pair]
) -> Look:
    changed = (body.before, body.after)
    with_code = {
        (side, line) for side in (0, 1) for _, lines in places[side].values() for line in lines & changed[side]
    }
    ran: set[tuple[int, int]] = set()
    where = []
    for pair in pairs:
        mine = {
            (side, line)
            for side, addresses in enumerate((pair.before, pair.after))
            for address in addresses & places[side].keys()
            for line in places[side][address][1] & changed[side] or ({-1} if not with_code else ())
        }
        if mine:
            where.append(pair.name)
        ran |= mine
    entered = any(
        addresses & places[side].keys() for pair in pairs for side, addresses in enumerate((pair.before, pair.after))
    )
    why = "" if where else _reason(body.name, entered=entered)
    state = RAN if where else NOT_RUN
    return Look(body.name, body.file, state, len(with_code), len(ran & with_code), tuple(where), why)


def _reason(name: str, *, entered: bool) -> str:
    if name in BOUNDARY or name in OWN_MEMORY or name in IGNORED:
        return "the model stands for it"
    return "it was entered, and none of its changed lines ran" if entered else "no scenario reaches it"


def _places(image: Image, body: ChangedFunction) -> Iterator[tuple[int, tuple[Symbol, frozenset[int]]]]:
    """Yield the addresses of a function's code, wherever it is inlined, with the function that has it and the lines."""
    inside = {body.name, *image.lines.inlined(body.name)}
    for symbol in image.symbols:
        if symbol.kind == "function" and symbol.defined and image.source_name(symbol) in inside:
            for address in _addresses(image, symbol):
                mine = [f for f in image.frames(address) if f.function == body.name and _same_file(f.file, body.file)]
                if mine:
                    yield address, (symbol, frozenset(frame.line for frame in mine))


def _addresses(image: Image, symbol: Symbol) -> Iterator[int]:
    return (line.address for line in instructions(image, symbol))


def _same_file(found: str, file: str) -> bool:
    """Return whether debug information names a file of the tree; of a source that was moved it has a longer path."""
    return found.removeprefix("./") == file or found.endswith(f"/{file}")
