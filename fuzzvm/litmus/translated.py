"""Accesses by virtual address: each reads the entry of its page first, and faults where that forbids it.

A location is a page of its own, and the entry of `x` is the location `PTE(x)`, as in herd7. Accesses to an entry are
by physical address. What a walk may read, and what it orders, is `memory.arm64.translation`'s; what an entry forbids
is said here (Arm ARM D8.4 to D8.6; herd7's `check_ptw`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzzvm.litmus import entries
from fuzzvm.litmus.access import Accesses, Address, Step, WriteBack
from fuzzvm.litmus.encoding import MASK32, MASK64, Encoding
from fuzzvm.litmus.faults import ACCESS_FLAG, PERMISSION, TRANSLATION
from fuzzvm.litmus.interest import FUTURE
from fuzzvm.litmus.operands import read, register, unsupported
from fuzzvm.litmus.program import Instruction, LitmusError, Name, Operand, Test, entry_name, page_name
from fuzzvm.litmus.state import Fault, Position, Register, ThreadRun
from fuzzvm.machine.memory.arm64.timeline import INVALIDATE
from fuzzvm.machine.memory.arm64.translation import NO_LIMIT, TranslatedViews, Walk

_ALL = ("ALLE1", "VMALLE1")
_PAGE = ("VAE1", "VAAE1", "VALE1", "VAALE1")
_PAGE_SHIFT = 12
_ADDRESS = (1 << 56) - 1
Taken = Callable[[ThreadRun], None]
"""Sets a run on from a fault at its position: to the handler, or to the thread's end."""


