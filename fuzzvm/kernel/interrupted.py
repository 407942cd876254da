"""A CPU whose program is interrupted: at any of its operations, by code that runs on the same CPU.

Each interrupt is raised once, by a device that is a CPU more, and taken once. Before each operation the CPU looks at
the word of every interrupt that has not come yet and that nothing holds back. What the handler does is then part of
the CPU's program: what was interrupted goes on where it stood.

- A hardirq is held back by interrupts off, and by an NMI.
- A softirq is held back by all that, by a hardirq and by softirqs off.
- An NMI is held back by nothing.

A CPU that waits in one operation takes no interrupt before the wait has ended. It could have taken it before the
operation, so that this hides nothing, unless whoever is waited for waits for what the handler does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fuzzvm.kernel.contexts import KernelProgram, LockOrder
from fuzzvm.kernel.interrupts import Interrupt
from fuzzvm.kernel.irq_safety import Context
from fuzzvm.machine.ops import Annotation, Load, Operation, Steps, Value
from fuzzvm.machine.program import Keys, LocalState
from fuzzvm.machine.rewrite import Rewrite

Handler = tuple[Interrupt, Callable[[], Steps[object]]]
"""An interrupt, and what returns its code anew each time."""
_NONE = -1


class InterruptedProgram(KernelProgram):
    """The program of a CPU that takes interrupts. `_generator` is that of the code that the CPU is in."""

    __slots__ = ("_asked", "_handlers", "_kept", "_left", "_outer", "_own", "_running")

    def __init__(
        self,
        make: Callable[[], Steps[object]],
        rewrite: Rewrite | None,
        order: LockOrder,
        handlers: Sequence[Handler],
    ) -> None:
        super().__init__(make, rewrite, order)
        self._own = self.send
        self.send = self._send_interrupted
        self._outer = self._generator
        self._handlers = tuple(handlers)
        self._left = tuple(range(len(self._handlers)))
        """The interrupts that have not come yet, by their places in `_handlers`."""
        self._running: list[tuple[KernelProgram, Operation]] = []
        """The handlers that run, the outermost first, each with the operation that it came before."""
        self._asked = _NONE
        """The interrupt whose word is being read, and in `_kept` the operation before which that is."""
        self._kept: Operation | None = None

    def fresh(self) -> InterruptedProgram:
        return InterruptedProgram(self._make, self._rewrite, self._order, self._handlers)

    def _send_interrupted(self, response: Value) -> Operation | Annotation:
        asked, kept = self._asked, self._kept
        if kept is not None:
            self._asked, self._kept = _NONE, None
            if not response:
                return self._before_operation(kept, asked + 1)
            interrupt, make = self._handlers[asked]
            self._left = tuple(one for one in self._left if one != asked)
            handler = KernelProgram(make, self._rewrite, self._order, interrupt.context)
            self._running.append((handler, kept))
            self._generator = handler._generator
            response = None
        try:
            op = self._running[-1][0].send(response) if self._running else self._own(response)
        except StopIteration:
            if not self._running:
                raise
            op = self._running.pop()[1]
            self._generator = self._running[-1][0]._generator if self._running else self._outer
        return op if isinstance(op, Annotation) else self._before_operation(op, 0)

    def _before_operation(self, op: Operation, first: int) -> Operation:
        """Return the read of the next interrupt's word, from that one on; the operation where there is none to come."""
        for number in self._left:
            interrupt = self._handlers[number][0]
            if number >= first and not self._held_back(interrupt.context):
                self._asked, self._kept = number, op
                return Load(interrupt.word)
        return op

    def _held_back(self, context: Context) -> bool:
        """Return whether an interrupt waits: there is one of each kind, so that none waits for another of its own."""
        code: tuple[KernelProgram, ...] = (self, *(handler for handler, _ in self._running))
        if context is Context.NMI:
            return False
        # hardirqs and NMIs run with interrupts off
        if any(one.irqs_off or one.context in (Context.HARDIRQ, Context.NMI) for one in code):
            return True
        return context is Context.SOFTIRQ and any(one.softirqs_off for one in code)

    def local_state(self, keys: Keys) -> LocalState:
        inside = self._generator
        self._generator = self._outer
        try:
            states = [super().local_state(keys)]
        finally:
            self._generator = inside
        states += [handler.local_state(keys) for handler, _ in self._running]
        kept: list[Any] = [op for _, op in self._running]
        if self._kept is not None:
            kept.append(self._kept)
        came = (self._asked, self._left)
        return LocalState(
            (*(state.location for state in states), came), (*(state.key for state in states), came, *map(keys.of, kept))
        )
