"""The story of a run of compiled code as text: a report in the manner of KASAN with source lines, then each step.

A step names the source line of the innermost function; what one CPU alone uses is no step (docs/compiled.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.lines import Frame
from fuzzvm.compiled.run.links import ENTRY, PageTables, table_of
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Alloc, Free, Value, address_of, object_of, offset_of
from fuzzvm.machine.program import Program
from fuzzvm.machine.schedule import Schedule, context_switches, format_schedule
from fuzzvm.machine.trace import TraceStep
from fuzzvm.report.describe import Describer
from fuzzvm.scenario.scenario import Scenario

RULE = "=" * 66
INDENT = 4
_LEVELS = {2: ("pgd", "pte"), 3: ("pgd", "pmd", "pte"), 4: ("pgd", "pud", "pmd", "pte")}
"""What the tables of each level are called, by the number of levels; the levels between are folded."""


@dataclass(frozen=True)
class CompiledStep:
    """One step: its record, the functions that the CPU was in with their source lines, and what it did in words."""

    step: TraceStep
    frames: tuple[Frame, ...]
    text: str


@dataclass(frozen=True)
class CompiledStory:
    """A run of compiled code told. `frames` are those of the CPU that fails, in which it fails."""

    schedule: Schedule
    failure: Failure | None
    frames: tuple[Frame, ...]
    steps: tuple[CompiledStep, ...]


class CompiledDescriber(Describer):
    """Names locations of an image: entries by the table's level and place, everything else by its symbol."""

    def __init__(self, machine: Machine, task: CompiledTask) -> None:
        super().__init__(machine)
        self._task = task
        self._memory = task.environment.memory
        assert isinstance(task.property, PageTables)
        self._tables = task.property
        self._levels: dict[Address, str] = {}
        self.look()

    def look(self) -> None:
        """Learn the levels of tables that have been linked since the last time."""
        names = _LEVELS[self._task.image.manifest.levels]
        level = list(self._tables.roots)
        for name in names:
            for table in level:
                self._levels.setdefault(table, name)
            level = [below for table in level for below in self._pointed_to(table)] if name != names[-1] else []

    def _pointed_to(self, table: Address) -> list[Address]:
        found = []
        for offset in range(0, 1 << self._memory.layout.page_shift, ENTRY):
            unit = Unit(table + offset, ENTRY)
            value = self._machine.memory.peek(unit.address)
            target = table_of(self._memory, self._memory.initial(unit) ^ (value if isinstance(value, int) else 0))
            if target is not None:
                found.append(target)
        return found

    def page(self, address: Address) -> str:
        """Return what a page is called: by the level of table that it is or was, and the number of its object."""
        number = object_of(address)
        level = self._levels.get(address_of(number))
        return f"{level.upper()} table {number}" if level is not None else f"page {number}"

    def place(self, address: int) -> str:
        number, offset = object_of(address), offset_of(address)
        for name, unit in self._tables.locks.items():
            if unit.address == address:
                return name
        level = self._levels.get(address_of(number))
        if level is not None and offset < 1 << self._memory.layout.page_shift:
            return f"{level}[{offset // ENTRY}] of table {number}"
        if level is not None:
            # an access of which others see only that it is there
            return self.page(address)
        if number >= self._memory.boot_objects:
            return f"{self.page(address)}+{offset:#x}"
        allocation = self._machine.allocator.lookup(address)
        if allocation is not None and str(allocation.label).startswith("site in "):
            return str(allocation.label)
        return self._variable(self._memory.va(address))

    def _variable(self, va: int) -> str:
        """Return a variable of the image, with the member of it where the debug information has that."""
        image = self._task.image
        symbol = image.symbol_at(va)
        if symbol is not None and symbol.kind != "function":
            with suppress(ImageError):
                return symbol.name + image.types.variable(symbol.name, symbol.address).path_at(va - symbol.address)
        return image.describe(va)

    def value(self, address: int, value: Value) -> str:
        if not isinstance(value, int):
            return str(value)
        content = self._memory.initial(self._memory.unit_of(address)) ^ value
        return self.entry(content) if address_of(object_of(address)) in self._levels else f"{content:#x}"

    def entry(self, value: Value) -> str:
        if not isinstance(value, int) or not value:
            return "none"
        target = table_of(self._memory, value)
        if target is not None:
            return self.page(target)
        return f"{self._memory.arch.leaf(value)} {value:#x}".lstrip()


class _Watching(Replay):
    """Follows a schedule, and remembers where each CPU stood before its steps."""

    def __init__(self, schedule: Schedule, programs: Sequence[Program], describer: CompiledDescriber) -> None:
        super().__init__(schedule)
        self._programs = programs
        self._describer = describer
        self.stood: list[tuple[Frame, ...]] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = super().agent(enabled, machine)
        self._describer.look()
        self.stood.append(_frames(self._programs[agent]) if agent < len(self._programs) else ())
        return agent


