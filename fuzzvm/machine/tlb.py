"""What TLBs and walk caches may hold: the hardware's part in the life of a page table.

A CPU may walk the tables at any time, for any address, and keep what it reads; it may drop it again at any time. Nobody
sees either. So nothing is chosen here: kept is, for each CPU, the set of all copies of table entries that it may hold
now. It grows when a valid entry can be reached, and shrinks only where an invalidation is complete. Each copy in the
set is one that some run of the hardware holds, and any two in it can be held at the same time, since each may have
been filled whenever it was there to be read. (docs/decisions/0009 has the argument, and what an invalidation needs.)

What an entry means is told by a `Format`, which copies an operation invalidates and which must not meet by `TlbRules`:
nothing here knows of Linux or of an architecture.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fuzzvm.machine.ops import Address, Barrier, Tlbi


class Entry(NamedTuple):
    """A copy of a table entry, for the addresses from `start` up to `end`, which the entry is looked up by.

    `level` counts from the root. `table` is the table that it leads to, a walk cache's copy; 0 makes it a translation,
    a TLB's copy, to the output address `output` for `start`. `memory_type` and `permissions` are numbers that only
    compare. `contiguous` says that the entry asks to be taken together with its neighbours.
    """

    start: int
    end: int
    level: int
    table: Address
    output: int = 0
    memory_type: int = 0
    permissions: int = 0
    contiguous: bool = False

    def covers(self, address: int) -> bool:
        """Whether the copy serves to translate an address."""
        return self.start <= address < self.end

    def overlaps(self, other: Entry) -> bool:
        """Whether some address may be translated by either."""
        return self.start < other.end and other.start < self.end

    def agrees(self, other: Entry) -> bool:
        """Whether two translations take every address that they share to the same place."""
        return self.output - self.start == other.output - other.start

    def same_attributes(self, other: Entry) -> bool:
        """Whether two translations have the same memory type and permissions."""
        return (self.memory_type, self.permissions) == (other.memory_type, other.permissions)


class Reach(enum.Enum):
    """Which copies of a kind an operation invalidates."""

    NONE = "none"
    COVERING = "those that the address is translated by"
    ALL = "all"


class Scope(NamedTuple):
    """What an operation invalidates of TLBs and of walk caches."""

    translations: Reach
    tables: Reach


@dataclass(frozen=True)
class TlbRules:
    """An architecture's rules.

    `operations` are its invalidations, by the name that `Tlbi` has. With `broadcast` they reach every CPU, and are
    complete where the CPU that issued them has executed a DSB of loads and stores (for itself, an ISB after that).
    Without, they act at once and on their own CPU alone; the others make them when they take the next `InterruptAll`.
    `conflict` says what is wrong with two copies for one address that one CPU holds, '' if nothing.
    """

    operations: Mapping[str, Scope]
    broadcast: bool
    conflict: Callable[[Entry, Entry], str]


def break_before_make(one: Entry, other: Entry) -> str:
    """Return why two copies must not be held together on Arm, '' if they may (Arm ARM D8.17.1, break-before-make).

    Not allowed without an invalid entry and an invalidation between: another size of block, a block for a table or a
    table for a block, another output address, another memory type, another contiguous bit. Other permissions are.
    Entries of one contiguous range must be alike in all, since the copy of any of them may stand for the range.
    """
    if one.table and other.table:
        return ""
    if one.table or other.table:
        table, leaf = (one, other) if one.table else (other, one)
        return "a block and a table" if leaf.level <= table.level else ""
    if one.contiguous or other.contiguous:
        if one.contiguous != other.contiguous:
            return "translations with and without the contiguous bit"
        if not one.agrees(other) or not one.same_attributes(other):
            return "translations of one contiguous range that are not alike"
        return "" if one.level == other.level else "translations of different size"
    if (one.start, one.end) != (other.start, other.end):
        return "translations of different size"
    if not one.agrees(other):
        return "translations to different output addresses"
    return "" if one.memory_type == other.memory_type else "translations of different memory type"


def size_with_another_change(one: Entry, other: Entry) -> str:
    """Return why two copies must not be held together on x86, '' if they may (Intel SDM vol. 3A 4.10.2.3, 4.10.4).

    A TLB may hold both after the page size was changed, and either may be used: software must not change the size and
    the page frame, access rights or other attributes in one write.
    """
    if one.table or other.table or (one.start, one.end) == (other.start, other.end):
        return ""
    if not one.agrees(other):
        return "translations of different size to different page frames"
    return "" if one.same_attributes(other) else "translations of different size and attributes"


class Invalidation(NamedTuple):
    """An invalidation under way: who issued it, what it is, and whether only an ISB of that CPU is missing."""

    cpu: int
    operation: str
    address: int
    synchronised: bool = False


Ending = frozenset[Invalidation]
"""The invalidations any of which ends a copy once it is complete; none: the copy may stay for ever."""

Held = frozenset[tuple[Entry, Ending]]

STAYS: Ending = frozenset()


class TlbState(NamedTuple):
    """What each CPU may hold, and the invalidations that others are still to be told of, by CPU. Immutable."""

    held: tuple[Held, ...]
    queued: tuple[tuple[tuple[str, int], ...], ...]

    def renamed(self, names: Sequence[int]) -> TlbState:
        """Return it after CPU `i` has become CPU `names[i]`."""
        held = [frozenset[tuple[Entry, Ending]]()] * len(names)
        queued: list[tuple[tuple[str, int], ...]] = [()] * len(names)
        for cpu, name in enumerate(names):
            held[name] = frozenset(
                (entry, frozenset(one._replace(cpu=names[one.cpu]) for one in ending))
                for entry, ending in self.held[cpu]
            )
            queued[name] = self.queued[cpu]
        return TlbState(tuple(held), tuple(queued))


class Format(Protocol):
    """What a walker makes of memory."""

    root: Entry
    """Leads to the root table: what the register that holds its address says."""

    def entries(self, pointer: Entry) -> Iterable[Entry]:
        """Return the copies that can be made now of the valid entries of the table that a copy leads to."""


class ConflictError(Exception):
    """Two copies that must not meet may be held by one CPU. `message` says what they are."""

    def __init__(self, cpu: int, held: Entry, filled: Entry, message: str) -> None:
        super().__init__(message)
        self.cpu = cpu
        self.held = held
        self.filled = filled
        self.message = message


class Tlbs:
    """The TLBs and walk caches of all CPUs. `state` is all that there is to them."""

    def __init__(self, cpus: int, form: Format, rules: TlbRules) -> None:
        self._format = form
        self._rules = rules
        self.state = TlbState((frozenset(),) * cpus, ((),) * cpus)

    def leads_to(self, table: Address) -> list[tuple[int, Entry, Ending]]:
        """Return each copy that leads to a table, with the CPU that may hold it."""
        return [
            (cpu, entry, ending)
            for cpu, held in enumerate(self.state.held)
            for entry, ending in sorted(held, key=lambda one: one[0])
            if entry.table == table
        ]

    def translations(self, entry: Entry) -> list[tuple[int, Entry]]:
        """Return each translation that overlaps an entry, with the CPU that may hold it."""
        return [
            (cpu, one)
            for cpu, held in enumerate(self.state.held)
            for one, _ in sorted(held, key=lambda item: item[0])
            if not one.table and one.overlaps(entry)
        ]

    # What happens

    def fill(self) -> None:
        """Take in what can be read now. To be called after every change of a table. Raises ConflictError."""
        filled: dict[Held, Held] = {}
        for cpu, held in enumerate(self.state.held):
            if held not in filled:
                filled[held] = self._filled(cpu, held)
        self._set_all([filled[held] for held in self.state.held])

    def invalidate(self, cpu: int, op: Tlbi) -> None:
        """Execute an invalidation. Raises ConflictError, KeyError for an operation that the rules do not have."""
        scope = self._rules.operations[op.operation]
        if self._rules.broadcast:
            one = Invalidation(cpu, op.operation, op.virtual_address)
            self._set_all([self._ending(held, one) for held in self.state.held])
        else:
            queued = list(self.state.queued)
            queued[cpu] = (*queued[cpu], (op.operation, op.virtual_address))
            self.state = self.state._replace(queued=tuple(queued))
            self._set(cpu, self._without(self.state.held[cpu], scope, op.virtual_address))
        self.fill()

    def barrier(self, cpu: int, kind: Barrier) -> None:
        """Execute a barrier: it may complete invalidations that its CPU has issued."""
        if kind is Barrier.DSB_ISH:
            # Arm ARM B2.3.12: complete for every other CPU; for this one as of the next context synchronisation
            self._set_all(
                [
                    _synchronised(held, cpu) if other == cpu else _completed(held, cpu)
                    for other, held in enumerate(self.state.held)
                ]
            )
        elif kind is Barrier.ISB:
            self._context_synchronisation(cpu)

    def interrupt_all(self, cpu: int) -> None:
        """Let every other CPU take an interrupt, and make the invalidations that it was sent for."""
        if self._rules.broadcast:
            for other in range(len(self.state.held)):
                if other != cpu:
                    self._context_synchronisation(other)
            return
        for operation, address in self.state.queued[cpu]:
            scope = self._rules.operations[operation]
            self._set_all([self._without(held, scope, address) for held in self.state.held])
        queued = list(self.state.queued)
        queued[cpu] = ()
        self.state = self.state._replace(queued=tuple(queued))
        self.fill()

    # Inner parts

    def _set(self, cpu: int, held: Held) -> None:
        self._set_all([held if other == cpu else one for other, one in enumerate(self.state.held)])

    def _set_all(self, held: Sequence[Held]) -> None:
        self.state = self.state._replace(held=tuple(held))

    def _context_synchronisation(self, cpu: int) -> None:
        held = self.state.held[cpu]
        self._set(cpu, frozenset((entry, end) for entry, end in held if not any(one.synchronised for one in end)))

    def _ending(self, held: Held, one: Invalidation) -> Held:
        return frozenset((entry, ending | {one} if self._ends(one, entry) else ending) for entry, ending in held)

    def _ends(self, one: Invalidation, entry: Entry) -> bool:
        return _in_scope(self._rules.operations[one.operation], one.address, entry)

    def _without(self, held: Held, scope: Scope, address: int) -> Held:
        return frozenset((entry, ending) for entry, ending in held if not _in_scope(scope, address, entry))

    def _filled(self, cpu: int, held: Held) -> Held:
        """Return what a CPU may hold after any number of walks, from the root and from every copy that it may hold."""
        known = dict(held)
        todo: list[tuple[Entry, Ending]] = [(self._format.root, STAYS)]
        todo += [(entry, ending) for entry, ending in held if entry.table]
        changed = False
        while todo:
            pointer, ending = todo.pop()
            for entry in self._format.entries(pointer):
                # a walk that is under way with an old copy is ended by what ends the copy, if that names its address
                ends = frozenset(one for one in ending if self._ends(one, entry)) if ending else STAYS
                before = known.get(entry)
                if before is None:
                    self._check(cpu, known, entry)
                elif before <= ends:
                    continue
                else:
                    # both are of the last invalidations that name the address, so one of them holds the other
                    ends &= before
                known[entry] = ends
                changed = True
                if entry.table:
                    todo.append((entry, ends))
        return frozenset(known.items()) if changed else held

    def _check(self, cpu: int, known: Mapping[Entry, Ending], entry: Entry) -> None:
        for other in sorted(known):
            if other.overlaps(entry) and (message := self._rules.conflict(other, entry)):
                raise ConflictError(cpu, other, entry, message)


def _in_scope(scope: Scope, address: int, entry: Entry) -> bool:
    reach = scope.tables if entry.table else scope.translations
    return reach is Reach.ALL or (reach is Reach.COVERING and entry.covers(address))


def _completed(held: Held, cpu: int) -> Held:
    return frozenset((entry, ending) for entry, ending in held if not any(one.cpu == cpu for one in ending))


def _synchronised(held: Held, cpu: int) -> Held:
    return frozenset(
        (entry, frozenset(one._replace(synchronised=True) if one.cpu == cpu else one for one in ending))
        for entry, ending in held
    )
