"""What TLBs may hold, held against a model in which every fill, and the moment of every invalidation, is a choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzzvm.machine.ops import Barrier, Tlbi
from fuzzvm.machine.tlb import (
    ConflictError,
    Entry,
    Invalidation,
    Reach,
    Scope,
    TlbRules,
    Tlbs,
    break_before_make,
    size_with_another_change,
)

ROOT, NEAR, FAR = 1, 2, 3
"""The root table, of two entries of four addresses each, and two tables of four entries of one address."""

COVERING = Scope(Reach.COVERING, Reach.COVERING)
OPERATIONS = {
    "all levels": COVERING,
    "last level": Scope(Reach.COVERING, Reach.NONE),
    "and all tables": Scope(Reach.COVERING, Reach.ALL),
    "all": Scope(Reach.ALL, Reach.ALL),
}


def never(one: Entry, other: Entry) -> str:
    return ""


@dataclass
class Memory:
    """Tables of a root with two levels: an entry is a table (an int below 10), an output address above, or 0."""

    cells: dict[tuple[int, int], int]
    root: Entry = field(default_factory=lambda: Entry(0, 8, 0, ROOT))

    def entries(self, pointer: Entry) -> Iterator[Entry]:
        size = (pointer.end - pointer.start) // (2 if pointer.table == ROOT else 4)
        for index in range(2 if pointer.table == ROOT else 4):
            value = self.cells.get((pointer.table, index), 0)
            if value:
                start = pointer.start + index * size
                if value < 10:
                    yield Entry(start, start + size, pointer.level + 1, value)
                else:
                    yield Entry(start, start + size, pointer.level + 1, 0, value)


class Hardware:
    """One CPU, whose every choice is tried: what it holds, and the invalidations that have not reached it yet."""

    State = tuple[frozenset[Entry], tuple[Invalidation, ...]]

    def __init__(self, cpu: int, rules: TlbRules, memory: Memory) -> None:
        self.cpu = cpu
        self.rules = rules
        self.memory = memory
        self.states: set[Hardware.State] = {(frozenset(), ())}
        self.run()

    def drop(self, held: frozenset[Entry], operation: str, address: int) -> frozenset[Entry]:
        scope = self.rules.operations[operation]

        def hit(entry: Entry) -> bool:
            reach = scope.tables if entry.table else scope.translations
            return reach is Reach.ALL or (reach is Reach.COVERING and entry.covers(address))

        return frozenset(entry for entry in held if not hit(entry))

    def run(self) -> None:
        """Take every state on by any number of fills, evictions, and invalidations that take effect early."""
        todo = list(self.states)
        while todo:
            held, coming = todo.pop()
            following = []
            for pointer in (self.memory.root, *(entry for entry in held if entry.table)):
                following += [(held | {entry}, coming) for entry in self.memory.entries(pointer)]
            following += [(held - {entry}, coming) for entry in held]
            for one in coming:
                rest = tuple(other for other in coming if other is not one)
                following.append((self.drop(held, one.operation, one.address), rest))
            for state in following:
                if state not in self.states:
                    self.states.add(state)
                    todo.append(state)

    def invalidate(self, cpu: int, operation: str, address: int) -> None:
        one = Invalidation(cpu, operation, address)
        if self.rules.broadcast:
            self.states = {(held, (*coming, one)) for held, coming in self.states}
        elif cpu == self.cpu:
            self.states = {(self.drop(held, operation, address), coming) for held, coming in self.states}
        self.run()

    def complete(self, cpu: int, *, synchronised: bool) -> None:
        """Let those invalidations of a CPU take effect that have not: all, or those that a DSB has waited for."""
        after = set()
        for held, coming in self.states:
            for one in coming:
                if one.cpu == cpu and one.synchronised >= synchronised:
                    held = self.drop(held, one.operation, one.address)
            after.add((held, tuple(one for one in coming if one.cpu != cpu or one.synchronised < synchronised)))
        self.states = after
        self.run()

    def dsb(self, cpu: int) -> None:
        if cpu != self.cpu:
            self.complete(cpu, synchronised=False)
        else:
            self.states = {
                (held, tuple(one._replace(synchronised=True) if one.cpu == cpu else one for one in coming))
                for held, coming in self.states
            }

    def isb(self, cpu: int) -> None:
        if cpu == self.cpu:
            self.complete(cpu, synchronised=True)

    def interrupted(self, cpu: int, queued: list[tuple[str, int]]) -> None:
        if self.rules.broadcast:
            if cpu != self.cpu:
                self.complete(self.cpu, synchronised=True)
            return
        for operation, address in queued:
            self.states = {(self.drop(held, operation, address), coming) for held, coming in self.states}
        self.run()


CPUS = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("root"), st.integers(0, 1), st.sampled_from([0, 0, NEAR, FAR, 10])),
    st.tuples(st.just("near"), st.integers(0, 1), st.sampled_from([0, 20])),
    st.tuples(st.just("far"), st.integers(0, 1), st.sampled_from([0, 30])),
    st.tuples(st.just("tlbi"), CPUS, st.tuples(st.sampled_from(sorted(OPERATIONS)), st.sampled_from([0, 1, 4]))),
    st.tuples(st.just("dsb"), CPUS, st.none()),
    st.tuples(st.just("isb"), CPUS, st.none()),
    st.tuples(st.just("ipi"), CPUS, st.none()),
)
FLUSH = [("root", 0, 0), ("tlbi", 0, ("all levels", 0)), ("dsb", 0, None), ("isb", 0, None)]
FLUSHED = st.integers(0, len(FLUSH)).map(lambda steps: FLUSH[:steps])
"""The beginning of a flush, so that what lies between its steps is tried often."""
ENDED_TWICE = [
    ("near", 0, 0),
    ("tlbi", 0, ("all levels", 0)),
    ("root", 0, 0),
    ("tlbi", 1, ("all levels", 0)),
    ("near", 0, 20),
    ("dsb", 1, None),
    ("isb", 1, None),
]
"""A copy that two invalidations end is filled again by a walk that only the later one ends."""
QUEUED_ONCE = [
    ("tlbi", 0, ("all levels", 0)),
    ("ipi", 0, None),
    ("root", 0, 0),
    ("ipi", 0, None),
]
"""An interrupt for something else, after one that was for an invalidation."""
LINKED = {(ROOT, 0): NEAR, (NEAR, 0): 20, (NEAR, 1): 21}


@settings(max_examples=300, deadline=None)
@given(st.booleans(), FLUSHED, st.lists(STEPS, max_size=8))
@example(True, [], ENDED_TWICE)
@example(False, [], QUEUED_ONCE)
def test_what_may_be_held_is_what_some_hardware_holds(
    broadcast: bool, first: list[tuple[str, int, object]], steps: list[tuple[str, int, object]]
) -> None:
    rules = TlbRules(OPERATIONS, broadcast, never)
    memory = Memory(dict(LINKED))
    tlbs = Tlbs(2, memory, rules)
    tlbs.fill()
    hardware = [Hardware(cpu, rules, memory) for cpu in range(2)]
    queued: list[list[tuple[str, int]]] = [[], []]
    for kind, which, what in first + steps:
        match kind, what:
            case (("root" | "near" | "far"), int()):
                table = {"root": ROOT, "near": NEAR, "far": FAR}[kind]
                memory.cells[table, which] = what
                tlbs.fill()
                for one in hardware:
                    one.run()
            case "tlbi", (str() as operation, int() as address):
                queued[which].append((operation, address))
                tlbs.invalidate(which, Tlbi(operation, address))
                for one in hardware:
                    one.invalidate(which, operation, address)
            case "dsb", _:
                tlbs.barrier(which, Barrier.DSB_ISH)
                for one in hardware if broadcast else ():
                    one.dsb(which)
            case "isb", _:
                tlbs.barrier(which, Barrier.ISB)
                for one in hardware if broadcast else ():
                    one.isb(which)
            case _:
                tlbs.interrupt_all(which)
                for one in hardware:
                    one.interrupted(which, queued[which])
                queued[which].clear()
        for cpu, one in enumerate(hardware):
            may_hold = {entry for entry, _ in tlbs.state.held[cpu]}
            contents = {held for held, _ in one.states}
            assert may_hold == frozenset().union(*contents)
            # any two of them at once, so what must not meet is found where it can meet
            for pair in combinations(may_hold, 2):
                assert any(held.issuperset(pair) for held in contents)


def tlbs(rules: TlbRules, cells: dict[tuple[int, int], int]) -> tuple[Tlbs, Memory]:
    memory = Memory(cells)
    made = Tlbs(2, memory, rules)
    made.fill()
    return made, memory


ARM = TlbRules(OPERATIONS, broadcast=True, conflict=break_before_make)
X86 = TlbRules(OPERATIONS, broadcast=False, conflict=size_with_another_change)


def holders(made: Tlbs, table: int = NEAR) -> set[int]:
    return {cpu for cpu, _, _ in made.leads_to(table)}


def test_an_invalidation_takes_a_dsb_and_for_its_own_cpu_an_isb() -> None:
    made, memory = tlbs(ARM, dict(LINKED))
    memory.cells[ROOT, 0] = 0
    made.fill()
    made.invalidate(0, Tlbi("all levels", 0))
    assert holders(made) == {0, 1}
    for kind in (Barrier.DSB_ISHST, Barrier.DMB_ISH, Barrier.DSB_ISHLD, Barrier.ISB):
        made.barrier(0, kind)
    made.barrier(1, Barrier.DSB_ISH)
    assert holders(made) == {0, 1}
    made.barrier(0, Barrier.DSB_ISH)
    assert holders(made) == {0}
    made.barrier(0, Barrier.ISB)
    assert holders(made) == set()


def test_what_is_valid_when_it_is_invalidated_is_filled_again() -> None:
    made, memory = tlbs(ARM, dict(LINKED))
    made.invalidate(0, Tlbi("all levels", 0))
    memory.cells[ROOT, 0] = 0
    made.fill()
    made.barrier(0, Barrier.DSB_ISH)
    made.barrier(0, Barrier.ISB)
    assert holders(made) == {0, 1}


def test_a_last_level_invalidation_leaves_walk_caches_alone() -> None:
    made, memory = tlbs(ARM, dict(LINKED))
    memory.cells |= {(ROOT, 0): 0, (NEAR, 0): 0}
    made.fill()
    made.invalidate(0, Tlbi("last level", 0))
    made.barrier(0, Barrier.DSB_ISH)
    made.barrier(0, Barrier.ISB)
    assert holders(made) == {0, 1}
    assert not made.translations(Entry(0, 1, 2, 0))


def test_without_broadcast_others_hold_it_until_they_are_interrupted() -> None:
    made, memory = tlbs(X86, dict(LINKED))
    memory.cells[ROOT, 0] = 0
    made.fill()
    made.invalidate(0, Tlbi("and all tables", 5))
    assert holders(made) == {1}
    made.interrupt_all(1)
    assert holders(made) == {1}
    made.interrupt_all(0)
    assert holders(made) == set()


def test_the_names_of_cpus_can_be_exchanged() -> None:
    made, memory = tlbs(ARM, dict(LINKED))
    memory.cells[ROOT, 0] = 0
    made.fill()
    made.invalidate(0, Tlbi("all levels", 0))
    made.barrier(0, Barrier.DSB_ISH)
    made.state = made.state.renamed((1, 0))
    assert holders(made) == {1}
    made.barrier(1, Barrier.ISB)
    assert holders(made) == set()


def test_a_block_over_a_table() -> None:
    made, memory = tlbs(ARM, {(ROOT, 0): NEAR})
    memory.cells[ROOT, 0] = 100
    with pytest.raises(ConflictError, match="a block and a table"):
        made.fill()
    made, memory = tlbs(X86, {(ROOT, 0): NEAR})
    memory.cells[ROOT, 0] = 100
    made.fill()


PAGE = Entry(4, 5, 2, 0, output=104)


@pytest.mark.parametrize(
    ("other", "arm", "x86"),
    [
        (PAGE, "", ""),
        (PAGE._replace(permissions=1), "", ""),
        (PAGE._replace(output=105), "translations to different output addresses", ""),
        (PAGE._replace(memory_type=1), "translations of different memory type", ""),
        (Entry(4, 8, 1, 0, output=104), "translations of different size", ""),
        (
            Entry(4, 8, 1, 0, output=108),
            "translations of different size",
            "translations of different size to different page frames",
        ),
        (
            Entry(4, 8, 1, 0, output=104, permissions=1),
            "translations of different size",
            "translations of different size and attributes",
        ),
        (PAGE._replace(contiguous=True), "translations with and without the contiguous bit", ""),
        (Entry(4, 8, 1, NEAR), "", ""),
    ],
)
def test_what_must_not_meet_a_page(other: Entry, arm: str, x86: str) -> None:
    assert (break_before_make(PAGE, other), break_before_make(other, PAGE)) == (arm, arm)
    assert (size_with_another_change(PAGE, other), size_with_another_change(other, PAGE)) == (x86, x86)


RANGE = Entry(4, 8, 2, 0, output=104, contiguous=True)


@pytest.mark.parametrize(
    ("page", "conflict"),
    [
        (Entry(5, 6, 2, 0, output=105, contiguous=True), ""),
        (Entry(5, 6, 2, 0, output=106, contiguous=True), "translations of one contiguous range that are not alike"),
        (
            Entry(5, 6, 2, 0, output=105, permissions=1, contiguous=True),
            "translations of one contiguous range that are not alike",
        ),
        (Entry(5, 6, 2, 0, output=105), "translations with and without the contiguous bit"),
    ],
)
def test_what_must_not_meet_a_contiguous_range(page: Entry, conflict: str) -> None:
    assert break_before_make(RANGE, page) == break_before_make(page, RANGE) == conflict
