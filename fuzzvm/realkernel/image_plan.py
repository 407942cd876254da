"""A schedule of compiled code as what a real kernel must be seen to do.

The kernel that is driven is another build than the image: with KASAN, by other options, perhaps by another compiler.
Its instructions are elsewhere, and it reads an entry more or less often. So nothing is mapped by addresses of code. The
two have the page tables in common: an access of the image to an entry is one of the kernel to the entry that maps the
same page, and a free is that of the table below it. Functions are compared where KASAN reports, by name, those that are
inlined in the image included. Reads of one entry that follow each other are one read, as long as its CPU steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fuzzvm.compiled.run.links import ENTRY, PageTables, table_of
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.compiled.run.units import Unit
from fuzzvm.corpus.format import TestCase
from fuzzvm.images.code import ImageCode
from fuzzvm.images.geometry import Geometry as ImageGeometry
from fuzzvm.kernel.pgtable import Geometry, Level
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Free, Load, Rmw, Store, address_of, object_of, offset_of
from fuzzvm.machine.program import Program
from fuzzvm.machine.schedule import Schedule
from fuzzvm.machine.trace import TraceStep
from fuzzvm.realkernel.arch import ARCHES
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.places import Window
from fuzzvm.realkernel.plan import Access, Expected, Plan, TableFreed, check_calls, check_judged, check_strong, layout


def make(case: TestCase, window_start: int, code: ImageCode) -> Plan:
    """Run a test case on its image and return its plan.

    Raises NoCounterpartError as `plan.make` does, ConversionError and ScheduleError as `explain` does.
    """
    check_judged(case)
    check_calls(case.scenario)
    task, schedule = code.with_fewer_steps(case)
    manifest = code.image.manifest
    geometry = ImageGeometry.of(code.image, case.scenario.fanout)
    window = Window(Geometry.make(manifest.page_shift, manifest.levels, geometry.entries, geometry.base), window_start)
    machine = task.booted(tracing=True)
    programs = task.programs()
    machine.start(programs)
    tables = _Tables(machine, task, window, ARCHES[manifest.arch].va_bits(manifest.page_shift, manifest.levels))
    watching = _Watching(schedule, programs, tables)
    failure = execute(machine, watching).failure
    watching.finish()
    if failure is None or failure.error != case.expect.error or failure.cpu is None:
        raise NoCounterpartError("the schedule no longer ends in the error that the file expects")
    trace = machine.trace or []
    check_strong(trace)
    failed = _stack(programs, failure.cpu)
    stacks = [*watching.stacks[:-1], failed]
    seen = zip(trace, stacks, watching.known, strict=True)
    expected = [found for step, stack, known in seen if (found := tables.expected(step, stack, known)) is not None]
    merged = _merged(expected)
    last = merged[-1] if merged else None
    if not isinstance(last, Access) or last.step != failure.step:
        raise NoCounterpartError("the step that fails is no access to a page-table entry")
    # of freed memory the image knows the table alone that is accessed
    merged[-1] = replace(last, somewhere=True)
    calls = layout(case, window_start)
    return Plan(case, tuple(merged), len(trace) - len(merged), len(trace), window, calls)


class _Tables:
    """The tables that entries led to at some time: of each its level, and the first address that it maps."""

    def __init__(self, machine: Machine, task: CompiledTask, window: Window, va_bits: int) -> None:
        self._machine = machine
        self._memory = task.environment.memory
        self._window = window
        self._levels = window.path(Level.PTE)
        assert isinstance(task.property, PageTables)
        root = (1 << 64) - (1 << va_bits)
        self._roots = dict.fromkeys(task.property.roots, (Level.PGD, root))
        self.known: dict[Address, tuple[Level, int]] = {}
        self.look()

    def look(self) -> None:
        """Learn the tables that have been linked since the last time."""
        found = dict(self._roots)
        for depth, below in enumerate(self._levels[1:]):
            above = [(table, start) for table, (level, start) in found.items() if level is self._levels[depth]]
            for table, start in above:
                for index in range(self._window.geometry.ptrs[Level.PTE]):
                    target = self._target(table, index)
                    if target is not None:
                        found[target] = below, start + (index << self._window.shift(self._levels[depth]))
        self.known |= found

    def _target(self, table: Address, index: int) -> Address | None:
        unit = Unit(table + index * ENTRY, ENTRY)
        value = self._machine.memory.peek(unit.address)
        return table_of(self._memory, self._memory.initial(unit) ^ (value if isinstance(value, int) else 0))

    def expected(
        self, step: TraceStep, stack: tuple[str, ...], known: dict[Address, tuple[Level, int]]
    ) -> Expected | None:
        """Return what a step looks like on a real kernel, None where it has no counterpart there."""
        if not isinstance(step.op, Load | Store | Rmw | Free):
            return None
        place = known.get(address_of(object_of(step.op.address)))
        if place is None:
            return None
        level, start = place
        if isinstance(step.op, Free):
            above = self._window.entry(self._levels[self._levels.index(level) - 1], start)
            return None if above.page < 0 else TableFreed(step.number, step.cpu, above, stack)
        offset = offset_of(step.op.address)
        if offset >= 1 << self._window.geometry.page_shift:
            # locations past the page stand for an access of which no other CPU can tell the entry
            offset = 0
        entry = self._window.entry(level, start + (offset // ENTRY << self._window.shift(level)))
        write = not isinstance(step.op, Load)
        return None if entry.page < 0 else Access(step.number, step.cpu, entry, write, stack)


class _Watching(Replay):
    """Follows a schedule; remembers in which functions each CPU stood before its steps, and which tables there were."""

    def __init__(self, schedule: Schedule, programs: Sequence[Program], tables: _Tables) -> None:
        super().__init__(schedule)
        self._programs = programs
        self._tables = tables
        self.stacks: list[tuple[str, ...]] = []
        self.known: list[dict[Address, tuple[Level, int]]] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = super().agent(enabled, machine)
        self._tables.look()
        self.known.append(dict(self._tables.known))
        self.stacks.append(_stack(self._programs, agent))
        return agent


def _stack(programs: Sequence[Program], cpu: int) -> tuple[str, ...]:
    """Return the functions that a CPU is in, innermost first, those that are inlined included."""
    if cpu >= len(programs):
        return ()
    program = programs[cpu]
    assert isinstance(program, CompiledProgram)
    return tuple(frame.function for frame in program.frames())


def _merged(expected: Sequence[Expected]) -> list[Expected]:
    """Return it without reads that repeat the one before, of the same entry by the same CPU with none between."""
    merged: list[Expected] = []
    for one in expected:
        before = merged[-1] if merged else None
        again = (
            isinstance(one, Access)
            and isinstance(before, Access)
            and (one.cpu, one.entry, one.write, before.write) == (before.cpu, before.entry, False, False)
        )
        if not again:
            merged.append(one)
    return merged
