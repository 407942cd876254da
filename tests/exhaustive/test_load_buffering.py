"""What is called `excluded` adds no execution: random litmus programs, explored with load buffering and without it.

The explorer of litmus tests has load buffering and shares neither search nor analysis with kernel threads. Where
atomics are drawn that are no full barriers, the judge is the axiomatic oracle, told that an atomic takes place at once.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.load_buffering import LoadBuffering, load_buffering
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.exhaustive.verdict import verify
from fuzzvm.kernel.pgtable import mk_table, table_pointed_to
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Address,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Dependencies,
    Fence,
    Fetch,
    Load,
    Operation,
    Order,
    Rmw,
    Steps,
    Store,
)
from fuzzvm.machine.task import Task
from tests.exhaustive.small_programs import (
    RECIPES,
    WORDS,
    Add,
    Put,
    Recipe,
    SmallTask,
    allocate_words,
    programs,
    small_task,
)
from tests.litmus import test_random_programs as drawn
from tests.litmus.test_random_programs import Op, Program, by_axioms, by_litmus

Words = tuple[Address, ...]
Programs = list[list[Operation]]


def looked_at(programs: Callable[[Words], Sequence[Sequence[Operation]]]) -> tuple[LoadBuffering, set[tuple[int, ...]]]:
    """Return what is said of load buffering, and all that loads and locations may hold in the end without it."""
    words: list[Words] = []

    def kept(given: Words) -> Sequence[Sequence[Operation]]:
        words.append(given)
        return programs(given)

    task = SmallTask("arm64", kept, stored=False)
    space = Space(task, fast=False)
    found = space.settled(lambda: search(space, Limits(max_states=100_000), first_only=False))
    assert found.complete and not found.findings
    shared = space.shared
    assert isinstance(shared, SteppedShared)
    said = load_buffering(space, complete=True)
    assert said is not None
    results = words[-1][WORDS]
    ends = set()
    for state in found.ends:
        memory = shared.memory(state & SHARED_MASK)
        seen = [
            value
            for cpu, ops in enumerate(task.ops)
            for op, value in zip(ops, memory.peek(results + cpu), strict=True)  # type: ignore[arg-type]
            if isinstance(op, Load | Rmw)
        ]
        ends.add((*seen, memory.peek(words[-1][0]), memory.peek(words[-1][1])))
    return said, ends  # type: ignore[return-value]


# As operations of kernel threads


def operations(thread: list[Op], words: Words, *, exact: bool) -> list[Operation]:
    """Return a drawn thread as operations, with what each depends on where `exact`."""
    found: list[Operation] = []
    for index, op in enumerate(thread):
        depends = None
        if exact:
            on = frozenset() if op.after is None else frozenset({op.after})
            depends = Dependencies(
                address=on if op.dependency == "addr" else frozenset(),
                data=on if op.dependency == "data" else frozenset(),
                control=on if op.dependency == "ctrl" else frozenset(),
                token=index if op.kind in "RX" else -1,
                # all that was loaded is stored in the end
                live=frozenset(at for at in range(index + 1) if thread[at].kind in "RX"),
            )
        address = words[0 if op.location == "x" else 1]
        match op.kind:
            case "R":
                found.append(Load(address, op.order, depends=depends))
            case "W":
                found.append(Store(address, op.value, op.order, depends=depends))
            case "X":
                found.append(Rmw(address, Put(op.value), op.order, depends=depends))
            case _:
                assert op.barrier is not None
                found.append(Fence(op.barrier, depends=depends))
    return found


def as_kernel_threads(program: Program, *, exact: bool = True) -> tuple[LoadBuffering, set[tuple[int, ...]]]:
    """Return what is said of a drawn program, and its outcomes as `by_litmus` has them."""
    return looked_at(lambda words: [operations(thread, words, exact=exact) for thread in program])


# Random programs


def draw(chance: random.Random, *, atomics: Sequence[Order], dependencies: bool) -> Program:
    """Return a random program of two or three threads; each store has a value of its own.

    In half of them two threads load one location and later store to the other: load buffering, where nothing in
    between orders the two.
    """
    values = itertools.count(1)
    crossed = chance.random() < 0.5
    program = []
    for cpu in range(chance.choice((2, 2, 3))):
        begins, ends = ("R" + "xy"[cpu], "W" + "yx"[cpu]) if crossed and cpu < 2 else ("", "")
        middle = ["", *(["FRWX"] if begins else ["RF", "RWX", "WWF"])]
        shapes = [begins, *(chance.choice(middle) for _ in range(chance.choice((0, 0, 1, 2)) if begins else 2)), ends]
        program.append(
            _thread(chance, [shape for shape in shapes if shape], values, atomics, dependencies=dependencies)
        )
    return [thread for thread in program if thread] or draw(chance, atomics=atomics, dependencies=dependencies)


def _thread(
    chance: random.Random,
    shapes: list[str],
    values: itertools.count[int],
    atomics: Sequence[Order],
    *,
    dependencies: bool,
) -> list[Op]:
    thread: list[Op] = []
    for index, shape in enumerate(shapes):
        given = shape[-1] if shape[-1] in "xy" else ""
        kind = chance.choice(shape.strip("xy"))
        if given and chance.random() < 0.15:
            kind = "X"
        location = given or chance.choice("xy")
        loads = [at for at in range(index) if thread[at].kind in "RX"]
        dependency, after = "", None
        if dependencies and loads and kind in "RW" and chance.random() < 0.3:
            dependency = chance.choice(("addr", "ctrl", "data") if kind == "W" else ("addr", "ctrl"))
            after = chance.choice(loads)
        plain = dependency == "addr" or chance.random() < 0.85
        match kind:
            case "R":
                order = Order.PLAIN if plain else chance.choice((Order.ACQUIRE, Order.ACQUIRE_PC))
                thread.append(Op("R", location, 0, order, None, after, dependency))
            case "W":
                order = Order.PLAIN if plain else Order.RELEASE
                thread.append(Op("W", location, next(values), order, None, after, dependency))
            case "X":
                thread.append(Op("X", location, next(values), chance.choice(list(atomics))))
            case _:
                thread.append(Op("F", barrier=chance.choice(list(drawn.BARRIERS))))
    return thread


def at_once(program: Program) -> set[tuple[int, ...]]:
    """Return the outcomes by the axioms, where no later store is seen before an atomic that precedes it."""

    def ordered(a: drawn.Event, b: drawn.Event, thread: list[Op]) -> bool:
        return local_order(a, b, thread) or (a.op.kind == "X" and a.kind == b.kind == "W")

    local_order = drawn.local_order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "local_order", ordered)
        return by_axioms(program)


FULL = (Order.ACQUIRE_RELEASE,)
ANY = (Order.PLAIN, Order.ACQUIRE, Order.RELEASE, Order.ACQUIRE_RELEASE)
KINDS = {
    "dependencies": (lambda chance: draw(chance, atomics=FULL, dependencies=True), by_litmus, True),
    "generators": (lambda chance: draw(chance, atomics=FULL, dependencies=False), by_litmus, False),
    "atomics": (lambda chance: draw(chance, atomics=ANY, dependencies=True), at_once, True),
}
"""How programs are drawn, who judges, and whether operations say what they depend on."""


def judged(kind: str, programs: int, seed: int = 0) -> tuple[int, int]:
    """Compare; return how many programs were excluded, and how many load buffering really adds outcomes to."""
    make, judge, exact = KINDS[kind]
    chance = random.Random(f"{kind} {seed}")
    excluded = affected = 0
    for _ in range(programs):
        program = make(chance)
        said, without = as_kernel_threads(program, exact=exact)
        everything = judge(program)
        assert without <= everything, program
        if said.excluded:
            excluded += 1
            assert without == everything, program
        affected += without != everything
    return excluded, affected


@pytest.mark.always
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_excluded_adds_no_outcome(kind: str) -> None:
    excluded, affected = judged(kind, 10)
    assert excluded and affected


# Small programs by hand


def named(token: int = 0) -> Dependencies:
    return Dependencies(token=token, live=frozenset({token}))


ON_LOAD = frozenset({0})
NOTHING = Dependencies()


def crossed(*between: Operation, load: Order = Order.PLAIN, store: Order = Order.PLAIN) -> Callable[[Words], Programs]:
    """Return load buffering with the same in between on both sides."""
    return lambda words: [
        [Load(words[0], load), *between, Store(words[1], 1, store)],
        [Load(words[1], load), *between, Store(words[0], 1, store)],
    ]


def crossed_with(
    depends: Dependencies, *between: Operation, loaded: Dependencies | None = None
) -> Callable[[Words], Programs]:
    """Return load buffering whose stores depend on the loads in a way."""
    return lambda words: [
        [Load(words[first], depends=loaded or named()), *between, Store(words[1 - first], 1, depends=depends)]
        for first in (0, 1)
    ]


def three_cpus(last: Order) -> Callable[[Words], Programs]:
    """Return a cycle through three CPUs, which acquires close but for that of the last one."""
    return lambda words: [
        [Load(words[0], Order.ACQUIRE), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[2], 1)],
        [Load(words[2], last), Store(words[0], 1)],
    ]


def coherence(load: Order) -> Callable[[Words], Programs]:
    """Return the test S: a store is overwritten by what its CPU has waited to be told of. No cycle of po and rf."""
    return lambda words: [
        [Store(words[0], 2), Fence(Barrier.DMB_ISH), Store(words[1], 1)],
        [Load(words[1], load), Store(words[0], 1)],
    ]


def from_reads(load: Order) -> Callable[[Words], Programs]:
    """Return a cycle that goes through a load of an old value."""
    return lambda words: [
        [Load(words[0], load), Store(words[1], 1)],
        [Store(words[1], 2), Fence(Barrier.DMB_ISH), Load(words[2])],
        [Store(words[2], 1), Fence(Barrier.DMB_ISH), Store(words[0], 1)],
    ]


@dataclass(frozen=True, slots=True)
class IsFree:
    """Holds while nobody has a lock."""

    def __call__(self, value: object) -> bool:
        return value == 0

    def blocked_by(self, value: object) -> tuple[int, ...]:
        return ()


def locked(first: int, second: int, *, stored: bool = False) -> Callable[[Words], Programs]:
    """Return load buffering in two sections, each of the lock in some word, which is `stored` to besides."""
    return lambda words: [
        [
            Rmw(words[lock], Put(1), Order.ACQUIRE, IsFree()),
            Load(words[cpu]),
            Store(words[1 - cpu], 1),
            Rmw(words[lock], Put(0), Order.RELEASE),
            *([Store(words[lock], 0)] if stored else []),
        ]
        for cpu, lock in enumerate((first, second))
    ]


def through_atomic(order: Order) -> Callable[[Words], Programs]:
    """Return load buffering where an atomic is the store of one CPU."""
    return lambda words: [
        [Load(words[0]), Rmw(words[1], Put(1), order)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def by_failing_swap(words: Words) -> Programs:
    return [
        [Rmw(words[0], Put(3), expected=(2,)), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def unrelated(words: Words) -> Programs:
    """Return early pairs that nothing closes a cycle through: nobody else loads what the first CPU stores."""
    return [[Load(words[0]), Store(words[1], 1)], [Load(words[2]), Store(words[0], 1)]]


def through_pointer(loaded: int) -> Callable[[Words], Programs]:
    """Return a load of a pointer, a load of some word, and a store: it waits for the address that the load is from."""
    return lambda words: [
        [Store(words[0], mk_table(words[2])), Load(words[0]), Load(words[loaded]), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], mk_table(words[2]))],
    ]


def name_given_again(words: Words) -> Programs:
    """Return load buffering whose stores depend on another load, which has got the first one's name."""
    return [
        [
            Load(words[first], depends=named()),
            Load(words[2], depends=named()),
            Store(words[1 - first], 1, depends=Dependencies(data=ON_LOAD)),
        ]
        for first in (0, 1)
    ]


