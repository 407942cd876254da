"""Interrupts on a CPU: when they come, what may be done in them, and the locks that they share with the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.errors import (
    INVALID_WAIT_CONTEXT,
    IRQ_UNSAFE_LOCK,
    LEAKED_TABLE,
    LOCK_NOT_RELEASED,
    LOCK_ORDER,
    SLEEP_IN_ATOMIC,
)
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.interrupts import (
    ON,
    IrqsOff,
    local_bh_disable,
    local_bh_enable,
    local_irq_restore,
    local_irq_save,
    spin_lock_bh,
    spin_lock_irqsave,
    spin_unlock_bh,
    spin_unlock_irqrestore,
)
from fuzzvm.kernel.irq_safety import Context, Used, conflict
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, mutex_lock, mutex_unlock, spin_lock, spin_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import DEADLOCK, NO_PROGRESS, USE_AFTER_FREE_READ, ModelError, ProgramError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.ops import Load, Order, Steps, Store
from fuzzvm.mitigations import registry
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.support import Seeded

BLOCKS = ["vmap(page=0, nr_pages=4, max_page_shift='pte')", "vunmap(page=0, nr_pages=4)"]
PROMOTE = ["vmap(page=0, nr_pages=2, max_page_shift='pmd')", "vmap(page=2, nr_pages=2, max_page_shift='pmd')"]


def scenario(cpus: list[list[str]], arch: str = "arm64", setup: list[str] = BLOCKS, **more: Any) -> Scenario:
    data = {"arch": arch, "page_size": "4K", "levels": 4, "fanout": 2, "setup": setup, "cpus": cpus}
    return Scenario.from_data(data | more)


def errors(scheme: type[Mitigation], found: Scenario, memory: str = "sc") -> str:
    """Return the error of a scheme, '' where it is safe."""
    verdict = verify_cell(Cell(scheme.name, found, memory), Bounds(Limits()), scheme).verdict
    assert verdict.complete
    return verdict.failure.error if verdict.failure else ""


def in_an_interrupt(kind: str, own: int = 1) -> Scenario:
    """Return a promotion on CPU 0, and another one in an interrupt of that CPU or of one that does nothing else."""
    return scenario([[PROMOTE[0]], []], **{kind: [[PROMOTE[1]]] if own == 0 else [[], [PROMOTE[1]]]})


class Locks(Mitigation):
    """Has locks of its own, and takes them between the clear of an entry and its flush."""

    name = "locks"
    a: ExclusiveLock
    b: ExclusiveLock

    def attach(self, boot: Boot) -> None:
        boot.interrupts()
        self.a, self.b = boot.lock("A"), boot.lock("B")

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from self.inside(k)

    def inside(self, k: Kernel) -> Steps[None]:
        yield from ()


class Plain(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.a)
        yield from spin_unlock(k.cpu, self.a)


class Mutex(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.a)
        yield from mutex_unlock(k.cpu, self.a)


class Bh(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock_bh(k, self.a)
        yield from spin_unlock_bh(k, self.a)


class Irqsave(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        flags = yield from spin_lock_irqsave(k, self.a)
        yield from spin_unlock_irqrestore(k, self.a, flags)


class HeldWhereSoftirqsComeBack(Locks):
    """CPU 0 takes A with softirqs off, and has it still when they are on again."""

    def inside(self, k: Kernel) -> Steps[None]:
        if k.cpu == 0:
            yield from local_bh_disable(k)
        yield from spin_lock(k.cpu, self.a)
        if k.cpu == 0:
            yield from local_bh_enable(k)
        yield from spin_unlock(k.cpu, self.a)


class HeldWhereInterruptsComeBack(Locks):
    """The same with interrupts off."""

    def inside(self, k: Kernel) -> Steps[None]:
        flags = yield from local_irq_save(k)
        yield from spin_lock(k.cpu, self.a)
        yield from local_irq_restore(k, flags)
        yield from spin_unlock(k.cpu, self.a)


class StoresInTheHandler(Mitigation):
    """CPU 0 stores to X, its interrupt to Y: CPU 1 may see Y and not X, as an interrupt is no barrier."""

    name = "stores-in-the-handler"
    x: int
    y: int

    def attach(self, boot: Boot) -> None:
        self.x, self.y = boot.word("x"), boot.word("y")

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        if k.cpu == 0:
            there = yield Load(self.x)
            yield Store(self.y if there else self.x, 1)
            return
        y = yield Load(self.y, Order.ACQUIRE)
        x = yield Load(self.x)
        if y and not x:
            raise ModelError(LEAKED_TABLE, "y without x")


class UnsafeUnderSafe(Locks):
    """The interrupt of CPU 1 takes A. CPU 0 takes it with softirqs off, and B inside; B alone it takes with them on."""

    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock_bh(k, self.a)
        if k.cpu == 0:
            yield from spin_lock(k.cpu, self.b)
            yield from spin_unlock(k.cpu, self.b)
        yield from spin_unlock_bh(k, self.a)
        if k.cpu == 0:
            yield from self.alone(k)

    def alone(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.b)
        yield from spin_unlock(k.cpu, self.b)


class SafeUnderSafe(UnsafeUnderSafe):
    def alone(self, k: Kernel) -> Steps[None]:
        yield from spin_lock_bh(k, self.b)
        yield from spin_unlock_bh(k, self.b)


@pytest.mark.parametrize(
    ("kind", "scheme", "error"),
    [
        ("softirqs", Plain, IRQ_UNSAFE_LOCK),
        ("softirqs", Bh, ""),
        ("softirqs", Irqsave, ""),
        ("softirqs", Mutex, SLEEP_IN_ATOMIC),
        ("softirqs", UnsafeUnderSafe, IRQ_UNSAFE_LOCK),
        ("softirqs", SafeUnderSafe, ""),
        ("hardirqs", Plain, IRQ_UNSAFE_LOCK),
        ("hardirqs", Bh, IRQ_UNSAFE_LOCK),
        ("hardirqs", Irqsave, ""),
        ("hardirqs", Mutex, SLEEP_IN_ATOMIC),
        ("nmis", Irqsave, IRQ_UNSAFE_LOCK),
        ("nmis", Locks, ""),
    ],
)
def test_a_lock_that_an_interrupt_takes_is_taken_with_it_off(kind: str, scheme: type[Mitigation], error: str) -> None:
    assert errors(scheme, in_an_interrupt(kind)) == error


@pytest.mark.parametrize(
    ("scheme", "error"), [(Irqsave, INVALID_WAIT_CONTEXT), (Mutex, SLEEP_IN_ATOMIC), (Locks, INVALID_WAIT_CONTEXT)]
)
def test_a_hardirq_that_no_thread_runs_takes_no_spinlock(scheme: type[Mitigation], error: str) -> None:
    """Nor does it free: the page allocator takes one."""
    found = in_an_interrupt("hardirqs")
    assert errors(scheme, replace(found, irqf_no_thread=True)) == error
    assert Scenario.from_data(replace(found, irqf_no_thread=True).to_data()).irqf_no_thread
    with pytest.raises(ScenarioError, match="there are none"):
        replace(in_an_interrupt("softirqs"), irqf_no_thread=True)


@pytest.mark.parametrize(
    ("kind", "scheme", "error", "memory"),
    [
        ("softirqs", Plain, DEADLOCK, "sc"),
        ("softirqs", Bh, "", "sc"),
        ("softirqs", Bh, "", "arm64"),
        ("hardirqs", Bh, DEADLOCK, "sc"),
        ("hardirqs", Irqsave, "", "sc"),
        ("nmis", Irqsave, DEADLOCK, "sc"),
    ],
)
def test_an_interrupt_waits_for_ever_for_what_it_has_interrupted(
    kind: str, scheme: type[Mitigation], error: str, memory: str
) -> None:
    assert errors(scheme, in_an_interrupt(kind, own=0), memory) == error


def test_two_uses_that_do_not_go_together_replay() -> None:
    run = verify_cell(Cell("plain", in_an_interrupt("softirqs"), "sc"), Bounds(Limits()), Plain)
    system = System(in_an_interrupt("softirqs"), Plain, "sc")
    system.lock_order.watched = None
    assert run.verdict.failure is not None
    assert run.verdict.schedule is not None
    execution = execute(system.machine(), Replay(run.verdict.schedule))
    assert execution.failure is not None
    assert execution.failure.error == IRQ_UNSAFE_LOCK
    assert "takes A in softirq, and A where softirq may interrupt it" in execution.failure.message


def test_readers_are_no_conflict_and_a_way_may_be_long() -> None:
    inside = Used(1, Context.SOFTIRQ, True, write=False)
    assert conflict([inside, Used(1, Context.SOFTIRQ, False, write=False)], {}) is None
    assert conflict([inside, Used(1, Context.HARDIRQ, False, write=True)], {}) is None
    found = conflict([inside, Used(3, Context.SOFTIRQ, False, write=True)], {1: [2], 2: [3]})
    assert found is not None
    assert found.way == (1, 2, 3)
    assert conflict([inside, Used(3, Context.SOFTIRQ, False, write=True)], {3: [2], 2: [1]}) is None


class HeldBack(Locks):
    """CPU 0 has something off for a while."""

    def inside(self, k: Kernel) -> Steps[None]:
        if k.cpu == 0:
            yield from self.off(k)

    def off(self, k: Kernel) -> Steps[None]:
        yield from ()


class BhOff(HeldBack):
    name = "bh-off"

    def off(self, k: Kernel) -> Steps[None]:
        yield from local_bh_disable(k)
        yield from local_bh_disable(k)
        yield from local_bh_enable(k)
        yield from spin_lock(k.cpu, self.b)
        yield from spin_unlock(k.cpu, self.b)
        yield from local_bh_enable(k)


class IrqsSaved(HeldBack):
    name = "irqs-off"

    def off(self, k: Kernel) -> Steps[None]:
        outer = yield from local_irq_save(k)
        inner = yield from local_irq_save(k)
        yield from local_irq_restore(k, inner)
        yield from spin_lock(k.cpu, self.b)
        yield from spin_unlock(k.cpu, self.b)
        yield from local_irq_restore(k, outer)


@pytest.mark.parametrize(
    ("scheme", "kind", "comes"),
    [
        (BhOff, "softirqs", False),
        (BhOff, "hardirqs", True),
        (IrqsSaved, "softirqs", False),
        (IrqsSaved, "hardirqs", False),
        (IrqsSaved, "nmis", True),
    ],
)
def test_what_is_off_holds_an_interrupt_back(scheme: type[HeldBack], kind: str, comes: bool) -> None:
    """CPU 0 stands at the unlock of B in `off`, whatever is off there; its interrupt's handler is `handle`."""
    system = System(scenario([[PROMOTE[0]]], **{kind: [["vunmap(page=2, nr_pages=1)"]]}), scheme, "sc")
    machine = system.machine(tracing=True)
    while machine.stack(0)[:2] != ("spin_unlock", "off"):
        machine.step(0, lambda ways: 0)
    # what raises the interrupt
    machine.step(1, lambda ways: 0)
    while machine.enabled():
        machine.step(0, lambda ways: 0)
    assert machine.failure is None
    stacks = [step.stack for step in machine.trace or () if step.cpu == 0]
    handled = [number for number, stack in enumerate(stacks) if "handle" in stack]
    unlocked = [number for number, stack in enumerate(stacks) if stack[:2] == ("spin_unlock", "off")]
    assert handled
    assert (handled[0] < unlocked[-1]) is comes


