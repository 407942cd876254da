"""Interleaving coverage: pairs of conflicting operations, and only those."""

from __future__ import annotations

from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Free, Load, Steps, Store, address_of
from fuzzvm.runs.coverage import Covering, InterleavingCoverage
from fuzzvm.runs.plans.plan import FollowPlan, Plan


def reader(address: int) -> Steps[None]:
    yield Load(address)


def writer(address: int) -> Steps[None]:
    yield Store(address, 1)


def freer(address: int) -> Steps[None]:
    yield Free(address)


def pairs(programs: list[Steps[None]], bursts: tuple[tuple[int, int], ...]) -> set[tuple[int, int]]:
    """Return who came before whom in each pair that a run of these bursts covers."""
    machine = Machine(SequentialConsistency(len(programs)))
    machine.allocate(4, "object")
    machine.start(programs)
    coverage = InterleavingCoverage()
    execute(machine, Covering(FollowPlan(Plan(bursts)), coverage))
    return {(first[0], second[0]) for first, second in coverage.current}


PLACE = address_of(0, 1)


def test_order_counts() -> None:
    assert pairs([reader(PLACE), writer(PLACE)], ((0, 1), (1, 1))) == {(0, 1)}
    assert pairs([reader(PLACE), writer(PLACE)], ((1, 1), (0, 1))) == {(1, 0)}


def test_two_reads_do_not_conflict() -> None:
    assert pairs([reader(PLACE), reader(PLACE)], ((0, 1), (1, 1))) == set()


def test_other_locations_do_not_conflict() -> None:
    assert pairs([reader(PLACE), writer(PLACE + 1)], ((0, 1), (1, 1))) == set()


def test_a_free_conflicts_with_every_access_to_the_object() -> None:
    assert pairs([reader(PLACE), freer(address_of(0))], ((0, 1), (1, 1))) == {(0, 1)}
