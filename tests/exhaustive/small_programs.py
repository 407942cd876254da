"""Small programs on bare words, as litmus tests have, as tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import mk_table, table_pointed_to
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Address,
    Await,
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
    Steps,
    Store,
)
from fuzzvm.machine.task import Task

WORDS = 4
MOST_CPUS = 3


def allocate_words(machine: Machine) -> tuple[Address, ...]:
    """Return the addresses of `WORDS` new words, and of one more for what CPUs have seen."""
    return tuple(machine.allocate(MOST_CPUS, f"word {number}") for number in range(WORDS + 1))


@dataclass(frozen=True, slots=True)
class Add:
    """Adds to what is an integer."""

    number: int

    def __call__(self, old: Any) -> Any:
        return old + self.number if isinstance(old, int) and old < 8 else old


@dataclass(frozen=True, slots=True)
class IsPositive:
    def __call__(self, value: Any) -> bool:
        return bool(value)

    def blocked_by(self, value: Any) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Put:
    """Replaces whatever is there."""

    value: Any

    def __call__(self, old: Any) -> Any:
        return self.value


def leave(cpu: int, seen: tuple[Any, ...], results: Address, *, stored: bool) -> Operation:
    """Return what leaves responses in memory for all to see: a store, or an atomic, after which nothing is pending."""
    return Store(results + cpu, seen) if stored else Rmw(results + cpu, Put(seen), Order.RELEASE)


def run(cpu: int, ops: tuple[Operation, ...], results: Address, stored: bool) -> Steps[None]:
    """Execute the operations, and leave the responses in memory."""
    seen: tuple[Any, ...] = ()
    index = 0
    while index < len(ops):
        response = yield ops[index]
        seen = (*seen, response)
        index += 1
    yield leave(cpu, seen, results, stored=stored)


class SmallTask(Task):
    """A task whose CPUs execute these operations, and then leave what they have seen; `stored` is for `leave`."""

    def __init__(
        self,
        memory: str,
        programs: Callable[[tuple[Address, ...]], Sequence[Sequence[Operation]]],
        *,
        stored: bool = True,
    ) -> None:
        cpus = len(programs(tuple(range(WORDS + 1))))
        machine = Machine(memory_models.get(memory)(cpus))
        machine.memory.points_to = table_pointed_to
        machine.allocate(1, "an object that nothing points to")
        words = allocate_words(machine)
        self.ops = [tuple(ops) for ops in programs(words)]
        runs = [partial(run, cpu, ops, words[WORDS], stored) for cpu, ops in enumerate(self.ops)]
        super().__init__(machine, list(map(GeneratorProgram, runs)))


Recipe = tuple[str, int, Any, Any]


def operation(recipe: Recipe, words: tuple[Address, ...]) -> Operation:
    """Return the operation of a recipe: kind, word, value or kind of barrier, ordering."""
    kind, word, value, order = recipe
    address = words[word]
    match kind:
        case "load":
            return Load(address, order if order in (Order.ACQUIRE, Order.ACQUIRE_PC) else Order.PLAIN)
        case "store":
            # a pointer to another word, so that loads through it depend on it
            stored = mk_table(words[value - 10]) if value >= 10 else value
            return Store(address, stored, order if order is Order.RELEASE else Order.PLAIN)
        case "rmw":
            return Rmw(address, Add(1), order, quiet=value == "quiet")
        case "cas":
            return Rmw(address, Put(1), order, expected=(value,))
        case "await":
            return Await(address, IsPositive(), Order.ACQUIRE)
        case "fence":
            return Fence(value)
        case "fetch":
            return Fetch(address)
        case "clean":
            return CacheMaintenance(CacheOperation.DC_CVAU, address)
        case "invalidate":
            return CacheMaintenance(CacheOperation.IC_IVAU, address)
    return InterruptAll()


WORD = st.integers(0, WORDS - 1)
ORDERS = st.sampled_from(list(Order))
RECIPES: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(st.just("load"), WORD, st.none(), ORDERS),
    st.tuples(st.just("load"), WORD, st.none(), ORDERS),
    st.tuples(st.just("store"), WORD, st.sampled_from([0, 1, 2, 10, 11, 12]), ORDERS),
    st.tuples(st.just("store"), WORD, st.sampled_from([1, 2]), ORDERS),
    st.tuples(st.just("rmw"), WORD, st.sampled_from([None, "quiet"]), ORDERS),
    st.tuples(st.just("cas"), WORD, st.sampled_from([0, 0, 1, 2]), ORDERS),
    st.tuples(st.just("fence"), WORD, st.sampled_from(list(Barrier)), st.none()),
    st.tuples(st.sampled_from(["await", "kick"]), WORD, st.none(), st.none()),
)
CODE = st.integers(0, 1)
PATCHES: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(st.sampled_from(["fetch", "fetch", "clean", "invalidate"]), CODE, st.none(), st.none()),
    st.tuples(st.just("store"), CODE, st.sampled_from([1, 2]), ORDERS),
    st.tuples(st.just("fence"), CODE, st.sampled_from([Barrier.DSB_ISH, Barrier.DSB_ISH, Barrier.ISB]), st.none()),
    st.tuples(st.just("load"), st.integers(2, 3), st.none(), ORDERS),
    st.tuples(st.just("store"), st.integers(2, 3), st.sampled_from([1, 2]), ORDERS),
    st.tuples(st.just("kick"), CODE, st.none(), st.none()),
)


def programs(recipes: st.SearchStrategy[Recipe], most: int) -> st.SearchStrategy[list[list[Recipe]]]:
    """Return programs for two or three CPUs with up to that many operations in all."""

    def cut(lists: list[list[Recipe]]) -> list[list[Recipe]]:
        return [ops[: max(1, most // len(lists))] for ops in lists]

    return st.lists(st.lists(recipes, min_size=1, max_size=most), min_size=2, max_size=3).map(cut)


def small_task(memory: str, lists: list[list[Recipe]], *, stored: bool = True) -> SmallTask:
    """Return the task of some recipes."""
    return SmallTask(
        memory, lambda words: [[operation(recipe, words) for recipe in ops] for ops in lists], stored=stored
    )
