"""The story of a run: what went wrong, who did what to the table that it is about, and every step on its lane.

Neutral to how it is shown; `text` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import counters_of, ending, run
from fuzzvm.kernel.counters import Counters
from fuzzvm.kernel.errors import DESCRIPTIONS
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.reach import Reach, mapped_areas
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.errors import DEADLOCK, Failure
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import offset_of
from fuzzvm.machine.schedule import context_switches
from fuzzvm.machine.trace import TraceStep, digest
from fuzzvm.report.describe import Describer
from fuzzvm.report.old_values import OldValue, old_values
from fuzzvm.report.tlb_story import hardware_events
from fuzzvm.report.tree import page_tables
from fuzzvm.report.waits import Wait, wait_cycle, waiting
from fuzzvm.scenario.calls import Output
from fuzzvm.scenario.system import System


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One step: its number, the CPU, the functions that the CPU is in (innermost first), and what it did.

    `guilty` marks the steps that the error is made of; `output` is what a debugfs file returned after this step.
    """

    number: int
    cpu: int
    stack: tuple[str, ...]
    text: str
    guilty: bool
    output: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class TableEvent:
    """What happened to the table that the error is about: `what` it was, in which step, by whom.

    Step 0 is at boot; None says that it did not happen.
    """

    what: str
    step: int | None
    cpu: int | None
    stack: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """A run told. `failure` is None where nothing went wrong; `events` are in the order in which they happened.

    CPUs have their names in all text, `failure.message` as well.
    """

    case: TestCase
    failure: Failure | None
    headline: str
    events: tuple[TableEvent, ...]
    steps: tuple[StoryStep, ...]
    switches: int
    digest: str
    counters: Counters
    areas: tuple[tuple[int, int, Reach], ...]
    """What is mapped at the end, one range without a hole after the other: first address, end, by what."""
    cpu_names: tuple[str, ...]
    """What each lane is called: the scenario's CPUs, then the threads of the kernel's own."""
    cycle: tuple[Wait, ...] = ()
    """Of a deadlock, who waits for whom."""
    tables: tuple[str, ...] = ()
    """The page tables at the end, see `tree`."""


def tell(case: TestCase, mitigation: type[Mitigation]) -> Story:
    """Run a test case and return its story. Raises ScheduleError where its schedule does not fit."""
    machine, execution = run(case, mitigation, tracing=True)
    return story_of(case, mitigation, machine, execution)


def story_of(case: TestCase, mitigation: type[Mitigation], machine: Machine, execution: Execution) -> Story:
    """Return the story of a run that has ended, on a machine that traced it."""
    trace = machine.trace or []
    failure = execution.failure
    hardware = [] if failure is None else hardware_events(case, machine, trace, failure)
    describer = Describer(machine, _old_values(case, mitigation, trace, execution))
    cycle = wait_cycle(machine, describer.place, describer.named) if failure and failure.error == DEADLOCK else ()
    guilty = waiting(machine, cycle) if cycle else _guilty_steps(machine, failure)
    guilty |= {event.step for event in hardware if event.step}
    if failure is not None:
        failure = replace(failure, message=describer.named(failure.message))
    steps = tuple(
        StoryStep(
            step.number,
            step.cpu,
            step.stack,
            _failing_text(machine, describer, step)
            if failure is not None and step.number == failure.step and failure.object_number is not None
            else describer.step(step),
            step.number in guilty,
            tuple(note for note in step.annotations if isinstance(note, Output)),
        )
        for step in trace
    )
    return Story(
        case=case,
        failure=failure,
        headline="no error" if failure is None else DESCRIPTIONS[failure.error],
        events=_events(machine, trace, failure) + tuple(_event(event.what, event.step, trace) for event in hardware),
        steps=steps,
        switches=context_switches(execution.schedule),
        counters=counters_of(case, machine),
        areas=tuple(mapped_areas(machine, case.scenario.geometry())),
        digest=digest(trace, ending(execution.failure)),
        cpu_names=describer.cpu_names,
        cycle=cycle,
        tables=page_tables(machine, describer),
    )


def _old_values(
    case: TestCase, mitigation: type[Mitigation], trace: list[TraceStep], execution: Execution
) -> dict[int, OldValue]:
    if not memory_models.get(case.memory).stale_reads:
        return {}
    start = System(case.scenario, mitigation, case.memory, without=case.without).machine()
    failure = execution.failure
    # what the failing step tried has not been done
    done = [step for step in trace if failure is None or step.number != failure.step]
    return old_values(start.memory, done, execution.schedule)


def _object(machine: Machine, failure: Failure | None) -> Allocation | None:
    if failure is None or failure.object_number is None:
        return None
    return machine.allocator.allocations[failure.object_number]


def _guilty_steps(machine: Machine, failure: Failure | None) -> set[int]:
    """Return the steps that an error is made of: the failing one, and the free of what it is about."""
    if failure is None:
        return set()
    guilty = {failure.step}
    allocation = _object(machine, failure)
    if allocation is not None and allocation.number in machine.allocator.dead:
        guilty.add(machine.allocator.dead[allocation.number])
    return guilty


def _events(machine: Machine, trace: list[TraceStep], failure: Failure | None) -> tuple[TableEvent, ...]:
    allocation = _object(machine, failure)
    if allocation is None:
        return ()
    events = [_event("allocated", allocation.allocated_at, trace)]
    freed_at = machine.allocator.dead.get(allocation.number)
    if freed_at is not None:
        events.append(_event("freed", freed_at, trace))
        owner = machine.allocator.owner(allocation.frame)
        if owner.number != allocation.number:
            events.append(_event(f"handed out again as {owner.label}", owner.allocated_at, trace))
    return tuple(events)


def _event(what: str, number: int | None, trace: list[TraceStep]) -> TableEvent:
    if not number:
        return TableEvent(what, number, None, ())
    step = trace[number - 1]
    return TableEvent(what, number, step.cpu, step.stack)


def _failing_text(machine: Machine, describer: Describer, step: TraceStep) -> str:
    """Return what the failing step tried: it has no response to tell of."""
    address = getattr(step.op, "address", None)
    if address is None or machine.allocator.lookup(address) is None:
        return describer.step(step)
    name = type(step.op).__name__.lower()
    verb = {"load": "read", "store": "write", "await": "wait for", "rmw": "update"}.get(name, name)
    allocation = machine.allocator.lookup(address)
    label = str(allocation.label).removeprefix("the ") if allocation is not None else ""
    what = f"{verb} entry {offset_of(address)} of {label}" if verb != "free" else f"free {label}"
    return what + describer.remark(step)