class NeverOn(HeldBack):
    name = "never-on"

    def off(self, k: Kernel) -> Steps[None]:
        yield from local_bh_disable(k)


def test_softirqs_are_enabled_again() -> None:
    assert errors(NeverOn, scenario([[PROMOTE[0]]])) == LOCK_NOT_RELEASED


class NotAsked(Mitigation):
    name = "not-asked"

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from local_irq_save(k)


def test_who_disables_interrupts_asks_for_the_words_first() -> None:
    with pytest.raises(ProgramError, match=r"boot\.interrupts"):
        execute(System(scenario([[PROMOTE[0]]]), NotAsked, "sc").machine(), Seeded(0))


COLLAPSE = ["vmap(page=0, nr_pages=2, max_page_shift='pte')"]


@pytest.mark.parametrize(
    ("kind", "more", "error"),
    [
        ("softirqs", {}, USE_AFTER_FREE_READ),
        ("hardirqs", {}, ""),
        ("nmis", {}, ""),
        ("nmis", {"invlpgb": True}, USE_AFTER_FREE_READ),
    ],
)
def test_a_flush_by_ipi_waits_for_the_handler_of_a_hardirq(kind: str, more: dict[str, bool], error: str) -> None:
    """The walk takes no lock. With interrupts off it is safe from a collapse whose flush is an IPI."""
    cpus = [["set_memory_rox(page=0, nr_pages=2)"], []]
    found = scenario(cpus, "x86_64", COLLAPSE, **{kind: [[], ["text_poke(page=1)"]]}, **more)
    assert errors(registry.get("none"), found) == error


