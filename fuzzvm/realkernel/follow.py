"""Lets one CPU run at a time and sees what it does to the page-table entries of a plan.

What the model does in one access the kernel may do in several reads of the entry. A CPU that only reads, a dump, is
therefore rehearsed first: its call is made once with the others parked, and it is counted how often each entry is
read before the next one is. In the replay the CPU is stopped after that many reads, which is the last moment before
what the model does next. A CPU that changes tables cannot be rehearsed; it is stopped at the first access that fits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fuzzvm.realkernel.cpus import Cpus
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.gdb import Gdb, Stop, Watch
from fuzzvm.realkernel.locks import Handler
from fuzzvm.realkernel.places import Entry, Tables, Window
from fuzzvm.realkernel.plan import Access


@dataclass(frozen=True, slots=True)
class Hit:
    """An access of a CPU to a watched entry."""

    cpu: int
    entry: Entry
    write: bool


@dataclass
class Watcher:
    """Watchpoints on the real entries, and breakpoints with what is called at them; lets CPUs run until one is hit."""

    gdb: Gdb
    cpus: Cpus
    tables: Tables
    window: Window
    deadline: float
    """When the replay as a whole must have ended, as time.monotonic() counts."""
    found: dict[Entry, int] = field(default_factory=dict)
    """Where each entry is, or was before its table was freed."""
    _watched: dict[int, Entry] = field(default_factory=dict)
    _breakpoints: dict[int, Handler] = field(default_factory=dict)

    def find(self, entries: Iterable[Entry]) -> None:
        """Look the entries up; one whose table is gone stays where it was."""
        for entry in entries:
            address = self.tables.find(self.window, entry)
            if address is not None:
                self.found[entry] = address

    def watch(self, entries: Iterable[Entry]) -> None:
        """Watch these entries and no others, those that have been found."""
        wanted = {self.found[entry]: entry for entry in entries if entry in self.found}
        for address in [address for address in self._watched if address not in wanted]:
            del self._watched[address]
            for kind in Watch:
                self.gdb.clear_watch(address, kind)
        for address, entry in wanted.items():
            if address not in self._watched:
                self._watched[address] = entry
                for kind in Watch:
                    self.gdb.set_watch(address, kind)

    def stop_at(self, address: int, handler: Handler | None) -> None:
        """Call a function whenever a CPU comes to an address; None takes that back."""
        if handler is None:
            if self._breakpoints.pop(address, None) is not None:
                self.gdb.clear_breakpoint(address)
            return
        if address not in self._breakpoints:
            self.gdb.set_breakpoint(address)
        self._breakpoints[address] = handler

    def stop_nowhere(self) -> None:
        """Take all breakpoints back."""
        for address in list(self._breakpoints):
            self.stop_at(address, None)

    def run(self, cpu: int, seconds: float, hit: Callable[[Hit], bool], stopped: Callable[[], bool]) -> bool:
        """Let a CPU run, the others where they are parked, until `hit` or `stopped` says that it is enough.

        `hit` is called for each access to a watched entry, `stopped` after each breakpoint's own function and about
        five times a second. Returns False where the time was up first; the guest stands in any case.
        """
        until = min(self.deadline, time.monotonic() + seconds)
        while True:
            if stopped():
                return True
            self.gdb.resume()
            while (stop := self.gdb.wait(0.2)) is None:
                if stopped() or time.monotonic() > until:
                    break
            if stop is None:
                stop = self.gdb.interrupt()
            if self._seen(stop, hit) or stopped():
                return True
            if time.monotonic() > until:
                return False

    def _seen(self, stop: Stop, hit: Callable[[Hit], bool]) -> bool:
        """Deal with one stop; return whether it is enough."""
        if stop.watch is not None:
            address = stop.address & ~7
            entry = self._watched.get(address)
            if self.cpus.arch.stops_before:
                self._past_watchpoint(stop.cpu, address)
            return entry is not None and hit(Hit(stop.cpu, entry, stop.watch is Watch.WRITE))
        if stop.signal != 2:
            handler = self._breakpoints.get(self.cpus.pc(stop.cpu))
            if handler is not None:
                handler(stop.cpu)
                self._over_breakpoint(stop.cpu)
        return False

    def _past_watchpoint(self, cpu: int, address: int) -> None:
        """Execute the access that a watchpoint stopped before."""
        for kind in Watch:
            self.gdb.clear_watch(address, kind)
        self.gdb.step(cpu)
        for kind in Watch:
            self.gdb.set_watch(address, kind)

    def _over_breakpoint(self, cpu: int) -> None:
        """Execute the instruction that a breakpoint is at, so that the CPU does not stop there again at once."""
        pc = self.cpus.pc(cpu)
        if pc in self._breakpoints:
            self.gdb.clear_breakpoint(pc)
            self.gdb.step(cpu)
            self.gdb.set_breakpoint(pc)


@dataclass
class Rehearsal:
    """How often a CPU reads each entry before it comes to the next one that the model has it read."""

    counts: dict[int, int] = field(default_factory=dict)
    """By the model's step: how many reads of its entry there are since the CPU's first call."""

    @classmethod
    def of(cls, accesses: Sequence[Access], hits: Sequence[Entry]) -> Rehearsal:
        """Return it for the accesses of a CPU in the model, given the entries it read in the rehearsal."""
        rehearsal, at = cls(), 0
        for access, following in pairwise(accesses):
            while at < len(hits) and hits[at] != access.entry:
                at += 1
            after = next((n for n in range(at, len(hits)) if hits[n] == following.entry), None)
            if after is None:
                break
            if following.entry != access.entry:
                rehearsal.counts[access.step] = Counter(hits[:after])[access.entry]
                at = after
            else:
                at += 1
        return rehearsal


def rehearse(watcher: Watcher, cpu: int, accesses: Sequence[Access], calls: int, seconds: float) -> Rehearsal:
    """Let a parked CPU make its first `calls` calls, which only read, and return what it read.

    Raises RealKernelError where they do not end in time, or write.
    """
    hits: list[Entry] = []
    arrived = 0

    def hit(seen: Hit) -> bool:
        if seen.write:
            raise RealKernelError(f"a dump writes the {seen.entry}")
        if seen.cpu == cpu:
            hits.append(seen.entry)
        return False

    def at_gate(on: int) -> None:
        nonlocal arrived
        if on == cpu:
            arrived += 1
            watcher.cpus.park_at_gate(cpu)
            if arrived < calls:
                watcher.cpus.unpark(cpu)

    watcher.watch([access.entry for access in accesses])
    watcher.stop_at(watcher.cpus.gate, at_gate)
    watcher.cpus.unpark(cpu)
    ended = watcher.run(cpu, seconds, hit, lambda: arrived == calls)
    watcher.watch([])
    watcher.stop_nowhere()
    if not ended:
        raise RealKernelError(f"the dump that CPU {cpu} makes alone does not end within {seconds:g} s")
    return Rehearsal.of(accesses, hits)
