"""Straight-line programs on AArch64's memory: a run drawn at random, and all outcomes that there are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fuzzvm.machine.memory.arm64.adapter import Arm64
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
    Value,
    address_of,
)

X, Y, Z, CODE = (address_of(number) for number in (1, 2, 3, 4))
POINTERS = {70: 3, 71: 3}
"""Values that point to an object: that of Z."""


def points_to(value: Value) -> int:
    return POINTERS.get(value, 0)  # type: ignore[call-overload]


def fresh(cpus: int) -> Arm64:
    memory = Arm64(cpus)
    memory.points_to = points_to
    return memory


def perform(memory: Arm64, cpu: int, op: Operation, choose: Callable[[int], int]) -> Value:
    """Execute an operation; return what it read, None where it reads nothing."""
    match op:
        case Load() | Await():
            return memory.load(cpu, op, choose)
        case Store():
            memory.store(cpu, op, choose)
        case Rmw():
            return memory.rmw(cpu, op, choose)
        case Fence():
            memory.fence(cpu, op, choose)
        case Fetch():
            return memory.fetch(cpu, op, choose)
        case CacheMaintenance() | InterruptAll():
            memory.maintain(cpu, op, choose)
    return None


def random_run(programs: Sequence[Sequence[Operation]], draw: random.Random) -> Iterator[tuple[int, int, Value, bool]]:
    """Run programs; yield of each operation its CPU, its place there, what it read, and whether that is old."""
    memory = fresh(len(programs))
    places = [0] * len(programs)
    while True:
        running = [cpu for cpu, program in enumerate(programs) if places[cpu] < len(program)]
        if not running:
            return
        agent = draw.choice([*running, *memory.agents()])
        if agent >= len(programs):
            memory.step(agent, draw.randrange)
            continue
        op = programs[agent][places[agent]]
        memory.remark = None
        value = perform(memory, agent, op, draw.randrange)
        yield (
            agent,
            places[agent],
            value,
            memory.remark is not None and type(memory.remark).__name__.startswith("Stale"),
        )
        places[agent] += 1


def outcomes(programs: Sequence[Sequence[Operation]]) -> set[tuple[tuple[Value, ...], ...]]:
    """Return what the operations of each CPU read, for all runs that there are."""
    start = (fresh(len(programs)), tuple(() for _ in programs))
    todo: list[tuple[Arm64, tuple[tuple[Value, ...], ...]]] = [start]
    seen = set()
    found = set()
    while todo:
        memory, read = todo.pop()
        running = [cpu for cpu, program in enumerate(programs) if len(read[cpu]) < len(program)]
        if not running:
            found.add(read)
            continue
        for agent in (*running, *memory.agents()):
            for after, value in _ways(memory, agent, programs, read):
                more = read
                if agent < len(programs):
                    more = (*read[:agent], (*read[agent], value), *read[agent + 1 :])
                key = (more, after.state())
                if key not in seen:
                    seen.add(key)
                    todo.append((after, more))
    return found


def _ways(
    memory: Arm64, agent: int, programs: Sequence[Sequence[Operation]], read: tuple[tuple[Value, ...], ...]
) -> Iterator[tuple[Arm64, Value]]:
    """Yield each way in which an agent can step: memory after it, and what was read."""
    todo: list[list[int]] = [[]]
    while todo:
        choices = todo.pop()
        taken: list[int] = []

        def choose(ways: int, choices: list[int] = choices, taken: list[int] = taken) -> int:
            way = choices[len(taken)] if len(taken) < len(choices) else 0
            if len(taken) >= len(choices):
                todo.extend([*choices, *[0] * (len(taken) - len(choices)), other] for other in range(1, ways))
            taken.append(way)
            return way

        after = memory.copy()
        value: Value = None
        if agent >= len(programs):
            after.step(agent, choose)
        else:
            value = perform(after, agent, programs[agent][len(read[agent])], choose)
        yield after, value


def executed(
    programs: Sequence[Sequence[Operation]], run: Sequence[tuple[int, int, Value, bool]]
) -> list[list[Executed]]:
    """Return what each CPU has executed in a run in which no two stores write the same value, and none writes 0."""
    steps: dict[Value, int] = {0: 0}
    found: list[list[Executed]] = [[] for _ in programs]
    for step, (cpu, place, value, _) in enumerate(run, 1):
        op = programs[cpu][place]
        source = 0 if value is None else steps[value]
        pointer = 0 if isinstance(op, Fetch) else points_to(value)
        for taker in range(len(programs)) if isinstance(op, InterruptAll) else (cpu,):
            found[taker].append(Executed(step, op, source, pointer, taken=taker != cpu))
        if isinstance(op, Store):
            steps[op.value] = step
        elif isinstance(op, Rmw):
            steps[op.update(value)] = step
    return found