@pytest.mark.parametrize(("scheme", "error"), [("none", USE_AFTER_FREE_READ), ("rcu-free", "")])
def test_a_grace_period_waits_for_a_softirq(scheme: str, error: str) -> None:
    cpus = [["set_memory_rox(page=0, nr_pages=2)"], []]
    found = scenario(cpus, "x86_64", COLLAPSE, softirqs=[[], ["text_poke(page=1)"]])
    assert errors(registry.get(scheme), found) == error


def test_text_is_round_tripped_and_what_is_wrong_with_it_is_said() -> None:
    found = in_an_interrupt("hardirqs")
    assert Scenario.from_data(found.to_data()) == found
    with pytest.raises(ScenarioError, match="softirqs has calls for more than the 1 CPUs"):
        scenario([[PROMOTE[0]]], softirqs=[[], [PROMOTE[1]]])
    with pytest.raises(ScenarioError, match="what TLBs may hold is not followed with nmis"):
        scenario([[PROMOTE[0]]], nmis=[[PROMOTE[1]]], tlb=True)
    with pytest.raises(ScenarioError, match="NMI of CPU 0, call 1: no call 'x'"):
        scenario([[PROMOTE[0]]], nmis=[["x()"]])


def nested(k: Kernel) -> Steps[list[object]]:
    outer = yield from local_irq_save(k)
    inner = yield from local_irq_save(k)
    yield from local_irq_restore(k, inner)
    between = yield Load(k.irqs_off[k.cpu])
    yield from local_irq_restore(k, outer)
    after = yield Load(k.irqs_off[k.cpu])
    return [between, after]