class TranslatedAccesses(Accesses):
    """Builds the steps of instructions that access memory by virtual address."""

    def __init__(
        self, test: Test, values: Encoding, is_read_after: Callable[[Position, int], bool], taken: Taken
    ) -> None:
        super().__init__(values, is_read_after)
        assert test.translation is not None
        self._translation = test.translation
        self._taken = taken
        self._invalidates = {
            cpu
            for cpu, thread in enumerate(test.threads)
            if any(instruction.mnemonic == "TLBI" for instruction in thread.code)
        }
        self._virtual: Address | None = None

    def _address(self, operands: tuple[Operand, ...], instruction: Instruction) -> tuple[Address, WriteBack | None]:
        self._virtual, write_back = super()._address(operands, instruction)
        return _physical, write_back

    def _base(self, operand: Operand, instruction: Instruction) -> Address:
        self._virtual = super()._base(operand, instruction)
        return _physical

    def step(self, instruction: Instruction, position: Position) -> Step | None:
        """Return the step of an instruction, or None if it is not one of these."""
        self._virtual = None
        access = super().step(instruction, position)
        virtual = self._virtual
        if access is None or virtual is None:
            return access
        writes = not instruction.mnemonic.startswith(("LDR", "LDA"))
        if instruction.mnemonic[:2] == "LD" and instruction.mnemonic[2:5] in ("ADD", "CLR", "EOR", "SET"):
            writes = True

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = virtual(run)
            name = self._values.name_at(where)
            if self._values.code_index(where) is not None:
                raise LitmusError(f"{instruction} accesses code, which page tables leave out here", instruction.line)
            if name is None or page_name(name) is not None:
                _views(run).physical = where, view, pick
                return access(run)
            if instruction.mnemonic.startswith(("LDX", "LDAX", "STX", "STLX", "CAS")):
                raise LitmusError(f"{instruction} is supported for page-table entries only", instruction.line)
            ways: list[ThreadRun] = []
            for way, walk, value in self._walks(run, name, view, instruction):
                kind = self._forbids(value, run.cpu, writes=writes)
                if kind:
                    ways.extend(self._fault(way, walk, Fault(position[1], name, kind), pick, instruction))
                else:
                    for going in self._begin(way, walk, value, (where, view, pick), writes=writes, by=instruction):
                        ways.extend(_within(walk.limit, going, access(going)))
            if position[0] in self._invalidates:
                for going in self._later(run, name, (where, view, pick), writes=writes, by=instruction):
                    ways.extend(_within(NO_LIMIT, going, access(going)))
            return ways

        return step

    def _later(
        self, run: ThreadRun, name: str, virtual: Register, *, writes: bool, by: Instruction
    ) -> Iterator[ThreadRun]:
        """Yield the way to begin an access that faults by all messages so far, and will not by one yet to come.

        Everything that follows is ordered behind such a walk but a TLBI, which may come before that message: this run
        shows nothing else (see `interest` for `FUTURE`).
        """
        entry = self._values.location(entry_name(name))
        value = run.timeline.latest(entry)
        assert isinstance(value, int)
        if self._forbids(value, run.cpu, writes=writes):
            walk = Walk(0, FUTURE, NO_LIMIT, NO_LIMIT)
            yield from self._begin(run.copy(), walk, self._values.default_entry(name), virtual, writes=writes, by=by)

    def _walks(
        self, run: ThreadRun, name: str, dependency: int, instruction: Instruction
    ) -> Iterator[tuple[ThreadRun, Walk, int]]:
        """Yield each way to read the entry of a location: a run that goes its own way, the walk, and the entry."""
        entry = self._values.location(entry_name(name))
        self.loads.add((run.cpu, entry))
        for walk in _views(run).walks(run.timeline, entry, dependency):
            value = run.timeline.value(entry, walk.source)
            assert isinstance(value, int)
            if not entries.is_entry(value):
                shown = self._values.show(value)
                raise LitmusError(f"{instruction} finds {shown} for the page-table entry of {name}", instruction.line)
            yield run.copy(), walk, value

    def _forbids(self, value: int, cpu: int, *, writes: bool) -> str:
        """Return the kind of the fault that an access takes where its entry is `value`, '' for none."""
        if not value & entries.VALID:
            return TRANSLATION
        if not value & entries.ACCESSED and cpu not in self._translation.access:
            return ACCESS_FLAG
        managed = value & entries.MANAGED and cpu in self._translation.dirty
        return PERMISSION if writes and value & entries.READ_ONLY and not managed else ""

    def _hardware(self, value: int, cpu: int, *, writes: bool) -> int:
        """Return what the hardware makes of an entry: with HA accessed, with HD and for a store dirty as well."""
        if cpu in self._translation.access:
            value |= entries.ACCESSED
        return value & ~entries.READ_ONLY if writes and cpu in self._translation.dirty else value

    def _fault(
        self, way: ThreadRun, walk: Walk, fault: Fault, pick: int, instruction: Instruction
    ) -> Iterator[ThreadRun]:
        views = _views(way)
        found: Walk | None = walk
        uncacheable = fault.kind != PERMISSION
        if self._translation.ets > (2 - uncacheable):
            found = views.deferred(way.timeline, self._values.location(entry_name(fault.location)), walk)
        if found is None or (uncacheable and found.place >= found.overwritten):  # TLBuncacheable-ca
            return
        if not views.faulted(found, pick):
            return
        if way.position[0] < 0:
            raise LitmusError(f"{instruction} faults in a fault handler, which is not supported", instruction.line)
        way.faults |= {fault}
        self._taken(way)
        yield way

    def _begin(
        self, way: ThreadRun, walk: Walk, value: int, virtual: Register, *, writes: bool, by: Instruction
    ) -> Iterator[ThreadRun]:
        """Yield each way to begin an access by virtual address whose walk has read `value`."""
        page = self._values.page(value)
        if page is None:
            raise LitmusError(f"{by} goes by {self._values.show(value)}, which has no page", by.line)
        where, view, pick = virtual
        name = self._values.name_at(where)
        assert name is not None
        entry = self._values.location(entry_name(name))
        updated = self._hardware(value, way.cpu, writes=writes)
        views = _views(way)
        floor = views.update_floor(walk, pick)
        if not views.begin(entry, walk):
            return
        views.physical = page | where & MASK32, view, pick
        if updated == value:
            yield way
            return
        for going, at in way.store_ways(entry, updated, floor, walk.source):
            _views(going).updated(entry, at, view, pick)
            yield going

    def maintain(self, instruction: Instruction, position: Position, name: str) -> Step:
        """Refuse DC and IC: code is not translated here."""
        raise unsupported(instruction)

    def invalidate(self, instruction: Instruction, position: Position) -> Step:
        """Return the step of a TLBI."""
        kind, *rest = instruction.operands
        following = (position[0], position[1] + 1)
        text = kind.text.upper() if isinstance(kind, Name) else ""
        operation = text.removesuffix("IS").removesuffix("OS")
        everything = operation in _ALL
        if operation not in (*_ALL, *_PAGE) or len(rest) > 1 or (not everything and not rest):
            raise unsupported(instruction)
        get = read(*(register(rest[0], instruction) if rest else (None, MASK64)), instruction)
        alone = int(operation == text)

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            value, _, pick = get(run)
            entry = None if everything else self._page(value, instruction)
            floor = run.views.maintenance_floor(entry, 0 if everything else pick, clean=False)
            ways = run.put(INVALIDATE, entry, alone, floor)
            for way, at in ways:
                way.views.invalidated(at)
                way.position = following
            return None if len(ways) == 1 else [way for way, _ in ways]

        return step

    def _page(self, value: int, instruction: Instruction) -> int:
        """Return the entry of the page whose number a TLBI is given."""
        name = self._values.name_at(value << _PAGE_SHIFT & _ADDRESS)
        if name is None or page_name(name) is not None:
            raise LitmusError(f"{instruction} with {self._values.show(value)}, no location's page", instruction.line)
        return self._values.location(entry_name(name))


def _within(limit: int, going: ThreadRun, done: list[ThreadRun] | None) -> Iterator[ThreadRun]:
    """Yield the runs in which an access takes place before a limit (TLBI-ob: tr-ib^-1; TTD-read-ordered-before)."""
    for way in [going] if done is None else done:
        views = _views(way)
        views.end()
        if views.accessed < limit:
            yield way


def _views(run: ThreadRun) -> TranslatedViews:
    assert isinstance(run.views, TranslatedViews)
    return run.views


def _physical(run: ThreadRun) -> Register:
    return _views(run).physical
