"""Who waits for whom, and why: the cycle of a deadlock, lock by lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzzvm.kernel.locking.lock import held_by
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Await, Rmw
from fuzzvm.machine.stuck import find_cycle
from fuzzvm.machine.trace import TraceStep


@dataclass(frozen=True, slots=True)
class Wait:
    """A CPU of a cycle: the functions that it waits in, innermost first, and what for, in words.

    `since` is the step in which the next CPU of the cycle came to hold that, 0 where it only waits ahead.
    """

    cpu: int
    stack: tuple[str, ...]
    text: str
    since: int


def wait_cycle(machine: Machine, place: Callable[[Address], str], named: Callable[[str], str]) -> tuple[Wait, ...]:
    """Return the CPUs that wait for each other in a cycle at the end of a traced run, in its order; () if none do.

    `place` says what a location is called, `named` gives the CPUs of a text their names.
    """
    cpus = [cpu for cpu in range(machine.memory.cpus) if machine.pending(cpu) is not None]
    cycle = find_cycle({cpu: machine.blockers(cpu) for cpu in cpus})
    waits = []
    for cpu, blocker in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
        op = machine.pending(cpu)
        assert isinstance(op, Await | Rmw)
        why = getattr(op.when, "why", None)
        because = f"CPU {blocker} holds it" if why is None else why(machine.memory.peek(op.address), blocker)
        since = _held_since(machine.trace or (), op.address, blocker)
        text = f"CPU {cpu} waits for {place(op.address)}: {because}" + (f" since step {since}" if since else "")
        waits.append(Wait(cpu, machine.stack(cpu), named(text), since))
    return tuple(waits)


def _held_since(trace: Sequence[TraceStep], address: Address, cpu: int) -> int:
    """Return in which step a CPU came to hold what a word is about, 0 where it does not."""
    since = 0
    for step in trace:
        if isinstance(step.op, Rmw) and step.op.address == address:
            holds = held_by(step.op.update(step.response), cpu)
            since = (since or step.number) if holds else 0
    return since


def waiting(machine: Machine, cycle: Sequence[Wait]) -> set[int]:
    """Return the steps that a cycle is made of: where its CPUs came to hold what others want, and their last ones."""
    last = {step.cpu: step.number for step in machine.trace or () if step.op is not None}
    return {last.get(wait.cpu, 0) for wait in cycle} | {wait.since for wait in cycle}
