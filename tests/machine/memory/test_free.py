"""A free of what another CPU has stored to, and the store is not in place yet."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm.machine import memory as models
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Barrier, Fence, Free, Order, Store

MODELS = ["tso", "arm64"]


def first(ways: int) -> int:
    return 0


def last(ways: int) -> int:
    return ways - 1


def one_store(address: int) -> Any:
    yield Store(address, 1)


def one_free(address: int) -> Any:
    yield Free(address)


def stored_then_freed(memory: str, choose: Any, *, by: int) -> Machine:
    machine = Machine(models.get(memory)(2))
    x = machine.allocate(1, "x")
    programs = [one_store(x), one_free(x)] if by == 1 else [store_and_free(x), nothing()]
    machine.start(programs)
    machine.step(0, choose)
    machine.step(by, choose)
    return machine


def store_and_free(address: int) -> Any:
    yield Store(address, 1)
    yield Free(address)


def nothing() -> Any:
    return
    yield


@pytest.mark.parametrize("memory", MODELS)
def test_a_store_that_is_kept_back_may_take_effect_after_the_free(memory: str) -> None:
    failure = stored_then_freed(memory, last, by=1).failure
    assert failure is not None
    assert (failure.error, failure.cpu, failure.function) == ("use-after-free-write", 1, "one_free")
    assert failure.message == "write to x by CPU 0, which may take effect after this free of it"


@pytest.mark.parametrize("memory", MODELS)
def test_a_store_that_is_in_place_does_not(memory: str) -> None:
    assert stored_then_freed(memory, first, by=1).failure is None


@pytest.mark.parametrize("memory", MODELS)
def test_the_own_stores_come_before_whoever_gets_the_object_next(memory: str) -> None:
    assert stored_then_freed(memory, last, by=0).failure is None


def handed_over(between: list[Any], order: Order) -> Any:
    def setup(machine: Machine) -> list[Any]:
        x, flag = machine.allocate(1, "x"), machine.allocate(1, "flag")

        def writer() -> Any:
            yield Store(x, 1)
            for step in between:  # noqa: UP028 - a list takes no responses
                yield step
            yield Store(flag, 1, order)

        def freer() -> Any:
            yield Await(flag, lambda value: value == 1, Order.ACQUIRE)
            yield Free(x)

        return [writer(), freer()]

    return setup


@pytest.mark.parametrize(
    ("memory", "between", "order", "races"),
    [
        ("arm64", [], Order.PLAIN, True),
        ("arm64", [], Order.RELEASE, False),
        ("arm64", [Fence(Barrier.DMB_ISHST)], Order.PLAIN, False),
        ("arm64", [Fence(Barrier.DMB_ISHLD)], Order.PLAIN, True),
        ("tso", [], Order.PLAIN, False),
    ],
)
def test_who_frees_must_wait_for_an_ordered_store(
    outcomes: Any, memory: str, between: list[Any], order: Order, races: bool
) -> None:
    assert ("use-after-free-write" in outcomes(memory, handed_over(between, order))) == races
