"""fuzzvm.machine.machine: CPUs, waiting, observers, copies, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.errors import (
    DEADLOCK,
    DOUBLE_FREE,
    NO_PROGRESS,
    REUSED_OBJECT,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    Failure,
    ModelError,
    ProgramError,
)
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Annotation,
    Await,
    Barrier,
    Fence,
    Free,
    Load,
    Operation,
    Rmw,
    Steps,
    Store,
    Value,
)
from tests.support import Follow, burst, executions, random_failures, start_machine


@dataclass(frozen=True, slots=True)
class SetTo:
    value: int

    def __call__(self, old: int) -> int:
        return self.value


@dataclass(frozen=True, slots=True)
class Free0:
    """A lock whose word is 0, or its owner's CPU plus one."""

    def __call__(self, value: int) -> bool:
        return value == 0

    def blocked_by(self, value: int) -> tuple[int, ...]:
        return (value - 1,) if value else ()


@dataclass(frozen=True, slots=True)
class Equals:
    """A flag that anybody might set: there is nobody to blame for the wait."""

    value: int

    def __call__(self, value: int) -> bool:
        return value == self.value

    def blocked_by(self, value: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Note(Annotation):
    text: str


@dataclass
class Witness:
    """An observer that writes down what it sees."""

    seen: list[tuple[object, ...]] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    refuse: str = ""

    def _see(self, *what: object) -> None:
        self.seen.append(what)
        if what[0] == self.refuse:
            raise ModelError("refused", f"the observer refuses {what[0]}")

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        self._see("wrote", cpu, address, old, new)

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        self._see("allocated", cpu, allocation.label)

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        self._see("freeing", cpu, allocation.label)

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        self._see("annotated", cpu, annotation)

    def finished(self) -> None:
        self._see("finished")


def locks(cpu: int, *order: Address) -> Steps[None]:
    """Take locks in that order, then release them."""
    taken = 0
    while taken < len(order):
        yield Rmw(order[taken], SetTo(cpu + 1), when=Free0())
        taken += 1
    while taken > 0:
        taken -= 1
        yield Store(order[taken], 0)


def failure_of(machine: Machine, agents: list[int] | None = None) -> Failure:
    failure = execute(machine, Follow(agents or ())).failure
    assert failure is not None
    return failure


def fresh(cpus: int, objects: int = 0, *, tracing: bool = False) -> tuple[Machine, list[Address]]:
    machine = Machine(SequentialConsistency(cpus), tracing=tracing)
    return machine, [machine.allocate(4, f"object {number}") for number in range(objects)]


# Objects through stale pointers


@pytest.mark.parametrize(
    ("access", "reuse", "error"),
    [
        (lambda a: Load(a), False, USE_AFTER_FREE_READ),
        (lambda a: Await(a, Equals(0)), False, USE_AFTER_FREE_READ),
        (lambda a: Store(a + 1, 1), False, USE_AFTER_FREE_WRITE),
        (lambda a: Rmw(a, SetTo(1)), False, USE_AFTER_FREE_WRITE),
        (lambda a: Free(a), False, DOUBLE_FREE),
        (lambda a: Load(a), True, REUSED_OBJECT),
        (lambda a: Store(a, 1), True, REUSED_OBJECT),
        (lambda a: Rmw(a, SetTo(1)), True, REUSED_OBJECT),
        (lambda a: Free(a), True, DOUBLE_FREE),
    ],
)
def test_stale_pointers(access: Callable[[Address], Operation], reuse: bool, error: str) -> None:
    def program() -> Steps[None]:
        stale = yield Alloc(4, "stale")
        yield Free(stale)
        if reuse:
            yield Alloc(4, "owner")
        yield access(stale)

    failure = failure_of(start_machine(program()))
    assert failure.error == error
    assert (failure.cpu, failure.step, failure.object_number) == (0, 4 if reuse else 3, 0)
    assert failure.function.endswith("program")


def test_a_fresh_object_is_zero_even_in_a_used_frame() -> None:
    def program() -> Steps[int]:
        first = yield Alloc(1, "first")
        yield Store(first, 7)
        yield Free(first)
        second = yield Alloc(1, "second")
        assert second != first
        value = yield Load(second)
        assert value == 0
        return int(value)

    assert execute(start_machine(program()), Follow()).failure is None


# Waiting


def test_three_cpus_wait_in_a_cycle() -> None:
    machine, (a, b, c) = fresh(4, 3)
    machine.start([locks(0, a, b), locks(1, b, c), locks(2, c, a), locks(3, a)])
    failure = failure_of(machine, [0, 1, 2])
    assert failure.error == DEADLOCK
    assert failure.message == (
        "CPU 0 in locks waits for CPU 1, CPU 1 in locks waits for CPU 2, CPU 2 in locks waits for CPU 0"
    )
    assert (failure.cpu, failure.function) == (0, "locks")


def test_a_cycle_that_the_lowest_cpu_is_not_part_of() -> None:
    machine, (a, b) = fresh(3, 2)
    machine.start([locks(0, a), locks(1, a, b), locks(2, b, a)])
    failure = failure_of(machine, [1, 2])
    assert failure.error == DEADLOCK
    assert failure.message == "CPU 1 in locks waits for CPU 2, CPU 2 in locks waits for CPU 1"
    assert failure.cpu == 1


def test_a_cpu_that_waits_for_itself() -> None:
    machine, (a,) = fresh(1, 1)
    machine.start([locks(0, a, a)])
    failure = failure_of(machine)
    assert (failure.error, failure.message) == (DEADLOCK, "CPU 0 in locks waits for CPU 0")


def test_one_order_of_locks_never_deadlocks() -> None:
    def start() -> Machine:
        machine, (a, b, c) = fresh(3, 3)
        machine.start([locks(0, a, b), locks(1, b, c), locks(2, a, c)])
        return machine

    assert {execution.failure for execution in executions(start, 3)} == {None}


def test_a_wait_that_nobody_ends_is_no_deadlock() -> None:
    machine, (flag, lock) = fresh(2, 2)

    def waits() -> Steps[None]:
        yield Await(flag, Equals(1))

    def keeps() -> Steps[None]:
        yield Rmw(lock, SetTo(2), when=Free0())

    machine.start([waits(), keeps()])
    failure = failure_of(machine)
    assert failure.error == NO_PROGRESS
    assert failure.cpu == 0
    assert "waits" in failure.message

    machine, (flag, lock) = fresh(2, 2)
    machine.start([locks(0, lock), keeps()])
    assert failure_of(machine, [1]).error == NO_PROGRESS, "the owner has returned: nobody to wait in a cycle with"


def test_a_waiter_is_enabled_exactly_while_it_can_go_on() -> None:
    machine, (flag,) = fresh(2, 1)

    def waits() -> Steps[None]:
        value = yield Await(flag, Equals(1))
        assert value == 1

    def sets() -> Steps[None]:
        yield Store(flag, 1)
        yield Store(flag, 0)
        yield Store(flag, 1)

    machine.start([waits(), sets()])
    expected = [[1], [0, 1], [1], [0]]
    for enabled in expected[:3]:
        assert list(machine.enabled()) == enabled
        machine.step(1, lambda ways: 0)
    assert list(machine.enabled()) == expected[3]
    machine.step(0, lambda ways: 0)
    assert machine.done
    assert list(machine.enabled()) == []


# Broken programs


def raises() -> Steps[None]:
    yield Fence(Barrier.ISB)
    raise ValueError("my mistake")


def yields_text() -> Steps[None]:
    yield Fence(Barrier.ISB)
    yield "store"  # type: ignore[misc]


def calls(inner: Callable[[], Steps[None]]) -> Steps[None]:
    yield from inner()


def yields_from_a_list() -> Steps[None]:
    yield from [Fence(Barrier.ISB), Fence(Barrier.ISB)]
    yield from [Fence(Barrier.ISB), None]  # type: ignore[misc]


def yields_a_generator() -> Steps[None]:
    yield Fence(Barrier.ISB)
    yield yields_text()  # type: ignore[misc]


@pytest.mark.parametrize("booting", [False, True])
@pytest.mark.parametrize(
    ("program", "line", "message"),
    [
        (raises, 2, "ValueError: my mistake"),
        (yields_text, 2, "yielded 'store', which is no operation"),
        (yields_from_a_list, 2, "yielded None, which is no operation"),
        (yields_a_generator, 2, "yielded yields_text(), which is a generator: `yield from` runs it"),
    ],
)
def test_a_broken_program_is_told_of_by_file_and_line(
    program: Callable[[], Steps[None]], line: int, message: str, booting: bool
) -> None:
    with pytest.raises(ProgramError) as caught:
        if booting:
            fresh(1)[0].boot(calls(program))
        else:
            execute(start_machine(calls(program)), Follow())
    first = program.__code__.co_firstlineno
    assert (caught.value.filename, caught.value.line) == (__file__, first + line)
    assert str(caught.value) == f"{__file__}:{first + line}: {message}"


def test_a_program_that_raises_before_its_first_operation() -> None:
    def program() -> Steps[None]:
        raise RuntimeError("at once")
        yield

    with pytest.raises(ProgramError, match="RuntimeError: at once"):
        start_machine(program())


def test_a_model_error_of_a_program_names_its_functions() -> None:
    def inner() -> Steps[None]:
        yield Fence(Barrier.ISB)
        raise ModelError("bug", "BUG()", address=1 << 16)

    failure = failure_of(start_machine(calls(inner)))
    assert (failure.error, failure.message, failure.object_number) == ("bug", "BUG()", 1)
    assert [name.rsplit(".")[-1] for name in failure.stack] == ["inner", "calls"]


# Observers and annotations


def noted() -> Steps[None]:
    yield Note("before")
    yield Fence(Barrier.ISB)
    answer = yield Note("between")
    assert answer is None
    yield Note("twice")
    address = yield Alloc(2, "object")
    yield Store(address, 5)
    yield Free(address)
    yield Note("after")


def test_annotations_are_no_scheduling_points_and_stand_where_they_were_yielded() -> None:
    machine, _ = fresh(1, tracing=True)
    machine.observer = Witness()
    machine.start([noted()])
    assert machine.observer.seen == [("annotated", 0, Note("before"))]
    execute(machine, Follow())
    assert machine.trace is not None
    assert [step.annotations for step in machine.trace] == [
        (Note("between"), Note("twice")),
        (),
        (),
        (Note("after"),),
    ]
    assert [what[0] for what in machine.observer.seen] == [
        "annotated",
        "annotated",
        "annotated",
        "allocated",
        "freeing",
        "annotated",
        "finished",
    ]


@pytest.mark.parametrize(
    ("refuse", "step", "cpu"), [("annotated", 0, 0), ("allocated", 2, 0), ("freeing", 4, 0), ("finished", 4, None)]
)
def test_what_an_observer_refuses_is_told_of_the_program(refuse: str, step: int, cpu: int | None) -> None:
    machine, _ = fresh(1, tracing=True)
    machine.observer = Witness(refuse=refuse)
    machine.start([calls(noted)])
    execute(machine, Follow())
    failure = machine.failure
    assert failure is not None
    assert (failure.error, failure.step, failure.cpu) == ("refused", step, cpu)
    assert failure.stack == (() if cpu is None else ("noted", "calls"))


def test_only_watched_objects_are_reported() -> None:
    machine, (watched, other) = fresh(1, 2, tracing=True)
    machine.observer = Witness()
    machine.watch(watched)

    def program() -> Steps[None]:
        yield Store(other, 1)
        yield Store(watched + 1, 2)
        yield Rmw(watched + 1, SetTo(3))

    machine.start([program()])
    execute(machine, Follow())
    assert [what for what in machine.observer.seen if what[0] == "wrote"] == [
        ("wrote", 0, watched + 1, 0, 2),
        ("wrote", 0, watched + 1, 2, 3),
    ]
    assert machine.trace is not None
    assert [step.old for step in machine.trace][1] == 0


def test_nobody_is_told_that_a_failed_run_finished() -> None:
    machine, _ = fresh(1)
    machine.observer = witness = Witness()

    def program() -> Steps[None]:
        yield Free(1 << 20)

    machine.start([program()])
    assert failure_of(machine).error == DOUBLE_FREE
    assert witness.seen == []


# Boot, copies, what a CPU shows


def test_boot_runs_to_the_end_and_returns_the_result() -> None:
    machine, (cell,) = fresh(1, 1)

    def program() -> Steps[str]:
        yield Store(cell, 3)
        value = yield Load(cell)
        return f"read {value}"

    assert machine.boot(program()) == "read 3"
    assert machine.steps == 0


def test_boot_fails_where_it_would_wait_or_do_wrong() -> None:
    machine, (cell,) = fresh(1, 1)
    machine.boot(locks(0, cell))
    with pytest.raises(ModelError) as caught:
        machine.boot(locks(0, cell, cell))
    assert caught.value.error == NO_PROGRESS


def test_a_copy_of_a_booted_machine_goes_its_own_way() -> None:
    machine, (cell,) = fresh(2, 1)
    machine.watch(cell)

    def program() -> Steps[None]:
        yield Store(cell, 9)
        address = yield Alloc(1, "mine")
        yield Store(address, 1)

    copies = [machine.copy(tracing=True) for _ in range(2)]
    for copied in copies:
        copied.observer = Witness()
        copied.start([program(), program()])
    assert failures(copies[0]) is None
    assert copies[0].memory.peek(cell) == 9
    assert copies[1].memory.peek(cell) == machine.memory.peek(cell) == 0
    assert len(copies[1].allocator.allocations) == len(machine.allocator.allocations) == 1
    assert isinstance(copies[0].observer, Witness)
    assert ("wrote", 0, cell, 0, 9) in copies[0].observer.seen
    assert machine.trace is None
    with pytest.raises(ValueError, match="cannot be copied"):
        copies[0].copy()


def failures(machine: Machine) -> Failure | None:
    return execute(machine, Follow(burst((0, 1), (1, 3)))).failure


def test_a_cpu_shows_what_it_does_next_and_where_it_stands() -> None:
    machine = start_machine(calls(raises))
    assert machine.pending(0) == Fence(Barrier.ISB)
    assert machine.stack(0) == ("raises", "calls")
    code, instruction = machine.site(0)
    assert code is raises.__code__
    assert instruction > 0


def test_a_cpu_may_yield_from_a_plain_iterator() -> None:
    machine = start_machine(calls(yields_from_a_list), tracing=True)
    assert machine.stack(0) == ("yields_from_a_list", "calls")
    assert machine.site(0)[0] is yields_from_a_list.__code__


def test_a_program_that_has_returned_has_nothing_pending() -> None:
    def nothing() -> Steps[None]:
        yield from ()

    machine = start_machine(nothing(), locks(1, 0))
    assert machine.pending(0) is None
    assert list(machine.enabled()) == [1]
    assert random_failures(lambda: start_machine(nothing(), nothing()), 1) == set()


def test_failures_name_their_function() -> None:
    assert Failure("x", "", None, (), 0).function == ""
    unknown: Any = Failure("x", "", 1, ("inner", "outer"), 3)
    assert unknown.function == "inner"


# A memory model with agents of its own


class Buffered(SequentialConsistency):
    """Stores wait in a buffer a CPU, which nobody reads and an agent of its own empties."""

    name: ClassVar[str] = "buffered"

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._buffers: list[list[Store]] = [[] for _ in range(cpus)]

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self._buffers[cpu].append(op)

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, buffer in enumerate(self._buffers) if buffer]

    def step(self, agent: int, choose: Choose) -> None:
        super().store(self.owner(agent), self._buffers[self.owner(agent)].pop(0), choose)

    def owner(self, agent: int) -> int:
        return agent - self.cpus


