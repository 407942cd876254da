"""What a memory model did in a step that sequential consistency would not have done: said with the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fuzzvm.machine.ops import Address, Value


@dataclass(frozen=True, slots=True)
class StaleRead:
    """A load read a store that is not the newest one. `newest` is what that one wrote, `writer` its CPU."""

    newest: Value
    writer: int


@dataclass(frozen=True, slots=True)
class StaleFetch:
    """A fetch got an instruction that has been replaced. `newest` is the instruction that is there now."""

    newest: Value


@dataclass(frozen=True, slots=True)
class Buffered:
    """A store, or cache maintenance, was executed and no other CPU sees it yet."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A load read a store of its own CPU that no other CPU sees yet."""


@dataclass(frozen=True, slots=True)
class BecameVisible:
    """What was buffered takes effect: `what` is 'store', 'dc cvau' or 'ic ivau'; `value` is what a store writes."""

    what: str
    address: Address
    value: Value


Remark: TypeAlias = StaleRead | StaleFetch | Buffered | Forwarded | BecameVisible
