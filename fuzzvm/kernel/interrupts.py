"""Interrupts off, and IPIs that wait for those who have them off (kernel/smp.c, include/linux/irqflags.h).

Who sends an IPI to all waits for every CPU to have run the function (`csd_lock_wait`). A CPU that has interrupts off
runs it when they are on again: that is what code without a lock rests on, such as perf's walk of page tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.locking.lock import LockAction, OfCpu
from fuzzvm.machine.ops import Await, Order, Rmw, Steps, Value

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

ON = 0


@dataclass(frozen=True, slots=True)
class IrqsOff:
    """What the word of a CPU holds that has interrupts off."""

    cpu: int

    def renamed(self, names: Sequence[int]) -> IrqsOff:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return IrqsOff(names[self.cpu])

    def left(self, name: str) -> str:
        """Return that interrupts are still off."""
        return f"{name}: interrupts are still off"

    def held_by(self, cpu: int) -> bool:
        """Return whether others may wait for that CPU."""
        return cpu == self.cpu

    def in_words(self) -> str:
        """Return who has interrupts off."""
        return f"interrupts off on CPU {self.cpu}"


@dataclass(frozen=True, slots=True)
class _Save(OfCpu):
    atomic: ClassVar[int] = 1

    def __call__(self, old: Value) -> IrqsOff:
        return IrqsOff(self.cpu)


@dataclass(frozen=True, slots=True)
class _Restore(OfCpu):
    atomic: ClassVar[int] = -1

    def __call__(self, old: Value) -> int:
        return ON


@dataclass(frozen=True, slots=True)
class _AreOn:
    ending = " has run the function"

    def __call__(self, value: Value) -> bool:
        return value == ON

    def blocked_by(self, value: Value) -> tuple[int, ...]:
        return (value.cpu,) if isinstance(value, IrqsOff) else ()

    def action(self, value: Value) -> LockAction | None:
        return None

    def why(self, value: Value, blocker: int) -> str:
        """Return why that CPU is waited for."""
        return f"it waits for an IPI, and CPU {blocker} has interrupts off"


_ARE_ON = _AreOn()


def local_irq_save(k: Kernel) -> Steps[None]:
    """Disable interrupts on this CPU. A full barrier, which the real one is not; no caller has stores pending."""
    yield Rmw(k.irqs_off[k.cpu], _Save(k.cpu), Order.ACQUIRE_RELEASE)


def local_irq_restore(k: Kernel) -> Steps[None]:
    """Enable interrupts on this CPU, which are on in the callers of the model."""
    yield Rmw(k.irqs_off[k.cpu], _Restore(k.cpu), Order.ACQUIRE_RELEASE)


def csd_lock_wait(k: Kernel) -> Steps[None]:
    """Wait for each CPU that has interrupts off before it can take an IPI: what precedes `InterruptAll`.

    Where no call of the scenario has interrupts off, there is nobody to wait for.
    """
    cpu = 0
    while cpu < len(k.irqs_off):
        if cpu != k.cpu:
            yield Await(k.irqs_off[cpu], _ARE_ON)
        cpu += 1