def test_agents_of_the_memory_step_beside_cpus_and_after_them() -> None:
    machine = Machine(Buffered(2), tracing=True)
    cells = [machine.allocate(1, name) for name in "xy"]
    machine.observer = witness = Witness()
    seen: list[tuple[int, int]] = []

    def program(cpu: int) -> Steps[None]:
        yield Store(cells[cpu], 1)
        value = yield Load(cells[1 - cpu])
        seen.append((cpu, value))

    machine.start([program(0), program(1)])
    machine.step(0, lambda ways: 0)
    assert list(machine.enabled()) == [0, 1, 2]
    machine.step(1, lambda ways: 0)
    assert list(machine.enabled()) == [0, 1, 2, 3]
    machine.step(0, lambda ways: 0)
    machine.step(1, lambda ways: 0)
    assert seen == [(0, 0), (1, 0)], "store buffering: each load comes before the other's store is seen"
    assert list(machine.enabled()) == [2, 3]
    assert not machine.done
    assert witness.seen == [], "the run is not finished before memory has settled"
    machine.step(3, lambda ways: 0)
    machine.step(2, lambda ways: 0)
    assert machine.done
    assert witness.seen == [("finished",)]
    assert [machine.memory.peek(cell) for cell in cells] == [1, 1]
    assert machine.trace is not None
    assert [(step.agent, step.cpu, step.op is None) for step in machine.trace[-2:]] == [(3, 1, True), (2, 0, True)]
