"""Who waits for whom, and why: the cycle of a deadlock, lock by lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzzvm.kernel.rcu import RcuState
from fuzzvm.kernel.rwsem import RwsemState
from fuzzvm.machine.machine import Machine, find_cycle
from fuzzvm.machine.ops import Address, Await, Rmw, Value
from fuzzvm.machine.trace import TraceStep

CpuName = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Wait:
    """A CPU of a cycle: the functions that it waits in, innermost first, and what for, in words.

    `since` is the step in which the next CPU of the cycle came to hold that, 0 where it only waits ahead.
    """

    cpu: int
    stack: tuple[str, ...]
    text: str
    since: int


def wait_cycle(machine: Machine, place: Callable[[Address], str], name: CpuName) -> tuple[Wait, ...]:
    """Return the CPUs that wait for each other in a cycle at the end of a traced run, in its order; () if none do.

    `place` says what a location is called, `name` what a CPU is.
    """
    cpus = [cpu for cpu in range(machine.memory.cpus) if machine.pending(cpu) is not None]
    cycle = find_cycle({cpu: machine.blockers(machine.pending(cpu)) for cpu in cpus})
    waits = []
    for cpu, blocker in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
        op = machine.pending(cpu)
        assert isinstance(op, Await | Rmw)
        why = _why(machine, op, cpu, blocker, name)
        since = _held_since(machine.trace or (), op.address, blocker)
        text = f"{name(cpu)} waits for {place(op.address)}: {why}" + (f" since step {since}" if since else "")
        waits.append(Wait(cpu, machine.stack(cpu), text, since))
    return tuple(waits)


def _why(machine: Machine, op: Await | Rmw, cpu: int, blocker: int, name: CpuName) -> str:
    match machine.memory.peek(op.address):
        case RwsemState() as sem:
            return _in_queue(sem, cpu, blocker, name)
        case RcuState():
            return f"a grace period that the read-side section of {name(blocker)} holds up"
        case _:
            return f"{name(blocker)} holds it"


def _in_queue(sem: RwsemState, cpu: int, blocker: int, name: CpuName) -> str:
    """Return why a queued CPU does not have a semaphore: who holds it, or which waiter is ahead."""
    wants = "write" if dict(sem.waiters)[cpu] else "read"
    if blocker == sem.writer:
        return f"it is queued to {wants}, and {name(blocker)} holds it for writing"
    ahead = [waiter for waiter, _ in sem.waiters[: [waiter for waiter, _ in sem.waiters].index(cpu)]]
    if blocker in ahead:
        does = "write" if dict(sem.waiters)[blocker] else "read"
        return f"it is queued to {wants}, behind {name(blocker)}, which waits to {does}"
    return f"it is queued to {wants}, and {name(blocker)} holds it for reading"


def _held_since(trace: Sequence[TraceStep], address: Address, cpu: int) -> int:
    """Return in which step a CPU came to hold what a word is about, 0 where it does not."""
    since = 0
    for step in trace:
        if isinstance(step.op, Rmw) and step.op.address == address:
            holds = _holds(step.op.update(step.response), cpu)
            since = (since or step.number) if holds else 0
    return since


def _holds(value: Value, cpu: int) -> bool:
    match value:
        case RwsemState():
            return value.writer == cpu or cpu in value.readers
        case RcuState():
            return cpu in value.readers
        case _:
            return value == cpu + 1


def waiting(machine: Machine, cycle: Sequence[Wait]) -> set[int]:
    """Return the steps that a cycle is made of: where its CPUs came to hold what others want, and their last ones."""
    last = {step.cpu: step.number for step in machine.trace or () if step.op is not None}
    return {last.get(wait.cpu, 0) for wait in cycle} | {wait.since for wait in cycle}