def sealed(words: Words) -> Programs:
    """Return a release between load and store whose location the store writes again."""
    return [
        [Load(words[0]), Store(words[1], 1, Order.RELEASE), Store(words[1], 2)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def released_and_acquired(between: Order) -> Callable[[Words], Programs]:
    """Return a release and a load of some order between load and store."""
    return lambda words: [
        [Load(words[0]), Store(words[2], 1, Order.RELEASE), Load(words[3], between), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def behind_atomic(order: Order) -> Callable[[Words], Programs]:
    """Return an atomic between load and store: where it is behind the load, so is the store."""
    return lambda words: [
        [Load(words[0]), Rmw(words[2], Put(1), order), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def behind_private_store(words: Words) -> Programs:
    """Return a store of what was loaded to memory of the CPU's own, for which an atomic stands that changes nothing."""
    return [
        [
            Load(words[0], depends=named()),
            Rmw(words[2], Add(0), quiet=True, depends=Dependencies(data=ON_LOAD, live=ON_LOAD)),
            Store(words[1], 1, depends=Dependencies(live=ON_LOAD)),
        ],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def published(kind: Barrier) -> Callable[[Words], Programs]:
    """Return an ordered store between load and store, and a barrier for stores behind it."""
    return lambda words: [
        [Load(words[0]), Store(words[2], 1, Order.RELEASE), Fence(kind), Store(words[1], 1)],
        [Load(words[1], Order.ACQUIRE), Store(words[0], 1)],
    ]


def cleaned(*between: Operation) -> Callable[[Words], Programs]:
    """Return cache maintenance that may take place before a load: acquires do not hold it back."""
    return lambda words: [
        [Load(words[0], Order.ACQUIRE), *between, CacheMaintenance(CacheOperation.IC_IVAU, words[1])],
        [Fetch(words[1]), Store(words[0], 1)],
    ]


EXCLUDED = {
    "acquire": crossed(load=Order.ACQUIRE),
    "acquire, PC": crossed(load=Order.ACQUIRE_PC),
    "release": crossed(store=Order.RELEASE),
    "dmb": crossed(Fence(Barrier.DMB_ISH)),
    "dmb ld": crossed(Fence(Barrier.DMB_ISHLD)),
    "dsb": crossed(Fence(Barrier.DSB_ISH)),
    "data": crossed_with(Dependencies(data=ON_LOAD)),
    "address": crossed_with(Dependencies(address=ON_LOAD)),
    "control": crossed_with(Dependencies(control=ON_LOAD)),
    "select": crossed_with(Dependencies(data_pick=ON_LOAD)),
    "branch before a barrier": crossed_with(NOTHING, Fence(Barrier.DMB_ISHST, depends=Dependencies(control=ON_LOAD))),
    "three CPUs": three_cpus(Order.ACQUIRE),
    "S": coherence(Order.ACQUIRE),
    "from-reads": from_reads(Order.ACQUIRE),
    "behind an atomic, release": behind_atomic(Order.RELEASE),
    "one lock": locked(2, 2),
    "nothing depends on it": crossed_with(NOTHING, loaded=Dependencies(token=0)),
    "atomic, release": through_atomic(Order.RELEASE),
    "nobody loads it": unrelated,
    "pointer": through_pointer(2),
    "sealed": sealed,
    "release, acquire": released_and_acquired(Order.ACQUIRE),
    "ordered store, dmb st": published(Barrier.DMB_ISHST),
    "ordered store, dsb st": published(Barrier.DSB_ISHST),
    "maintenance, dsb": cleaned(Fence(Barrier.DSB_ISH)),
}
NOT_EXCLUDED = {
    "plain": crossed(),
    "dmb st": crossed(Fence(Barrier.DMB_ISHST)),
    "dsb st": crossed(Fence(Barrier.DSB_ISHST)),
    "isb": crossed(Fence(Barrier.ISB)),
    "no dependency": crossed_with(Dependencies(live=ON_LOAD)),
    "the name was given again": name_given_again,
    "pointer to something else": through_pointer(3),
    "three CPUs": three_cpus(Order.PLAIN),
    "S": coherence(Order.PLAIN),
    "from-reads": from_reads(Order.PLAIN),
    "behind an atomic": behind_atomic(Order.ACQUIRE),
    "two locks": locked(2, 3),
    "a lock and a plain store to its word": locked(2, 2, stored=True),
    "atomic": through_atomic(Order.ACQUIRE),
    "compare-and-swap that fails": by_failing_swap,
    "release, acquire PC": released_and_acquired(Order.ACQUIRE_PC),
    "maintenance": cleaned(Fence(Barrier.DMB_ISHLD)),
    "behind a store to private memory": behind_private_store,
}


@pytest.mark.parametrize("name", EXCLUDED)
def test_excluded(name: str) -> None:
    said, _ = looked_at(EXCLUDED[name])
    assert said.in_words == "excluded", said.pairs


@pytest.mark.always
@pytest.mark.parametrize("name", NOT_EXCLUDED)
def test_not_excluded(name: str) -> None:
    said, _ = looked_at(NOT_EXCLUDED[name])
    assert said.in_words == "not excluded"


def test_the_pair_is_named_by_cpu_and_line() -> None:
    said, _ = looked_at(three_cpus(Order.PLAIN))
    assert [(pair.cpu, pair.load.function, pair.store.function) for pair in said.pairs] == [(2, "run", "run")]


def branching(cpu: int, words: Words, *, alike: bool) -> Steps[None]:
    """Load one word and store to the other, if that has been stored to or in any case."""
    value = yield Load(words[cpu])
    if value or alike:
        yield Store(words[1 - cpu], 1)
    yield Load(words[2])


def starting(cpu: int, words: Words) -> Steps[None]:
    """Let the others go on."""
    yield Store(words[0], 1)


@pytest.mark.parametrize("alike", [False, True])
def test_a_generator_that_goes_on_elsewhere_has_branched(alike: bool) -> None:
    machine = Machine(memory_models.get("arm64")(3))
    words = allocate_words(machine)
    machine.memory.points_to = table_pointed_to
    runs = [*(partial(branching, cpu, words, alike=alike) for cpu in range(2)), partial(starting, 2, words)]
    found = verify(Task(machine, list(map(GeneratorProgram, runs)))).load_buffering
    assert found is not None
    assert found.excluded is not alike


def both_ways(cpu: int, words: Words, *, first: int) -> Steps[None]:
    """Load one word and store to the other on both ways of a branch, from which on one of them does more."""
    value = yield Load(words[cpu])
    if value:
        yield Store(words[1 - cpu], 1)
        yield Load(words[2])
    else:
        yield Store(words[1 - cpu], first)


@pytest.mark.always
@pytest.mark.parametrize("first", [1, 2])
def test_what_both_ways_of_a_branch_begin_with_does_not_wait_for_it(first: int) -> None:
    """A compiler may take it out of both (Documentation/memory-barriers.txt, CONTROL DEPENDENCIES)."""
    machine = Machine(memory_models.get("arm64")(3))
    words = allocate_words(machine)
    machine.memory.points_to = table_pointed_to
    runs = [*(partial(both_ways, cpu, words, first=first) for cpu in range(2)), partial(starting, 2, words)]
    found = verify(Task(machine, list(map(GeneratorProgram, runs)))).load_buffering
    assert found is not None
    assert found.excluded is (first != 1)


def calling(cpu: int, words: Words) -> Steps[None]:
    """Load a word, hand what it says to a function that stores it, and store to another."""
    value = yield Load(words[0], depends=Dependencies(token=0))
    yield from stood_for(words[2], value)
    yield Store(words[1], 1, depends=NOTHING)


def stood_for(word: Address, value: int) -> Steps[None]:
    """Store a value, as a function of a boundary does, which does not say what its arguments depend on."""
    yield Store(word, value, depends=NOTHING)


def answering(words: Words) -> Steps[None]:
    """Store to the one word after a load of the other."""
    yield Load(words[1], Order.ACQUIRE)
    yield Store(words[0], 1)


@pytest.mark.always
def test_what_a_function_gets_that_is_stood_for_may_matter() -> None:
    machine = Machine(memory_models.get("arm64")(2))
    words = allocate_words(machine)
    machine.memory.points_to = table_pointed_to
    runs = [partial(calling, 0, words), partial(answering, words)]
    found = verify(Task(machine, list(map(GeneratorProgram, runs)))).load_buffering
    assert found is not None
    assert found.in_words == "not excluded"


def test_nothing_is_claimed_of_a_search_that_was_cut_and_nothing_is_said_under_stronger_memory() -> None:
    programs = crossed(load=Order.ACQUIRE)
    cut = verify(SmallTask("arm64", programs), Limits(max_states=3))
    assert cut.load_buffering is not None
    assert cut.load_buffering.in_words == "not looked at"
    bounded = verify(SmallTask("arm64", programs), preemptions=1)
    assert bounded.load_buffering is not None
    assert bounded.load_buffering.in_words == "not looked at"
    assert verify(SmallTask("arm64", programs)).load_buffering == LoadBuffering()
    for memory in ("sc", "tso"):
        assert verify(SmallTask(memory, programs)).load_buffering is None


@settings(max_examples=15, deadline=None)
@given(programs(RECIPES, 7))
def test_a_search_with_reductions_knows_all_that_cpus_do(lists: list[list[Recipe]]) -> None:
    """The proof is about all accesses of all runs; reductions leave out orders of steps."""
    space = Space(small_task("arm64", lists))
    reduced = space.settled(lambda: search_reduced(space, Limits(max_states=100_000), first_only=False))
    known = edges(space)
    every = space.settled(lambda: search(space, Limits(max_states=100_000), first_only=False))
    if not (reduced.findings or every.findings):
        assert edges(space) == known


def edges(space: Space) -> list[list[int]]:
    return [[len(node.edges) for node in automaton.nodes] for automaton in space.automata]
