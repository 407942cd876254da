"""Interrupts off, what runs in interrupts, and IPIs that wait for those who have interrupts off.

(include/linux/irqflags.h, bottom_half.h, spinlock.h; kernel/softirq.c, kernel/smp.c; Linux 7.3.)

Who sends an IPI to all waits for every CPU to have run the function (`csd_lock_wait`). A CPU that has interrupts off
runs it when they are on again: that is what code without a lock rests on, such as perf's walk of page tables.

A scenario may have code that runs in an interrupt of a CPU. The interrupt comes once, between any two operations of the
CPU where nothing holds it back; `fuzzvm.kernel.interrupted` delivers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from fuzzvm.kernel.irq_safety import Context
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, spin_lock, spin_unlock
from fuzzvm.kernel.locking.lock import LockAction, OfCpu
from fuzzvm.kernel.locking.rcu import rcu_read_lock, rcu_read_unlock
from fuzzvm.machine.ops import Address, Annotation, Await, Barrier, Fence, Order, Rmw, Steps, Value

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
    flags: IrqsOff | int
    atomic: ClassVar[int] = -1

    def __call__(self, old: Value) -> IrqsOff | int:
        return self.flags


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


def _irqs(k: Kernel) -> Address:
    if not k.irqs_off:
        raise RuntimeError("interrupts are disabled by a scheme that has not called boot.interrupts() in attach")
    return k.irqs_off[k.cpu]


def local_irq_save(k: Kernel) -> Steps[IrqsOff | int]:
    """Disable interrupts on this CPU; return whether they were on, for local_irq_restore(). It nests.

    No barrier for what comes before it, as the real one is none. Raises RuntimeError where the kernel was
    booted without a word for it (`Boot.interrupts`).
    """
    flags: IrqsOff | int = yield Rmw(_irqs(k), _Save(k.cpu), Order.ACQUIRE)
    return flags


def local_irq_restore(k: Kernel, flags: IrqsOff | int = ON) -> Steps[None]:
    """Have interrupts as they were when local_irq_save() returned `flags`. No barrier for what comes after it."""
    yield Rmw(_irqs(k), _Restore(k.cpu, flags), Order.RELEASE)


@dataclass(frozen=True, slots=True)
class LocalBh(Annotation):
    """This CPU disables its softirqs, or enables them. Nobody else can see it. `serving` is that it is in one."""

    disabled: bool
    serving: bool = False


def local_bh_disable(k: Kernel) -> Steps[None]:
    """Keep softirqs from running on this CPU. It nests, and nothing may sleep until they are enabled."""
    yield LocalBh(True)


def local_bh_enable(k: Kernel) -> Steps[None]:
    """End what local_bh_disable() began; a softirq that was held back runs before this CPU goes on."""
    yield LocalBh(False)


def softirq_handle_begin() -> Steps[None]:
    """Begin a softirq on this CPU: none other comes before its end, and nothing may sleep until then."""
    yield LocalBh(True, serving=True)


def softirq_handle_end() -> Steps[None]:
    """End what softirq_handle_begin() began."""
    yield LocalBh(False, serving=True)


def spin_lock_bh(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Take a spinlock with softirqs disabled."""
    yield from local_bh_disable(k)
    yield from spin_lock(k.cpu, lock)


def spin_unlock_bh(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Release a spinlock, then enable softirqs."""
    yield from spin_unlock(k.cpu, lock)
    yield from local_bh_enable(k)


def spin_lock_irqsave(k: Kernel, lock: ExclusiveLock) -> Steps[IrqsOff | int]:
    """Take a spinlock with interrupts disabled; return what spin_unlock_irqrestore() takes."""
    flags = yield from local_irq_save(k)
    yield from spin_lock(k.cpu, lock)
    return flags


def spin_unlock_irqrestore(k: Kernel, lock: ExclusiveLock, flags: IrqsOff | int) -> Steps[None]:
    """Release a spinlock, then have interrupts as they were."""
    yield from spin_unlock(k.cpu, lock)
    yield from local_irq_restore(k, flags)


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An interrupt that a CPU takes once: its kind, and the word that says whether it was raised."""

    cpu: int
    context: Context
    word: Address


@dataclass(frozen=True, slots=True)
class Raised:
    """Holds once an interrupt was raised. Nobody is to blame for the wait: no edge of a cycle."""

    ending: ClassVar[str] = " is raised"

    def __call__(self, value: Value) -> bool:
        return value == 1

    def blocked_by(self, value: Value) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class _Raise:
    def __call__(self, old: Value) -> int:
        return 1


RAISED = Raised()


def raise_interrupt(interrupt: Interrupt) -> Steps[None]:
    """Raise an interrupt: the program of the device that it comes from."""
    yield Rmw(interrupt.word, _Raise(), Order.ACQUIRE_RELEASE)


class Handler(Protocol):
    """What an interrupt does. Immutable, and compares by value."""

    def run(self, k: Kernel) -> Steps[object]:
        """Do it, on the CPU that is interrupted."""


def handle(k: Kernel, context: Context, handler: Handler) -> Steps[None]:
    """Run what an interrupt does: with interrupts off unless it is a softirq; entry and return synchronise the CPU.

    RCU takes a handler for a read-side section (rcu_read_unlock_strict, CONFIG_TREE_RCU).
    """
    yield Fence(Barrier.ISB)
    flags: IrqsOff | int = ON
    if context is not Context.SOFTIRQ:
        flags = yield from local_irq_save(k)
    if k.rcu is not None:
        yield from rcu_read_lock(k.cpu, k.rcu)
    yield from handler.run(k)
    if k.rcu is not None:
        yield from rcu_read_unlock(k.cpu, k.rcu)
    if context is not Context.SOFTIRQ:
        yield from local_irq_restore(k, flags)
    yield Fence(Barrier.ISB)


def idle(interrupts: Sequence[Interrupt]) -> Steps[None]:
    """Have a CPU that has nothing to do any more take the interrupts that have not come yet."""
    index = 0
    while index < len(interrupts):
        yield Await(interrupts[index].word, RAISED)
        index += 1
    # the last of them comes before this
    yield Fence(Barrier.ISB)


def csd_lock_wait(k: Kernel) -> Steps[None]:
    """Wait for each CPU that has interrupts off before it can take an IPI: what precedes `InterruptAll`.

    Where no call of the scenario has interrupts off, there is nobody to wait for.
    """
    cpu = 0
    while cpu < len(k.irqs_off):
        if cpu != k.cpu:
            yield Await(k.irqs_off[cpu], _ARE_ON)
        cpu += 1
