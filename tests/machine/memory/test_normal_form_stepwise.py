"""Memory in normal form after each step beside memory that remembers everything: no step tells them apart.

Programs are lists of operations on objects of two locations each, so that pointers lead to more than what they were
loaded for, and what each CPU may still do is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive.stepped import every_way
from fuzzvm.machine.memory import Choose, Needs
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.memory.arm64.comparisons import Reach
from fuzzvm.machine.ops import (
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    address_of,
    object_of,
)
from tests.exhaustive.small_programs import IsPositive, Put

OBJECTS, LOCATIONS = 3, 2
ADDRESSES = [address_of(number, offset) for number in range(1, OBJECTS + 1) for offset in range(LOCATIONS)]
POINTERS = [address_of(number) for number in range(1, OBJECTS + 1)]
MOST = 1500
"""Pairs of states that are looked at of one system of programs."""


@dataclass(frozen=True)
class Look:
    """An oracle asks what the CPU may read, anywhere."""


Step = Operation | Look
AT = st.sampled_from(ADDRESSES)
VALUES = st.sampled_from([1, 2, *POINTERS])
ATOMICS = st.builds(Rmw, AT, st.builds(Put, VALUES), st.sampled_from(list(Order)))
LOADS = st.builds(Load, AT)
ACQUIRES = st.builds(Load, AT, st.sampled_from([Order.ACQUIRE, Order.ACQUIRE_PC]))
WAITS = st.builds(Await, AT, st.just(IsPositive()), st.sampled_from([Order.PLAIN, Order.ACQUIRE]))
STORES = st.builds(Store, AT, VALUES, st.sampled_from([Order.PLAIN, Order.PLAIN, Order.RELEASE]))
ORDERS_STORES = st.builds(Fence, st.sampled_from([Barrier.DMB_ISHST, Barrier.DSB_ISHST]))
FENCES = st.builds(Fence, st.sampled_from(list(Barrier)))
FREES = st.builds(Free, st.sampled_from(POINTERS))
READER = st.one_of(LOADS, LOADS, LOADS, ACQUIRES, ATOMICS, WAITS, ORDERS_STORES, FREES, st.just(Look()))
WRITER = st.one_of(STORES, STORES, STORES, ORDERS_STORES, FENCES, LOADS, ATOMICS, st.just(InterruptAll()))
MAINTENANCE = st.builds(CacheMaintenance, st.sampled_from(list(CacheOperation)), st.sampled_from(ADDRESSES[:2]))
PATCHER = st.one_of(
    st.builds(Fetch, st.sampled_from(ADDRESSES[:2])), MAINTENANCE, STORES, LOADS, FENCES, st.just(InterruptAll())
)


def points_to(value: Any) -> int:
    return object_of(value) if value in POINTERS else 0


def needs(steps: Sequence[Step]) -> Needs:
    """Return what a CPU needs that executes these steps and no others."""
    looks = any(isinstance(step, Look) for step in steps)
    loads = {step.address for step in steps if isinstance(step, Load)} | (set(ADDRESSES) if looks else set())
    reads = loads | {step.address for step in steps if isinstance(step, Await | Rmw)}
    ordering = {
        step.address
        for step in steps
        if isinstance(step, Rmw) or (isinstance(step, Load | Await) and step.order is not Order.PLAIN)
    }
    overtakes = False
    for step in steps:
        if not isinstance(step, Look):
            if Arm64.orders_loads(step):
                break
            overtakes |= isinstance(step, Store | Rmw)
    return Needs(
        frozenset(loads),
        frozenset(reads),
        frozenset(step.address for step in steps if isinstance(step, Fetch)),
        frozenset(ordering),
        frozenset(object_of(step.address) for step in steps if isinstance(step, Free)),
        frozenset(step.kind for step in steps if isinstance(step, Fence)),
        any(isinstance(step, Store) for step in steps),
        overtakes,
    )


def perform(memory: Arm64, cpu: int, step: Step, choose: Choose) -> Any:
    """Execute a step, and return all that may be seen of it."""
    match step:
        case Load() | Await():
            return memory.load(cpu, step, choose)
        case Store():
            return memory.store(cpu, step, choose)  # type: ignore[func-returns-value]
        case Rmw():
            return memory.rmw(cpu, step, choose)
        case Fence():
            return memory.fence(cpu, step, choose)  # type: ignore[func-returns-value]
        case Fetch():
            return memory.fetch(cpu, step, choose)
        case Look():
            return [memory.readable(cpu, address) for address in ADDRESSES]
        case Free(address):
            others = [other for other in range(memory.cpus) if other != cpu]
            pending = [entry for other in others for entry in memory.buffered(other)]
            in_flight = [other for other in memory.in_flight(address) if other != cpu]
            return in_flight, [entry for entry in pending if object_of(entry[0]) == object_of(address)]
        case CacheMaintenance() | InterruptAll():
            return memory.maintain(cpu, step, choose)  # type: ignore[func-returns-value]
    raise AssertionError(step)


def alike(programs: Sequence[Sequence[Step]]) -> None:
    """Assert that memory in normal form goes every way that memory goes which remembers everything."""
    cpus = len(programs)
    wanted = [[needs(steps[place:]) for place in range(len(steps) + 1)] for steps in programs]
    raw = Arm64(cpus)
    raw.points_to = points_to
    start = (raw, raw.copy(), (0,) * cpus)
    seen = set()
    todo = [start]
    while todo and len(seen) < MOST:
        raw, normal, places = todo.pop()
        key = (raw.state(), normal.state(), places)
        if key in seen:
            continue
        seen.add(key)
        assert [raw.peek(address) for address in ADDRESSES] == [normal.peek(address) for address in ADDRESSES]
        assert raw.agents() == normal.agents()
        steps: list[tuple[tuple[int, ...], Callable[[Choose, Arm64], Any]]] = [
            (places, lambda choose, memory, agent=agent: memory.step(agent, choose))  # type: ignore[misc]
            for agent in raw.agents()
        ]
        for cpu, place in enumerate(places):
            if place == len(programs[cpu]):
                continue
            step = programs[cpu][place]
            if isinstance(step, Await):
                visible = [memory.visible(cpu, step.address) for memory in (raw, normal)]
                assert visible[0] == visible[1]
                if not visible[0]:
                    continue
            after = (*places[:cpu], place + 1, *places[cpu + 1 :])
            steps.append((after, lambda choose, memory, cpu=cpu, step=step: perform(memory, cpu, step, choose)))  # type: ignore[misc]
        for after, run in steps:
            found, images = [list(every_way(run, memory.copy)) for memory in (raw, normal)]
            assert [(choices, seen) for choices, _, seen in found] == [(choices, seen) for choices, _, seen in images]
            for (_, memory, _), (_, image, _) in zip(found, images, strict=True):
                image.normalise([wanted[cpu][place] for cpu, place in enumerate(after)])
                todo.append((memory, image, after))


def lists(steps: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[list[Step]]:
    return st.lists(steps, min_size=1, max_size=most)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.tuples(lists(WRITER), lists(READER)),
        st.tuples(lists(st.one_of(WRITER, READER)), lists(READER)),
        st.tuples(lists(WRITER, 2), lists(WRITER, 2), lists(READER, 3)),
        st.tuples(lists(PATCHER), lists(PATCHER)),
    )
)
def test_normal_forms_lose_nothing_and_invent_nothing(programs: tuple[list[Step], ...]) -> None:
    alike(programs)


def test_it_is_noticed_if_a_pointer_leads_to_one_location_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pointer is published after both locations that it leads to, one by one."""
    first, pointer, second = ADDRESSES[2], ADDRESSES[0], ADDRESSES[3]
    in_order = Fence(Barrier.DMB_ISHST)
    writes = [Store(first, 1), Store(second, 1), in_order, Store(pointer, POINTERS[1])]
    programs: list[list[Step]] = [[*writes], [Load(pointer), Load(first), Load(second)]]
    alike(programs)
    monkeypatch.setattr(Reach, "objects", lambda self, number: frozenset())
    with pytest.raises(AssertionError):
        alike(programs)


def test_it_is_noticed_if_a_store_that_overtakes_loads_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[list[Step]] = [[Load(ADDRESSES[0]), Store(ADDRESSES[2], 1)], [Load(ADDRESSES[2]), Free(POINTERS[0])]]
    alike(programs)
    monkeypatch.setitem(globals(), "needs", lambda steps, exact=needs: exact(steps)._replace(overtakes=False))
    with pytest.raises(AssertionError):
        alike(programs)
