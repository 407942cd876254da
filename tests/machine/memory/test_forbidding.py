"""Which barriers would have forbidden an old value: with them it is read in no run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from fuzzvm.machine.memory.arm64 import ordered_before
from fuzzvm.machine.memory.arm64.forbidding import Ordering, forbidding
from fuzzvm.machine.memory.arm64.ordered_before import OrderedBefore
from fuzzvm.machine.ops import (
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Value,
)
from tests.machine.memory.runs import CODE, X, Y, Z, executed, outcomes, random_run

Run = Sequence[tuple[int, int, Value, bool]]
Programs = Sequence[Sequence[Operation]]

DMB, DMB_LD, DMB_ST, DSB, ISB = (
    Fence(kind) for kind in (Barrier.DMB_ISH, Barrier.DMB_ISHLD, Barrier.DMB_ISHST, Barrier.DSB_ISH, Barrier.ISB)
)
DC, IC = CacheMaintenance(CacheOperation.DC_CVAU, CODE), CacheMaintenance(CacheOperation.IC_IVAU, CODE)


@dataclass(frozen=True)
class Swap:
    """Replaces what is there."""

    value: int

    def __call__(self, old: Value) -> Value:
        return self.value


def drawn(draw: random.Random, *, ipi: bool = False) -> Programs:
    """Draw programs of which no two stores write the same value.

    In most of them one CPU passes a message to another, or to one that passes it on, or each of two CPUs announces
    itself and looks at the other, with anything in between.
    """
    values = itertools.count(1)

    def op(address: int = 0) -> Operation:
        address = address or draw.choice((X, Y, Z))
        value = draw.choice((70, 71)) if address == Y and draw.random() < 0.3 else next(values)
        match draw.randrange(11):
            case 0 | 1 | 2 | 3:
                return Load(address, draw.choice((Order.PLAIN, Order.PLAIN, Order.ACQUIRE, Order.ACQUIRE_PC)))
            case 4 | 5 | 6:
                return Store(address, value, draw.choice((Order.PLAIN, Order.PLAIN, Order.RELEASE)))
            case 7:
                return Rmw(address, Swap(value), draw.choice([*list(Order)[1:], Order.PLAIN]))
        return Fence(draw.choice(list(Barrier)))

    def anything() -> list[Operation]:
        return [op() for _ in range(draw.choice((0, 0, 0, 1)))]

    def store(address: int) -> Operation:
        value = next(values)
        return draw.choice((Store(address, value), Store(address, value, Order.RELEASE), Rmw(address, Swap(value))))

    def load(address: int) -> Operation:
        return draw.choice((Load(address), Load(address, Order.ACQUIRE), Rmw(address, Swap(next(values)))))

    match draw.randrange(8):
        case 0 | 1:
            programs = [[op() for _ in range(draw.randint(1, 4))] for _ in range(draw.choice((2, 2, 2, 3)))]
        case 2 | 3 | 4:
            programs = [[store(X), *anything(), store(Y)], [load(Y), *anything(), Load(X)]]
        case 5 | 6:
            passes_on = [load(Y), *anything(), store(Z)]
            programs = [[store(X), *anything(), store(Y)], passes_on, [load(Z), *anything(), Load(X)]]
        case _:
            programs = [[store(X), load(X), *anything(), Load(Y)], [store(Y), load(Y), *anything(), Load(X)]]
    if ipi:
        for program in programs:
            if draw.random() < 0.3:
                program.insert(draw.randint(0, len(program)), InterruptAll())
    pointers = [op for program in programs for op in program if _written(op) in (70, 71)]
    return programs if len({_written(op) for op in pointers}) == len(pointers) else drawn(draw, ipi=ipi)


def _written(op: Operation) -> Value:
    return op.value if isinstance(op, Store) else op.update(0) if isinstance(op, Rmw) else None


def readings(programs: Programs, run: Run) -> list[tuple[int, list[list[ordered_before.Executed]], int]]:
    """Return of each old read of a run its step, all that was executed up to it, and the step of a newer store."""
    found = []
    for number, (cpu, place, value, old) in enumerate(run, 1):
        op = programs[cpu][place]
        if not old or not isinstance(op, Load | Fetch):
            continue
        stores = [
            (step, other)
            for step, (other, at, _, _) in enumerate(run[: number - 1], 1)
            if _written(programs[other][at]) not in (None, value) and programs[other][at].address == op.address  # type: ignore[union-attr]
        ]
        newer = [step for step, other in stores if other != cpu]
        if newer:
            found.append((number, executed(programs, run[:number]), newer[-1]))
    return found


def with_orderings(
    programs: Sequence[Sequence[ordered_before.Executed]], orderings: Sequence[Ordering], *, late: bool
) -> list[list[tuple[int, Operation]]]:
    """Return programs with the barriers as early, or as late, as was said: of each operation its step, 0 for those."""
    made: list[list[tuple[int, Operation]]] = [[(one.step, one.op) for one in program] for program in programs]
    for ordering in orderings:
        steps = [step for step, _ in made[ordering.cpu]]
        if late:
            place = steps.index(ordering.before) if ordering.before else len(steps)
        else:
            place = steps.index(ordering.after) + 1 if ordering.after else 0
        made[ordering.cpu][place:place] = [(0, op) for op in ordering.operations]
    return made


def assert_forbidden(
    programs: Sequence[Sequence[ordered_before.Executed]], run: Run, orderings: Sequence[Ordering]
) -> None:
    """Assert that with the barriers there is no run in which everything up to the old read is read as it was."""
    for late in (False, True):
        made = with_orderings(programs, orderings, late=late)
        wanted = tuple(tuple(run[step - 1][2] if step else None for step, _ in program) for program in made)
        assert wanted not in outcomes([[op for _, op in program] for program in made]), (made, wanted)
    # and that it is the barriers that do it
    plain = [[(one.step, one.op) for one in program] for program in programs]
    assert tuple(tuple(run[step - 1][2] for step, _ in program) for program in plain) in outcomes(
        [[op for _, op in program] for program in plain]
    )


def test_what_is_said_holds_in_every_run() -> None:
    draw = random.Random(1)
    said = 0
    for _ in range(1000):
        programs = drawn(draw)
        run = list(random_run(programs, draw))
        for step, before, newer in readings(programs, run):
            if orderings := forbidding(before, step, newer):
                said += 1
                assert_forbidden(before, run, orderings)
    assert said > 40


def test_no_run_contradicts_the_order() -> None:
    """Whatever a run reads, the order of its events has no cycle."""
    draw = random.Random(2)
    for _ in range(3000):
        programs = drawn(draw, ipi=True)
        run = list(random_run(programs, draw))
        order = OrderedBefore(executed(programs, run))
        for step, (cpu, place, _, _) in enumerate(run, 1):
            if isinstance(programs[cpu][place], Load | Fetch):
                assert not order.excludes(step), (programs, run)


def old_reads(programs: Programs, wanted: Sequence[Value], seed: int = 3) -> list[tuple[Run, tuple[Ordering, ...]]]:
    """Return what is said of the last load of the last CPU, in a run in which that CPU reads what is wanted."""
    draw = random.Random(seed)
    for _ in range(3000):
        run = list(random_run(programs, draw))
        read = [value for cpu, _, value, _ in run if cpu == len(programs) - 1 and value is not None]
        for step, before, newer in readings(programs, run):
            last = run[step - 1]
            if read == list(wanted) and last[0] == len(programs) - 1 and last[1] == len(programs[-1]) - 1:
                return [(run, forbidding(before, step, newer))]
    return []


def said(programs: Programs, wanted: Sequence[Value]) -> list[tuple[int, tuple[Operation, ...]]] | None:
    """Return the CPUs and barriers that are named; None where nothing that is wanted was read in any run."""
    found = old_reads(programs, wanted)
    return None if not found else [(one.cpu, one.operations) for one in found[0][1]]


STORE_X, STORE_Y = Store(X, 1), Store(Y, 2)
READ_X, READ_Y = Load(X), Load(Y)


@pytest.mark.parametrize(
    ("writer", "reader", "expected"),
    [
        # message passing: what is missing is named, where both are both
        ([STORE_X, DMB_ST, STORE_Y], [READ_Y, READ_X], [(1, (DMB_LD,))]),
        ([STORE_X, DMB, STORE_Y], [READ_Y, DMB_ST, READ_X], [(1, (DMB_LD,))]),
        ([STORE_X, Store(Y, 2, Order.RELEASE)], [READ_Y, READ_X], [(1, (DMB_LD,))]),
        ([STORE_X, DMB_ST, STORE_Y], [Load(Y, Order.ACQUIRE), READ_X], None),
        ([STORE_X, STORE_Y], [READ_Y, READ_X], [(0, (DMB_ST,)), (1, (DMB_LD,))]),
        # one after the other, and nothing tells the reader: a race
        ([STORE_X], [READ_X], []),
        ([STORE_X, DMB], [Store(Y, 3), READ_X], []),
    ],
)
def test_what_is_missing_is_named(
    writer: list[Operation], reader: list[Operation], expected: list[tuple[int, tuple[Operation, ...]]] | None
) -> None:
    wanted = [2, 0] if any(isinstance(op, Load) and op.address == Y for op in reader) else [0]
    assert said([writer, reader], wanted) == expected


def test_store_buffering_takes_a_full_barrier() -> None:
    """Each CPU announces itself and looks at the other one, as Dekker's lock does."""
    one = [Rmw(X, Swap(1), Order.ACQUIRE), DMB, Load(Y)]
    other = [Rmw(Y, Swap(2), Order.ACQUIRE), Load(X)]
    draw = random.Random(4)
    for _ in range(5000):
        run = list(random_run([one, other], draw))
        read = {(cpu, place): value for cpu, place, value, _ in run}
        old = readings([one, other], run)
        if read[0, 2] == 0 and read[1, 1] == 0 and old and run[-1][0] == 1:
            (step, before, newer), *_ = old
            assert [(found.cpu, found.operations) for found in forbidding(before, step, newer)] == [(1, (DMB,))]
            return
    raise AssertionError("no run in which neither sees the other")