def test_an_ipi_waits_until_the_outermost_restore() -> None:
    system = System(scenario([[PROMOTE[0]]]), Locks, "sc")
    assert system.booted().boot(nested(system.kernel)) == [IrqsOff(0), ON]


SCHEMES = {**registry.shipped(), **registry.releases()}
RULES = {SLEEP_IN_ATOMIC, INVALID_WAIT_CONTEXT, LOCK_ORDER, IRQ_UNSAFE_LOCK, LOCK_NOT_RELEASED, DEADLOCK, NO_PROGRESS}


@pytest.mark.product
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("arm64", {"nmis": [[], ["perf_page_size(page=1)"]]}),
        ("arm64", {"hardirqs": [["perf_page_size(page=1)"]]}),
        ("arm64", {"allocations_fail": True}),
        ("x86_64", {"nmis": [[], ["perf_page_size(page=1)"]]}),
        ("x86_64", {"allocations_fail": True}),
    ],
)
def test_what_ships_keeps_the_rules_where_interrupts_come_and_memory_is_short(
    name: str, arch: str, more: dict[str, Any]
) -> None:
    """perf's samples come in interrupts and NMIs; what a sample meets is another matter."""
    cpus = [[PROMOTE[0]], ["cat_kernel_page_tables()"]]
    setup = ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"]
    assert errors(SCHEMES[name], scenario(cpus, arch, setup, **more)) not in RULES


@pytest.mark.parametrize(
    ("scheme", "kind"), [(HeldWhereSoftirqsComeBack, "softirqs"), (HeldWhereInterruptsComeBack, "hardirqs")]
)
def test_a_lock_that_is_held_where_interrupts_come_back_is_unsafe(scheme: type[Mitigation], kind: str) -> None:
    """As lockdep's mark_held_locks: it was taken with them off."""
    assert errors(scheme, in_an_interrupt(kind)) == IRQ_UNSAFE_LOCK
    assert errors(scheme, in_an_interrupt(kind, own=0)) == DEADLOCK


@pytest.mark.parametrize("kind", ["softirqs", "hardirqs"])
def test_an_interrupt_is_no_barrier(kind: str) -> None:
    pages = [f"vmap(page={page}, nr_pages=2, max_page_shift='pmd')" for page in (0, 2, 4)]
    setup = [call.replace("nr_pages=4", "nr_pages=6") for call in BLOCKS]
    found = scenario([[pages[0]], [pages[2]]], setup=setup, **{kind: [[pages[1]]]})
    assert errors(StoresInTheHandler, found) == ""
    assert errors(StoresInTheHandler, found, "arm64") == LEAKED_TABLE