def story_of(task: CompiledTask, schedule: Schedule) -> CompiledStory:
    """Return the story of a schedule of a task. Raises ScheduleError where the task cannot take it."""
    machine = task.booted(tracing=True)
    programs = task.programs()
    machine.start(programs)
    describer = CompiledDescriber(machine, task)
    chooser = _Watching(schedule, programs, describer)
    failure = execute(machine, chooser).failure
    chooser.finish()
    steps = zip(machine.trace or (), chooser.stood, strict=True)
    failed = () if failure is None or failure.cpu is None else _frames(programs[failure.cpu])
    told = [CompiledStep(step, frames, describer.step(step)) for step, frames in steps]
    return CompiledStory(schedule, failure, failed, tuple(told))


def _frames(program: Program) -> tuple[Frame, ...]:
    assert isinstance(program, CompiledProgram)
    return program.frames()


def title(image: Image, memory: str = "") -> str:
    """Return the line that says what an image is, and the memory model if one is given."""
    manifest = image.manifest
    patched = f", {len(manifest.patches)} patches" if manifest.patches else ""
    return (
        f"Linux {manifest.kernel}{patched}, {manifest.arch}, {manifest.page_size} pages, {manifest.levels} levels, "
        f"{manifest.atomics}; {manifest.compiler}; image {manifest.digest[:12]}{f'; memory {memory}' if memory else ''}"
    )


def render(story: CompiledStory, scenario: Scenario, title: str) -> str:
    """Return the report; `title` says what was run."""
    parts = [_report(story), _setting(story, scenario, title), _steps(story)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def to_data(story: CompiledStory, scenario: Scenario, title: str) -> dict[str, Any]:
    """Return the report as plain data: `text` as `render` has it, and what each of its parts says."""
    failure = story.failure
    return {
        "error": None if failure is None else failure.error,
        "function": None if failure is None else failure.function,
        "message": None if failure is None else failure.message,
        "cpu": None if failure is None else failure.cpu,
        "stack": [asdict(frame) for frame in story.frames],
        "cpus": len(scenario.cpus),
        "setting": _setting(story, scenario, title),
        "report": _report(story),
        "steps": [
            {
                "number": one.step.number,
                "cpu": one.step.cpu,
                "text": one.text,
                **asdict(one.frames[0] if one.frames else Frame("", "", 0, inlined=False)),
            }
            for one in story.steps
        ],
        "text": render(story, scenario, title),
    }


def _report(story: CompiledStory) -> list[str]:
    failure = story.failure
    if failure is None:
        return [RULE, "No error in this run", RULE]
    where = f" in {failure.function}" if failure.function else ""
    lines = [RULE, f"BUG: {failure.error}{where}", f"{failure.message[:1].upper()}{failure.message[1:]}"]
    if failure.cpu is not None:
        lines += ["", f"After step {len(story.steps)} by CPU {failure.cpu}:", *_stack(story.frames)]
    for one in story.steps:
        op = one.step.op
        mine = failure.object_number is not None
        if mine and isinstance(op, Alloc) and one.step.response == address_of(failure.object_number or 0):
            lines += ["", f"Allocated at step {one.step.number} by CPU {one.step.cpu}:", *_stack(one.frames)]
        if one is story.steps[-1] and one.step.cpu == failure.cpu:
            # its stack is that of the error
            continue
        if isinstance(op, Free) and (not mine or object_of(op.address) == failure.object_number):
            lines += ["", f"{one.text.capitalize()} at step {one.step.number} by CPU {one.step.cpu}:"]
            lines += _stack(one.frames)
    return [*lines, RULE]


def _stack(frames: Sequence[Frame]) -> list[str]:
    return [
        f" {frame.function}{f'  {frame.file}:{frame.line}' if frame.file else '  (modelled)'}"
        f"{' (inlined)' if frame.inlined else ''}"
        for frame in frames
    ]


def _setting(story: CompiledStory, scenario: Scenario, title: str) -> list[str]:
    lines = [title]
    lines += [f"  boot:  {call}" for call in scenario.setup]
    lines += [f"  CPU {cpu}: {call}" for cpu, calls in enumerate(scenario.cpus) for call in calls]
    switches = context_switches(story.schedule)
    return [*lines, f"{len(story.steps)} steps, {switches} context switches: {format_schedule(story.schedule)}"]


def _steps(story: CompiledStory) -> list[str]:
    lines = []
    last: tuple[int, Frame | None] = (-1, None)
    for one in story.steps:
        frame = one.frames[0] if one.frames else None
        if (one.step.cpu, frame) != last and frame is not None:
            where = f"{frame.file}:{frame.line}" if frame.file else "modelled"
            lines.append(f"{'':8}CPU {one.step.cpu}  {frame.function}()  {where}")
        last = one.step.cpu, frame
        lines.append(f"{one.step.number:5}   {'':{INDENT}}{one.text}")
    return lines