PATCH = (DC, DSB, IC, DSB)


@pytest.mark.product
@pytest.mark.parametrize("kept", list(itertools.product((False, True), repeat=4)))
@pytest.mark.parametrize("synchronises", [(), (ISB,), (DSB, ISB)])
def test_what_a_patch_lacks_is_named(kept: tuple[bool, ...], synchronises: tuple[Operation, ...]) -> None:
    """The writer patches an instruction and says so; whoever hears of it and fetches the old one lacks something."""
    maintenance = [op for op, keep in zip(PATCH, kept, strict=True) if keep]
    writer = [Store(CODE, 1), *maintenance, DMB, Store(Y, 2)]
    reader = [Load(Y, Order.ACQUIRE), *synchronises, Fetch(CODE)]
    possible = any(read[1][0] == 2 and read[1][-1] == 0 for read in outcomes([writer, reader]))
    found = old_reads([writer, reader], [2, 0])
    assert bool(found) == possible
    for run, orderings in found:
        assert orderings, "something is missing"
        last = max(step for step, (cpu, _, _, _) in enumerate(run, 1) if cpu == 1)
        assert_forbidden(executed([writer, reader], run[:last]), run, orderings)
        if synchronises == (DSB, ISB) and sum(kept) == 3:
            (missing,) = [op for op, keep in zip(PATCH, kept, strict=True) if not keep]
            assert orderings[0].cpu == 0 and missing in orderings[0].operations
        if all(kept):
            assert [(one.cpu, one.operations) for one in orderings] == [(1, (DSB, ISB))]


def test_an_interrupt_is_a_place_in_every_program() -> None:
    """The reader has taken the interrupt, and fetches the old instruction for want of an IC."""
    writer = [Store(CODE, 1), DC, DSB, InterruptAll()]
    draw = random.Random(5)
    for _ in range(5000):
        run = list(random_run([writer, [Fetch(CODE)]], draw))
        old = readings([writer, [Fetch(CODE)]], run)
        if old and run[-1][0] == 1:
            (step, before, newer), *_ = old
            (found,) = forbidding(before, step, newer)
            assert (found.cpu, found.operations) == (0, (IC, DSB))
            return
    raise AssertionError("the old instruction is fetched in no run")
