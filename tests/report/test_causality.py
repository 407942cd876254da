"""Edges between CPUs, and happens-before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Fetch, InterruptAll, Load, Order, Rmw, Steps, Store, address_of
from fuzzvm.mitigations import registry
from fuzzvm.report.causality import READS, SYNCHRONISES, Causality, Edge
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.support import Follow, Seeded, start_machine

DATA, FLAG, LOCK = address_of(0), address_of(1), address_of(2)


def traced(*programs: Steps[None], agents: tuple[int, ...]) -> Causality:
    machine = start_machine(*programs, tracing=True)
    execute(machine, Follow(agents))
    return Causality(machine.trace or [])


def _writes(order: Order) -> Steps[None]:
    yield Store(DATA, 1)
    yield Store(FLAG, 1, order)


def _reads(order: Order) -> Steps[None]:
    yield Load(FLAG, order)
    yield Load(DATA)


def test_a_release_that_an_acquire_reads_orders_what_is_around_them() -> None:
    found = traced(_writes(Order.RELEASE), _reads(Order.ACQUIRE), agents=(0, 0, 1, 1))
    assert Edge(2, 3, SYNCHRONISES) in found.edges
    assert found.ordered(1, 4, 0) and found.ordered(2, 3, 0)
    assert not found.ordered(4, 1, 1)


def test_plain_accesses_order_nothing() -> None:
    for stores, loads in ((Order.PLAIN, Order.ACQUIRE), (Order.RELEASE, Order.PLAIN)):
        found = traced(_writes(stores), _reads(loads), agents=(0, 0, 1, 1))
        assert found.edges == [Edge(2, 3, READS), Edge(1, 4, READS)]
        assert not found.ordered(1, 4, 0)


def test_an_acquire_that_reads_something_else_orders_nothing() -> None:
    found = traced(_writes(Order.RELEASE), _reads(Order.ACQUIRE), agents=(1, 0, 0, 1))
    assert not found.ordered(2, 4, 0)


class _Add:
    def __init__(self, value: int) -> None:
        self._value = value

    def __call__(self, old: int) -> int:
        return old + self._value


def test_an_atomic_update_passes_on_the_release_that_it_follows() -> None:
    def update() -> Steps[None]:
        yield Rmw(FLAG, _Add(10))

    found = traced(_writes(Order.RELEASE), update(), _reads(Order.ACQUIRE), agents=(0, 0, 1, 2, 2))
    assert Edge(3, 4, SYNCHRONISES) in found.edges
    assert found.ordered(1, 5, 0)
    # the update itself has released nothing of its own
    assert not found.ordered(3, 5, 1)


def test_an_interrupt_orders_both_ways() -> None:
    def interrupts() -> Steps[None]:
        yield Store(DATA, 1)
        yield InterruptAll()
        yield Store(FLAG, 1)

    def other() -> Steps[None]:
        yield Store(LOCK, 1)
        yield Load(DATA)

    found = traced(interrupts(), other(), agents=(1, 0, 0, 1, 0))
    assert found.ordered(1, 5, 1) and found.ordered(2, 4, 0)
    assert not found.ordered(5, 4, 0)


def test_locks_order_what_they_protect() -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("mmap-lock-always"), "sc")
    for seed in range(20):
        machine = system.machine(tracing=True)
        execute(machine, Seeded(seed))
        trace = machine.trace or []
        found = Causality(trace)
        frees = [step.number for step in trace if step.cpu == 0 and "free_table" in step.stack]
        reads = [step.number for step in trace if step.cpu == 1 and "walk_page_range" in step.stack]
        for free in frees:
            for read in reads:
                assert found.ordered(free, read, 0) or found.ordered(read, free, 1)


@given(st.integers(0, 2**32), st.sampled_from(["sc", "tso", "arm64"]))
def test_happens_before_is_an_order_that_holds_the_program_order(seed: int, memory: str) -> None:
    machine = System(shipped.get("two-walkers"), registry.get("static-key"), memory).machine(tracing=True)
    execute(machine, Seeded(seed))
    trace = machine.trace or []
    found = Causality(trace)
    for edge in found.edges:
        assert edge.source < edge.target
    by_cpu: dict[int, int] = {}
    for step in trace:
        if step.op is None:
            continue
        before = by_cpu.get(step.cpu)
        assert before is None or found.ordered(before, step.number, step.cpu)
        by_cpu[step.cpu] = step.number
    for one in trace[:: max(1, len(trace) // 12)]:
        for other in trace[:: max(1, len(trace) // 12)]:
            if one.number < other.number and one.op is not None and other.op is not None:
                assert not found.ordered(other.number, one.number, other.cpu)


def test_a_fetch_of_patched_text_reads_and_orders_nothing() -> None:
    def fetch() -> Steps[None]:
        yield Fetch(FLAG)
        yield Load(DATA)

    found = traced(_writes(Order.RELEASE), fetch(), agents=(0, 0, 1, 1))
    assert Edge(2, 3, READS) in found.edges and not found.ordered(1, 4, 0)


def test_a_wait_reads_what_ended_it() -> None:
    class Set:
        def __call__(self, value: int) -> bool:
            return value == 1

        def blocked_by(self, value: int) -> tuple[int, ...]:
            return (0,)

    def waits() -> Steps[None]:
        yield Await(FLAG, Set(), Order.ACQUIRE)
        yield Load(DATA)

    machine: Machine = start_machine(_writes(Order.RELEASE), waits(), tracing=True)
    execute(machine, Follow((0, 0, 1, 1)))
    assert Causality(machine.trace or []).ordered(1, 4, 0)
