"""Reads of old values and fetches of old instructions in a run, and which barriers would have forbidden each.

What a CPU reads is old where another CPU has executed a newer store before, in the order of the run's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fuzzvm.machine.memory import MemoryModel
from fuzzvm.machine.memory.arm64.forbidding import Ordering, forbidding
from fuzzvm.machine.memory.arm64.ordered_before import Executed
from fuzzvm.machine.ops import (
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
    Value,
)
from fuzzvm.machine.schedule import Schedule
from fuzzvm.machine.trace import TraceStep


@dataclass(frozen=True, slots=True)
class OldValue:
    """What a step read was old: the step of a newer store, and what would have forbidden it, () if nobody knows."""

    newer: int
    orderings: tuple[Ordering, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A value that says which step has stored it."""

    value: Value
    step: int


@dataclass(frozen=True, slots=True)
class _Update:
    update: Callable[[Value], Value]
    step: int

    def __call__(self, old: Value) -> Value:
        return _Stored(self.update(_plain(old)), self.step)


class _Choices:
    """Makes the choices of one step again."""

    def __init__(self, ways: Sequence[int]) -> None:
        self._ways = iter(ways)

    def __call__(self, count: int) -> int:
        return next(self._ways)


def _plain(value: Value) -> Value:
    return value.value if isinstance(value, _Stored) else value


def old_values(memory: MemoryModel, trace: Sequence[TraceStep], schedule: Schedule) -> dict[int, OldValue]:
    """Return the reads and fetches of a run that are old, by their steps.

    `memory` is as it was before the first step; it is not changed. `trace` must not hold a step that has failed.
    Empty where the memory model has no such reads.
    """
    if not memory.stale_reads:
        return {}
    programs: list[list[Executed]] = [[] for _ in range(memory.cpus)]
    newest: dict[int, TraceStep] = {}
    found: dict[int, OldValue] = {}
    for step, op, source in _sources(memory, trace, schedule):
        pointer = 0 if isinstance(op, Fetch) else memory.points_to(step.response)
        for cpu in range(memory.cpus) if isinstance(op, InterruptAll) else (step.cpu,):
            programs[cpu].append(Executed(step.number, op, source, pointer, taken=cpu != step.cpu))
        if isinstance(op, Load | Fetch):
            newer = newest.get(op.address)
            if newer is not None and newer.cpu != step.cpu and newer.number != source:
                found[step.number] = OldValue(newer.number, forbidding(programs, step.number, newer.number))
        elif isinstance(op, Store | Rmw):
            newest[op.address] = step
    return found


def _sources(
    memory: MemoryModel, trace: Sequence[TraceStep], schedule: Schedule
) -> Iterator[tuple[TraceStep, Operation, int]]:
    """Yield each step that a CPU has executed, its operation, and the step of the store that it read.

    That is 0 for what was there at boot, and for an operation that reads nothing.
    """
    points_to = memory.points_to
    memory = memory.copy()
    memory.points_to = lambda value: points_to(_plain(value))
    for step, (_, *ways) in zip(trace, schedule, strict=False):
        value = _perform(memory, step, _Choices(ways))
        if step.op is not None:
            yield step, step.op, value.step if isinstance(value, _Stored) else 0


def _perform(memory: MemoryModel, step: TraceStep, choose: Callable[[int], int]) -> Value:
    op, cpu = step.op, step.cpu
    match op:
        case None:
            memory.step(step.agent, choose)
        case Load() | Await():
            return memory.load(cpu, op, choose)
        case Fetch():
            return memory.fetch(cpu, op, choose)
        case Store():
            memory.store(cpu, Store(op.address, _Stored(op.value, step.number), op.order), choose)
        case Rmw():
            return memory.rmw(cpu, Rmw(op.address, _Update(op.update, step.number), op.order), choose)
        case Fence():
            memory.fence(cpu, op, choose)
        case CacheMaintenance() | Tlbi() | InterruptAll():
            memory.maintain(cpu, op, choose)
    return None
