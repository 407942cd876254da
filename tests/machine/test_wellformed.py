"""Operations that are none: what is wrong with each, and where that is said."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fuzzvm.exhaustive.automaton import Automaton, Values
from fuzzvm.machine.errors import ProgramError, UnkeyableError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import (
    Alloc,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Order,
    Rmw,
    Steps,
    Store,
    Tlbi,
)
from fuzzvm.machine.wellformed import MAX_LOCATIONS, wrong_with
from tests.exhaustive.small_programs import Add, IsPositive

GOOD = [
    Load(0),
    Load(1 << 40, Order.ACQUIRE_PC),
    Store(0, None, Order.RELEASE),
    Store(0, (1, frozenset())),
    Rmw(0, Add(1)),
    Rmw(0, Add(1), when=IsPositive()),
    Await(0, IsPositive()),
    Fence(Barrier.ISB),
    CacheMaintenance(CacheOperation.IC_IVAU, 0),
    Tlbi("vaae1is", 0),
    Fetch(0),
    InterruptAll(),
    Alloc(1, "x"),
    Alloc(MAX_LOCATIONS, ("x",)),
    Free(0),
]

BAD: list[tuple[Any, str]] = [
    (Load("x"), "its address is 'x', which is not an address"),  # type: ignore[arg-type]
    (Load(1.0), "its address is 1.0"),  # type: ignore[arg-type]
    (Load(True), "its address is True"),
    (Load(-1), "its address is -1"),
    (Store(None, 1), "its address is None"),  # type: ignore[arg-type]
    (Store(0, [1]), "its value is [1], which can change"),
    (Load(0, "acquire"), "its order is 'acquire', which is not an Order"),  # type: ignore[arg-type]
    (Store(0, 1, None), "its order is None"),  # type: ignore[arg-type]
    (Rmw(0, 1), "its update is 1, which is no function"),  # type: ignore[arg-type]
    (Rmw(0, Add(1), when=lambda value: True), "which is not a Condition"),  # type: ignore[arg-type]
    (Await(0, None), "its when is None"),  # type: ignore[arg-type]
    (Fence("dsb ish"), "its kind is 'dsb ish', which is not a Barrier"),  # type: ignore[arg-type]
    (CacheMaintenance("ic ivau", 0), "its operation is 'ic ivau'"),  # type: ignore[arg-type]
    (CacheMaintenance(CacheOperation.IC_IVAU, "x"), "its address is 'x'"),  # type: ignore[arg-type]
    (Tlbi(1, 0), "its operation is 1"),  # type: ignore[arg-type]
    (Tlbi("vaae1is", "x"), "its virtual_address is 'x'"),  # type: ignore[arg-type]
    (Alloc(0, "x"), "its size is 0"),
    (Alloc(MAX_LOCATIONS + 1, "x"), "its size is"),
    (Alloc(1, []), "its label is []"),
    (Free("x"), "its address is 'x'"),  # type: ignore[arg-type]
    (Fetch(None), "its address is None"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("op", GOOD, ids=repr)
def test_nothing_is_wrong_with_an_operation(op: Any) -> None:
    assert wrong_with(op) == ""


@pytest.mark.parametrize(("op", "wrong"), BAD, ids=lambda value: repr(value)[:40])
def test_what_is_wrong_is_said(op: Any, wrong: str) -> None:
    assert wrong in wrong_with(op)


def program(number: int) -> Steps[None]:
    """Yield one of them, which is not in a variable: that would be refused for itself."""
    yield Load(0)
    yield BAD[number][0]


def refused(run: Callable[[], object]) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        run()
    assert caught.value.filename == __file__
    return caught.value


@pytest.mark.parametrize("number", range(len(BAD)))
def test_each_who_takes_an_operation_refuses_it_with_its_place(number: int) -> None:
    wrong = BAD[number][1]
    booting, careful = Machine(SequentialConsistency(1)), Machine(SequentialConsistency(1))
    careful.careful = True
    careful.allocate(1, "word")
    line = program.__code__.co_firstlineno + 3
    for machine in (booting, careful):
        error = refused(lambda machine=machine: machine.boot(program(number)))  # type: ignore[misc]
        assert wrong in error.message and error.line == line
    careful.start([program(number)])
    assert wrong in refused(lambda: careful.step(0, lambda ways: 0)).message
    automaton = Automaton(GeneratorProgram(partial(program, number)), Values())
    node = automaton.start.target
    assert node is not None
    error = refused(lambda: automaton.next(node, 0))
    # a value that has no key is refused for that
    assert wrong in error.message or isinstance(error, UnkeyableError)


def test_where_memory_is_allocated_an_address_must_be() -> None:
    machine = Machine(SequentialConsistency(1))
    address = machine.allocate(2, "words")
    machine.careful = True
    for good in (address, address + 1):
        machine.boot(iter_of(Load(good)))
    for bad in (address + 2, address + (1 << 16)):
        error = refused(lambda bad=bad: machine.boot(iter_of(Store(bad, 1))))  # type: ignore[misc]
        assert error.message.endswith("there is no such location")


def iter_of(op: Any) -> Steps[None]:
    yield op


def divides(value: int) -> int:
    return 1 // 0


def test_what_a_function_of_an_operation_raises_has_its_place() -> None:
    for careful in (True, False):
        machine = Machine(SequentialConsistency(1), tracing=careful)
        machine.start([iter_of(Rmw(0, divides))])
        error = refused(lambda machine=machine: machine.step(0, lambda ways: 0))  # type: ignore[misc]
        assert error.message.startswith("ZeroDivisionError") and error.line == divides.__code__.co_firstlineno + 1
