"""Which barrier would have forbidden that a load reads an old value, or that a fetch gets an old instruction.

A barrier is tried at each place of each program. It forbids the old value if the order that it adds is a proof, by
`ordered_before`, that no run has it in which all other reads return what they did: a barrier that only changes what is
likely is never named. Where no single barrier does, one behind the newer store and one of the reader are tried
together. Nothing is returned where that does not help either: the two accesses race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.machine.memory.arm64.ordered_before import Executed, OrderedBefore
from fuzzvm.machine.ops import Address, Barrier, CacheMaintenance, CacheOperation, Fence, Fetch, Operation

Programs = Sequence[Sequence[Executed]]

MAX_PLACES = 400
"""Places to try; a run of more operations than that is left alone, for trying takes with its square."""

_BARRIERS = tuple((Fence(kind),) for kind in (Barrier.DMB_ISHLD, Barrier.DMB_ISHST, Barrier.DMB_ISH))
_SYNCHRONISING = ((Fence(Barrier.ISB),), (Fence(Barrier.DSB_ISH), Fence(Barrier.ISB)))


@dataclass(frozen=True, slots=True)
class Ordering:
    """Operations which would have forbidden it, anywhere on a CPU after one of its steps and before another.

    `after` is 0 where they may come before all that the CPU has done, and `before` where they may come last.
    """

    cpu: int
    operations: tuple[Operation, ...]
    after: int
    before: int


def forbidding(programs: Programs, step: int, newer: int) -> tuple[Ordering, ...]:
    """Return what would have forbidden what a load or fetch read, each part of it needed; () if nothing is known.

    `programs` is what each CPU executed up to `step`, the last of its CPU; `newer` the step of the newer store.
    """
    if sum(map(len, programs)) > MAX_PLACES or OrderedBefore(programs).excludes(step):
        return ()
    reader = _cpu_of(programs, step)
    writer = _cpu_of(programs, newer)
    others = [cpu for cpu in range(len(programs)) if cpu not in (reader, writer)]
    executed = programs[reader][-1].op
    for cpu in (reader, writer, *others):
        if found := _single(programs, step, cpu, _candidates(executed, reads=cpu == reader)):
            return (found,)
    if writer == reader:
        return ()
    # the strongest behind the store, to see what the reader needs; then the weakest that will do with that
    place = [one.step for one in programs[writer]].index(newer) + 1
    strongest = _candidates(executed, reads=False)[-1]
    with_writer = _inserted(programs, writer, place, strongest)
    for_reader = _single(with_writer, step, reader, _candidates(executed, reads=True))
    if for_reader is None:
        return ()
    at = len(programs[reader]) - 1
    with_reader = _inserted(programs, reader, at, for_reader.operations)
    for_writer = _single(with_reader, step, writer, _candidates(executed, reads=False))
    assert for_writer is not None, "the strongest does, at that place"
    return for_writer, for_reader


def _cpu_of(programs: Programs, step: int) -> int:
    return next(cpu for cpu, program in enumerate(programs) if any(one.step == step for one in program))


def _candidates(executed: Operation, *, reads: bool) -> tuple[tuple[Operation, ...], ...]:
    """Return what to try on the CPU that reads, or on another; the strongest comes last."""
    if not isinstance(executed, Fetch):
        return _BARRIERS
    if reads:
        return _SYNCHRONISING
    return _maintenance(executed.address)


def _maintenance(address: Address) -> tuple[tuple[Operation, ...], ...]:
    clean = CacheMaintenance(CacheOperation.DC_CVAU, address)
    invalidate = CacheMaintenance(CacheOperation.IC_IVAU, address)
    wait = Fence(Barrier.DSB_ISH)
    return (
        *((wait,), (clean,), (invalidate,)),
        *((clean, wait), (invalidate, wait), (clean, wait, invalidate, wait)),
    )


def _single(programs: Programs, step: int, cpu: int, candidates: Sequence[tuple[Operation, ...]]) -> Ordering | None:
    """Return the first of the candidates that forbids it somewhere on a CPU, with all the places in a row."""
    steps = [one.step for one in programs[cpu]]
    places = range(steps.index(step) + 1 if step in steps else len(steps) + 1)
    for operations in candidates:
        good = [place for place in places if _excludes(programs, step, cpu, place, operations)]
        if good:
            # the last ones in a row: the closest to the read, or to what tells of the store
            first = last = good[-1]
            while first - 1 in good:
                first -= 1
            return Ordering(cpu, operations, steps[first - 1] if first else 0, steps[last] if last < len(steps) else 0)
    return None


def _excludes(programs: Programs, step: int, cpu: int, place: int, operations: tuple[Operation, ...]) -> bool:
    return OrderedBefore(_inserted(programs, cpu, place, operations)).excludes(step)


def _inserted(programs: Programs, cpu: int, place: int, operations: tuple[Operation, ...]) -> Programs:
    program = programs[cpu]
    # what is inserted reads and stores nothing, so that nobody asks for its step
    more = [Executed(0, operation) for operation in operations]
    return [*programs[:cpu], [*program[:place], *more, *program[place:]], *programs[cpu + 1 :]]
