"""The guest's CPUs under the debugger: which is parked, which runs, and where each one is.

While one CPU is driven the others are parked: their program counter is moved to a loop of one instruction that the
module holds, with interrupts on, so that they still answer IPIs (a TLB flush waits for that). To let a CPU go on, it is
brought back to the loop, where its registers are those that it was parked with, and its program counter is put back.
A kernel that may preempt what is in the kernel is kept from it by the count that preempt_disable() raises.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fuzzvm.realkernel.arch import Arch
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.gdb import Gdb, GdbError
from fuzzvm.realkernel.symbols import Symbols

_SETTLE_SECONDS = 60.0
_MOMENT = 0.02
_FRAMES = 24
_STEPS = 64
_KERNEL = 0xFFFF_0000_0000_0000


@dataclass
class Cpus:
    """The CPUs of a guest that stands. `gate` is where a worker arrives before each of its calls.

    `counts` is the module's array of where the preemption of each CPU is counted, 0 for a kernel without preemption.
    """

    gdb: Gdb
    arch: Arch
    gate: int
    counts: int = 0
    resume_at: dict[int, int] = field(default_factory=dict)
    """Of each parked CPU, where it goes on."""

    @property
    def loop(self) -> int:
        """Return the address that parked CPUs loop at."""
        return self.gate + self.arch.nop

    def pc(self, cpu: int) -> int:
        """Return where a CPU is."""
        return self.gdb.registers(cpu, self.arch.pc)

    def settle(self, cpus: int) -> None:
        """Let the guest run until all CPUs are in the loop by themselves. Raises RealKernelError if they don't come."""
        self._come_to_loop(range(cpus))
        for cpu in range(cpus):
            self.resume_at[cpu] = self.loop + self.arch.loop
            self._preemption(cpu, 1)

    @contextmanager
    def switching(self, cpu: int) -> Iterator[None]:
        """Let the kernel switch tasks on the parked CPUs but this one, which is driven meanwhile and parked at the end.

        Only so do grace periods of RCU end, where the kernel preempts what is in the kernel.
        """
        others = [other for other in self.resume_at if other != cpu]
        for other in others:
            self._preemption(other, -1)
        yield
        self._come_to_loop(self.resume_at)
        for other in others:
            self._preemption(other, 1)

    def _come_to_loop(self, cpus: Collection[int]) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while any(self.pc(cpu) != self.loop for cpu in cpus):
            if time.monotonic() > deadline:
                raise RealKernelError("the guest's processes do not all come to their first call")
            self.gdb.resume()
            if self.gdb.wait(_MOMENT) is None:
                self.gdb.interrupt()

    def park(self, cpu: int) -> None:
        """Park a CPU where it stands; a few instructions later where it has interrupts off."""
        if cpu in self.resume_at:
            return
        steps = 0
        while not self.arch.interrupts_on(self.gdb.registers(cpu, self.arch.flags)):
            self.gdb.step(cpu)
            steps += 1
            if steps > 5000:
                raise RealKernelError(f"CPU {cpu} keeps interrupts off")
        self.resume_at[cpu] = self.pc(cpu)
        self.gdb.set_register(cpu, self.arch.pc, self.loop)
        self._preemption(cpu, 1)

    def park_at_gate(self, cpu: int) -> None:
        """Park a CPU that has arrived at the gate; it goes on with its next call."""
        self.resume_at[cpu] = self.loop + self.arch.loop
        self.gdb.set_register(cpu, self.arch.pc, self.loop)
        self._preemption(cpu, 1)

    def unpark(self, cpu: int) -> None:
        """Put a parked CPU back to where it was; nothing runs yet.

        It may be in an interrupt: that is let to its end first. Raises RealKernelError where it has none.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self.pc(cpu) != self.loop:
            if time.monotonic() > deadline:
                raise RealKernelError(f"CPU {cpu} does not come back from an interrupt")
            self.gdb.set_breakpoint(self.loop)
            self.gdb.resume([cpu])
            stopped = self.gdb.wait(0.5) or self.gdb.interrupt()
            self.gdb.clear_breakpoint(self.loop)
            if stopped.signal == 2:
                # it waits for another CPU
                self.gdb.resume()
                if self.gdb.wait(_MOMENT) is None:
                    self.gdb.interrupt()
        self.gdb.set_register(cpu, self.arch.pc, self.resume_at.pop(cpu))
        self._preemption(cpu, -1)

    def _preemption(self, cpu: int, by: int) -> None:
        """Raise or lower by one how often preemption is disabled for what a CPU runs (PREEMPT_MASK, a byte)."""
        if not self.counts:
            return
        count = self._word(cpu, self.counts + 8 * cpu)
        (held,) = self.gdb.memory(cpu, count, 1)
        if not 0 <= held + by <= 0xFF:
            raise RealKernelError(f"the preemption of CPU {cpu} is counted as {held}, and cannot be by {by} more")
        self.gdb.set_memory(cpu, count, bytes([held + by]))

    def step_on(self, cpu: int) -> None:
        """Let a CPU execute the instruction that it stands at, one that does not jump to itself.

        QEMU reports one step in some hundreds without having made it, and what is watched would then be counted twice.
        Raises RealKernelError where it does not get on at all.
        """
        before = self.pc(cpu)
        for _ in range(_STEPS):
            self.gdb.step(cpu)
            if self.pc(cpu) != before:
                return
        raise RealKernelError(f"CPU {cpu} makes no step at {before:#x}")

    def return_address(self, cpu: int) -> int:
        """Return where a function returns to, asked at its first instruction."""
        if self.arch.link is not None:
            return self.gdb.registers(cpu, self.arch.link)
        return self._word(cpu, self.gdb.registers(cpu, self.arch.sp))

    def argument(self, cpu: int) -> int:
        """Return the first argument of a function, asked at its first instruction."""
        return self.gdb.registers(cpu, self.arch.arguments[0])

    def result(self, cpu: int) -> int:
        """Return the int that a function has returned, asked where it returned to."""
        return self.gdb.registers(cpu, self.arch.result) & 0xFFFF_FFFF

    def backtrace(self, cpu: int, symbols: Symbols) -> list[str]:
        """Return where a CPU is and who called that, innermost first, by the chain of frames."""
        lines = [symbols.described(self.resume_at.get(cpu, self.pc(cpu)))]
        frame = self.gdb.registers(cpu, self.arch.frame)
        for _ in range(_FRAMES):
            if frame < _KERNEL or frame & 7:
                break
            try:
                caller, back = self._word(cpu, frame), self._word(cpu, frame + 8)
            except GdbError:
                # the chain ends where nothing is mapped
                break
            if back < _KERNEL or caller <= frame:
                break
            lines.append(symbols.described(back))
            frame = caller
        return lines

    def _word(self, cpu: int, address: int) -> int:
        return int.from_bytes(self.gdb.memory(cpu, address, 8), "little")
