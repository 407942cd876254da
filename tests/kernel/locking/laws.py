"""What the values, updates and conditions of every kind of lock must answer, checked along runs of it.

`Programs` are what CPUs do with one lock, and `run` steps them as a seed says. At each step it is checked that
everything commutes with renaming CPUs, and that what is said of the lock fits what happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzzvm.kernel.locking.lock import held_by, left, lock_action
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Address, Await, Operation, Rmw, Steps

Call = Callable[[int, Any], Steps[Any]]
"""A function of a lock: takes the CPU's number and the lock."""


class Words:
    """The words of locks on a machine that has nothing else."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def lock_word(self, name: str, unused: str = "free", words: int = 1) -> Address:
        return self._machine.allocate(words, name)


def renamed(thing: Any, names: Sequence[int]) -> Any:
    """Return a value, update or condition after CPU `i` has become CPU `names[i]`."""
    rename = getattr(thing, "renamed", None)
    return thing if rename is None else rename(names)


def program(cpu: int, lock: Any, calls: Sequence[Call]) -> Steps[None]:
    """Make calls one after the other; a call that returns False, as a failed trylock does, skips the next one."""
    index = 0
    while index < len(calls):
        result = yield from calls[index](cpu, lock)
        index += 2 if result is False else 1


def run(
    make: Callable[[Words, str], Any], programs: Sequence[Sequence[Call]], seed: int, *, releases: bool = True
) -> Machine:
    """Run programs on a lock of their own, checking the laws at each step; return the machine at the end.

    The run may end in a failure. Where it does not, everything is released; with `releases`, that is checked.
    """
    rng = random.Random(seed)
    machine = Machine(SequentialConsistency(len(programs)), tracing=True)
    lock = make(Words(machine), "the lock")
    machine.start([program(cpu, lock, calls) for cpu, calls in enumerate(programs)])
    while enabled := machine.enabled():
        value = machine.memory.peek(lock.address)
        for cpu in range(len(programs)):
            _check_waiting(machine.pending(cpu), value, rng)
        cpu = rng.choice(enabled)
        op = machine.pending(cpu)
        machine.step(cpu, lambda ways: 0)
        _check_step(op, value, machine.memory.peek(lock.address), cpu, rng)
    if machine.done and machine.failure is None and releases:
        assert left(machine.memory.peek(lock.address), "the lock") == ""
    return machine


def _names(rng: random.Random) -> list[int]:
    return rng.sample(range(6), 6)


def _check_waiting(op: Operation | None, value: Any, rng: random.Random) -> None:
    when = op.when if isinstance(op, Rmw | Await) else None
    if when is None:
        return
    names = _names(rng)
    same = renamed(when, names)
    assert same(renamed(value, names)) == when(value)
    blockers = when.blocked_by(value)
    assert sorted(same.blocked_by(renamed(value, names))) == sorted(names[cpu] for cpu in blockers)
    if when(value):
        return
    why = getattr(when, "why", None)
    for cpu in blockers if why is not None else ():
        assert f"CPU {cpu}" in why(value, cpu)


def _check_step(op: Operation | None, old: Any, new: Any, cpu: int, rng: random.Random) -> None:
    names = _names(rng)
    assert renamed(renamed(new, names), [names.index(number) for number in range(6)]) == new
    assert hash(new) == hash(renamed(new, range(6)))
    if isinstance(op, Rmw):
        assert renamed(op.update, names)(renamed(old, names)) == renamed(new, names)
        unhindered = getattr(op.update, "unhindered", None)
        if unhindered is not None:
            action = lock_action(op, unhindered())
            assert action is None or not (action.queued or action.failed)
            if held_by(old, cpu) and not held_by(new, cpu):
                assert held_by(unhindered(), cpu)
    action = lock_action(op, old)
    if action is not None:
        taken = not (action.release or action.queued or action.failed)
        if taken or action.downgrade:
            assert held_by(new, cpu)
        elif action.release and held_by(old, cpu) and action.write:
            assert not held_by(new, cpu)
        assert not (taken and action.write) or not any(held_by(old, other) for other in range(6) if other != cpu)
