"""The accesses of compiled code: each is an operation, or none where no other CPU can tell when it is done."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from fuzzvm.compiled.errors import WILD_ACCESS, ImageError
from fuzzvm.compiled.isa.access import Access, Answer
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.isa.instruction import UnsupportedInstructionError
from fuzzvm.compiled.isa.private import TrackedMemory, UnwrittenMemoryError
from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.run.cpu import CompiledCpu
from fuzzvm.compiled.run.links import table_of
from fuzzvm.compiled.run.tlb import check_followed
from fuzzvm.compiled.run.translate import Exclusive, inserted, operation_of, part, shift_of
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.errors import ModelError, OutdatedProgramError
from fuzzvm.machine.ops import (
    OFFSET_BITS,
    Annotation,
    Barrier,
    Fence,
    Load,
    Operation,
    Order,
    Rmw,
    Value,
    address_of,
    object_of,
)

_PROBE = 1 << 62
"""The name of a load whose value is tried out."""
_TOUCHED_TO_READ, _TOUCHED_TO_WRITE = (1 << OFFSET_BITS) - 1, (1 << OFFSET_BITS) - 2
"""Locations of an object that stand for it where an access is done of which others see only that it is there."""


class TrialEndError(Exception):
    """A copy that is run to see what comes of a value has come to the next access."""


@dataclass(frozen=True, slots=True)
class _Unchanged:
    def __call__(self, old: Value) -> Value:
        return old


_UNCHANGED = _Unchanged()


class CpuAccesses(CompiledCpu):
    """A CPU that can access memory."""

    __slots__ = ()

    @abstractmethod
    def _next(self, response: Value) -> Operation | Annotation | None:
        """Take a response, and return what comes next; None where the code is to go on."""

    def _operation(self, access: Access) -> Operation | None:
        """Return the operation of the next element of an access; None where that is done without one."""
        if self._trial:
            raise TrialEndError
        request, x = access.request, self._x
        self._access = access
        self._token = -1
        if request.kind is Kind.CLEAR_EXCLUSIVE:
            self._exclusive = None
            self._complete(None)
            return None
        if request.kind is Kind.EXCLUSIVE_STORE and self._exclusive is None:
            self._complete(1)
            return None
        if request.kind is Kind.TLB_INVALIDATE and self.environment.followed is not None:
            check_followed(access)
        unit = None
        self._seen_alive, seen_alive = -1, self._seen_alive
        if request.size:
            va = access.element(self._element)
            if self._memory.low <= va < self._memory.high:
                if request.full_barrier and not self._fenced:
                    # of the access nobody sees anything, but it orders those before it and after it
                    self._fenced = self._issued = self._touching = True
                    return Fence(Barrier.DMB_ISH, depends=self._depends(access, self._element))
                if request.full_barrier and va < x[SP] and access.instruction.writes <= self._arch.flags:
                    # what lies there is nobody's: Linux's smp_mb() adds 0 to it
                    self._complete(0)
                    for slot in self._arch.flags:
                        x[slot] = self._arch.undefined
                    return None
                self._access_own(access, va, self._memory)
                return None
            if not access.is_aligned:
                raise ImageError(f"an access that is not aligned, at {access.address:#x}")
            stores = request.kind not in (Kind.LOAD, Kind.EXCLUSIVE_LOAD)
            unit = self.environment.memory.location(va, request.size)
            if unit is None:
                if stores:
                    raise ModelError(WILD_ACCESS, f"{access.instruction.text!r} writes to {va:#x}, which is read-only")
                content = self.environment.memory.constant(va, request.size)
                self._answer(content, *self._address_dependencies(access))
                return None
            op = self._quietly(access, va, unit, seen_alive)
            if op is not None or self._access is None:
                return op
        executable = self.environment.executable
        depends = None
        if executable.tracked:
            if request.answers and request.kind is not Kind.EXCLUSIVE_STORE and not request.no_return:
                self._token = self._free_token()
            depends = self._depends(access, self._element, self._token)
        bug = executable.image.bugs.get(x[PC])
        op = operation_of(access, self._element, unit, self._exclusive, self.environment.memory, depends, bug)
        self._issued = True
        return op

    def _answered(self, response: Value) -> None:
        """Take the response to the operation of an element."""
        access = self._access
        assert access is not None
        request = access.request
        if self._touching:
            # the object is there: now the access is done as one that is no step
            self._touching = False
            return
        if not request.answers:
            self._next_element(None)
            return
        memory = self.environment.memory
        va = access.element(self._element)
        unit = memory.location(va, request.size)
        assert isinstance(response, int) and unit is not None
        content = part(response ^ memory.initial(unit), unit, va, request.size)
        views = 0 if self._token < 0 else 1 << self._token
        if request.kind is Kind.EXCLUSIVE_LOAD:
            self._exclusive = Exclusive(unit.address, response, request.order)
        elif request.kind is Kind.EXCLUSIVE_STORE:
            assert self._exclusive is not None
            content = int(response != self._exclusive.content)
            self._exclusive = None
        self._answer(content, views, views)

    def _answer(self, content: int, views: int, picks: int) -> None:
        """Take what an element has read, and what that depends on."""
        self._next_element((content, views, picks))

    def _next_element(self, answer: tuple[int, int, int] | None) -> None:
        access = self._access
        assert access is not None
        if answer is not None:
            self._answers = (*self._answers, answer)
        self._element += 1
        if self._element < access.request.count and access.request.size:
            return
        if not self._answers:
            self._complete(None)
            return
        contents, views, picks = zip(*self._answers, strict=True)
        if len(contents) == 1:
            self._complete(contents[0], views[0], picks[0])
        else:
            self._complete(contents, views, picks)

    def _complete(self, response: Answer, views: Any = 0, picks: Any = 0) -> None:
        """Finish the instruction."""
        access, executable = self._access, self.environment.executable
        assert access is not None
        if executable.tracked:
            executable.code.complete_tracked(self._x, self._views, self._picks, access, response, views, picks)
        else:
            executable.code.complete(self._x, access, response)
        self._access = None
        self._element = 0
        self._answers = ()
        self._fenced = False

    # Accesses to the CPU's own memory, and to what no other CPU notices

    def _access_own(self, access: Access, va: int, memory: TrackedMemory, unit: Unit | None = None) -> None:
        """Do what an access does to memory that this CPU alone uses: nobody sees its order or its parts.

        `unit` is the location of memory that CPUs share, which is one cell.
        """
        request = access.request
        views, picks = self._joined((*access.instruction.address_reads, *access.instruction.reads))
        cell = None if unit is None or unit.size == request.size else unit
        at, size = (va, request.size) if cell is None else (self.environment.memory.va(cell.address), cell.size)

        def write(value: int) -> None:
            view, pick = views, picks
            if cell is not None:
                before = memory.load(at, size)
                assert before is not None
                value = inserted(before[0], shift_of(cell, va), request.size, value)
                view, pick = view | before[1], pick | before[2]
            stored = memory.store(at, size, value, view, pick)
            assert stored

        content = 0
        if request.kind is Kind.EXCLUSIVE_STORE:
            # nobody comes between; the status is 0, unless the load was of another place
            content = int(self._exclusive is None or self._exclusive.location != _own(va))
            self._exclusive = None
            if not content:
                write(access.values[self._element])
        elif request.kind is Kind.STORE:
            write(access.values[self._element])
        else:
            found = memory.load(at, size)
            assert found is not None
            content = found[0] if cell is None else part(found[0], cell, va, request.size)
            views, picks = views | found[1], picks | found[2]
        if request.kind is Kind.EXCLUSIVE_LOAD:
            self._exclusive = Exclusive(_own(va), content, request.order)
        elif request.kind in (Kind.ATOMIC, Kind.COMPARE_AND_SWAP):
            new = access.updated((content,))
            if new is not None:
                write(new[0])
        if request.answers:
            self._answer(content, views, picks)
        else:
            self._next_element(None)

    def _quietly(self, access: Access, va: int, unit: Unit, seen_alive: int) -> Operation | None:
        """Do an access that is no step, or return the operation that stands for it; None where it is like any other.

        After one that is no step there is no access any more.
        """
        request, environment = access.request, self.environment
        knowledge = environment.knowledge
        if knowledge is None:
            return None
        reads = request.kind is not Kind.STORE
        writes = request.kind not in (Kind.LOAD, Kind.EXCLUSIVE_LOAD)
        plain = request.order is Order.PLAIN
        values = (self._boot_content(unit), *access.values[self._element : self._element + 1])
        # of an entry that an instruction changes in part, or by an operation, it does not say what comes out
        whole = (request.kind is not Kind.ATOMIC or request.operation == "swp") and request.size == unit.size
        followed = environment.followed
        if writes and (
            any(table_of(environment.memory, value) is not None for value in values)
            or (not whole and environment.memory.may_be_entry(unit.address))
            or (
                followed is not None
                and environment.memory.may_be_entry(unit.address)
                and followed.follows(unit.address, values[0], values[-1])
            )
        ):
            knowledge.watch(unit.address)
        unused = self._unused(access) if plain and request.kind is Kind.LOAD else None
        if unused is None:
            quiet = knowledge.access(unit.address, self._setup.cpu, reads=reads, writes=writes, plain=plain)
            if not quiet:
                return None
        number = object_of(unit.address)
        if knowledge.lasting(unit.address) or number == seen_alive:
            self._seen_alive = seen_alive
            if unused is not None:
                self._adopt(unused)
            else:
                self._access_quietly(access, va, unit)
            return None
        # that the object is there has to be seen once, and then everything may go on
        self._seen_alive = number
        self._issued = self._touching = True
        depends = self._depends(access, self._element)
        if writes:
            return Rmw(address_of(number, _TOUCHED_TO_WRITE), _UNCHANGED, quiet=True, depends=depends)
        return Load(address_of(number, _TOUCHED_TO_READ), depends=depends)

    def _boot_content(self, unit: Unit) -> int:
        knowledge, memory = self.environment.knowledge, self.environment.memory
        assert knowledge is not None
        return memory.initial(unit) ^ (knowledge.content(unit.address) if knowledge.at_boot(unit.address) else 0)

    def _access_quietly(self, access: Access, va: int, unit: Unit) -> None:
        """Do an access to a location that no other CPU writes, and none reads if this one writes it."""
        knowledge = self.environment.knowledge
        assert knowledge is not None
        if not knowledge.is_written(unit.address):
            if access.request.kind is Kind.EXCLUSIVE_LOAD:
                # the store that goes with it shows that it is written
                content = knowledge.content(unit.address)
                self._exclusive = Exclusive(unit.address, content, access.request.order)
            content = self.environment.content(va, unit, access.request.size)
            self._answer(content, *self._address_dependencies(access))
            return
        memory = self._memory if knowledge.lasting(unit.address) else self._taken
        start = self.environment.memory.va(unit.address)
        if start not in memory.cells:
            memory.cells[start] = unit.size, self.environment.content(start, unit, unit.size), 0, 0
        self._access_own(access, va, memory, unit)

    # Loads of which nothing comes

    def _unused(self, access: Access) -> Self | None:
        """Return the program after a load whose value nothing comes of, whatever it is; None where something does.

        It is run with some value that carries a name of its own. If no branch, address or value until the next access
        depends on that name, nor what is live there, then every other value leads there as well.
        """
        executable = self.environment.executable
        pc = self._x[PC]
        if not executable.tracked or access.request.count != 1 or pc in executable.used:
            return None
        trial = self.copy()
        assert trial is not None
        trial._trial = True
        runs = executable.code.runs
        try:
            trial._answer(0, _PROBE, _PROBE)
            while True:
                trial._next(None)
        except TrialEndError:
            if not trial._depends_on(_PROBE):
                executable.unused.add(pc)
                return trial
        except (ImageError, ModelError, UnsupportedInstructionError, UnwrittenMemoryError, StopIteration):
            # with another value it may be otherwise
            pass
        # what it has run besides is not what happens
        executable.code.forget_runs(runs)
        executable.used.add(pc)
        if pc in executable.unused:
            # it was taken for a load of which nothing comes wherever it was met
            raise OutdatedProgramError
        return None

    def _adopt(self, trial: Self) -> None:
        """Become what a trial has become."""
        seen_alive = self._seen_alive
        for name in CompiledCpu.__slots__:
            setattr(self, name, getattr(trial, name))
        self._trial = False
        self._seen_alive = seen_alive
        self._views = [view & ~_PROBE for view in self._views]
        self._picks = [pick & ~_PROBE for pick in self._picks]


def _own(va: int) -> int:
    """Return what stands for an address of memory that one CPU alone uses where locations do: none is negative."""
    return -va
