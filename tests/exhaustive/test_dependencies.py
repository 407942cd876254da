"""What operations say that they depend on orders loads as AArch64 does, in runs and in states that forget."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.kernel.pgtable import mk_table
from fuzzvm.machine.ops import Address, Barrier, Dependencies, Fence, Load, Operation, Order, Rmw, Store
from tests.exhaustive.small_programs import WORDS, Add, Put, SmallTask

Program = list[Operation]
ON_FIRST = frozenset({0})
NAMED = Dependencies(token=0, live=ON_FIRST)
PLAIN = Dependencies(token=1, live=ON_FIRST)


def outcomes(programs: Sequence[Program], *, forget: bool, memory: str = "arm64") -> set[tuple[object, ...]]:
    """Return what the responses of the last CPU may be."""
    task = SmallTask(memory, lambda words: programs, stored=False)
    space = Space(task, forget=forget, fast=False)
    found = space.settled(lambda: search(space, Limits(max_states=20_000), first_only=False))
    assert found.complete and not found.findings
    assert isinstance(space.shared, SteppedShared)
    results = addresses()[WORDS] + len(programs) - 1
    return {space.shared.memory(state & SHARED_MASK).peek(results) for state in found.ends}  # type: ignore[misc]


def addresses() -> tuple[Address, ...]:
    seen: list[tuple[Address, ...]] = []

    def keep(words: tuple[Address, ...]) -> list[Program]:
        seen.append(words)
        return [[]]

    SmallTask("arm64", keep)
    return seen[-1]


X, Y, Z, *_ = addresses()
WRITER: Program = [Store(X, 1), Fence(Barrier.DMB_ISHST), Store(Y, 1)]


def load(address: Address, depends: Dependencies) -> Load:
    return Load(address, depends=depends)


READERS: dict[str, tuple[Program, bool]] = {
    "po": ([load(Y, NAMED), load(X, PLAIN)], True),
    "addr": ([load(Y, NAMED), load(X, PLAIN._replace(address=ON_FIRST))], False),
    "ctrl": ([load(Y, NAMED), load(X, PLAIN._replace(control=ON_FIRST))], True),
    "isb": ([load(Y, NAMED), Fence(Barrier.ISB, depends=PLAIN._replace(token=-1)), load(X, PLAIN)], True),
    "ctrl+isb": (
        [load(Y, NAMED), Fence(Barrier.ISB, depends=Dependencies(control=ON_FIRST)), load(X, PLAIN)],
        False,
    ),
    # a branch long before the ISB
    "ctrl+load+isb": (
        [load(Y, NAMED), load(Z, PLAIN._replace(control=ON_FIRST)), Fence(Barrier.ISB), load(X, PLAIN)],
        False,
    ),
    # what is stored and read back carries the dependency
    "data+rfi+addr": (
        [
            load(Y, NAMED),
            Store(Z, 1, depends=Dependencies(data=ON_FIRST)),
            load(Z, Dependencies(token=1, live=frozenset({1}))),
            load(X, Dependencies(address=frozenset({1}))),
        ],
        False,
    ),
    # PPOCA: what is stored behind a branch and read back carries none
    "ctrl+rfi+addr": (
        [
            load(Y, NAMED),
            Store(Z, 1, depends=Dependencies(control=ON_FIRST)),
            load(Z, Dependencies(token=1, live=frozenset({1}))),
            load(X, Dependencies(address=frozenset({1}))),
        ],
        True,
    ),
    # the name was given to another load, which read what was there from the beginning
    "name given again": ([load(Y, NAMED), load(Z, NAMED), load(X, PLAIN._replace(address=ON_FIRST))], True),
}


@pytest.mark.parametrize("forget", [True, False])
@pytest.mark.parametrize("name", READERS)
def test_message_passing(name: str, forget: bool) -> None:
    reader, allowed = READERS[name]
    found = {(seen[0], seen[-1]) for seen in outcomes([WRITER, reader], forget=forget)}  # type: ignore[misc,index]
    assert {(0, 0), (0, 1), (1, 1)} <= found
    assert ((1, 0) in found) is allowed


def test_without_dependencies_a_pointer_is_followed_in_order_and_with_them_only_what_they_say() -> None:
    """The rule for generators: a load through a pointer comes after the load of that pointer."""
    writer: Program = [Store(X, 1), Fence(Barrier.DMB_ISHST), Store(Y, mk_table(X))]
    stale = (mk_table(X), 0)
    assert stale not in outcomes([writer, [Load(Y), Load(X)]], forget=True)
    assert stale in outcomes([writer, [load(Y, NAMED), load(X, PLAIN)]], forget=True)


def swaps(expected: int, order: Order = Order.PLAIN) -> Rmw:
    return Rmw(X, Put(7), order, expected=(expected,))


STORES: Program = [Store(X, 1), Store(X, 2)]


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_a_compare_and_swap_writes_where_it_reads_what_it_expects_and_else_is_a_load(memory: str) -> None:
    assert outcomes([[Store(X, 1)], [swaps(1), Load(X)]], forget=True, memory=memory) == {(0, 0), (0, 1), (1, 7)}


def test_one_that_fails_may_read_an_old_value_and_one_that_succeeds_may_not() -> None:
    flag: Program = [Store(X, 1), Fence(Barrier.DMB_ISHST), Store(Y, 1)]
    assert (1, 0) in outcomes([flag, [Load(Y), swaps(3)]], forget=True)
    assert (1, 0) not in outcomes([flag, [Load(Y), swaps(0)]], forget=True)
    assert (1, 0) not in outcomes([flag, [Load(Y, Order.ACQUIRE), swaps(3)]], forget=True)
    # only the newest value can be replaced
    assert {seen[1] for seen in outcomes([STORES, [swaps(1), Load(X)]], forget=True) if seen[0] == 1} <= {2, 7}  # type: ignore[misc]


def test_dmb_ld_does_not_order_a_read_that_nobody_gets() -> None:
    def reader(*, quiet: bool) -> Program:
        return [Rmw(Y, Add(1), quiet=quiet), Fence(Barrier.DMB_ISHLD), Load(X), Load(Y)]

    # the last load sees 2 where the atomic came after the store
    late = [{(seen[2], seen[3]) for seen in outcomes([WRITER, reader(quiet=q)], forget=True)} for q in (True, False)]  # type: ignore[misc]
    assert (0, 2) in late[0] and (0, 2) not in late[1]
