"""Lets one CPU run at a time and sees what it does to the page-table entries of a plan.

What the model does in one access the kernel may do in several reads of the entry. A CPU that only reads, a dump, is
therefore rehearsed first: its call is made once with the others parked, and it is counted how often each entry is
read before the next one is. In the replay the CPU is stopped after that many reads, which is the last moment before
what the model does next. A CPU that changes tables cannot be rehearsed; it is stopped at the first access that fits.

A table is free when KASAN holds it to be: when its shadow, a byte for eight of the table's, is all KASAN_PAGE_FREE
(mm/kasan/kasan.h). The page allocator writes that before it takes a lock, whichever function it was called from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Freed:
    """The page allocator of a CPU being given the table below an entry."""

    cpu: int
    entry: Entry


PAGE_FREE = 0xFF
"""KASAN_PAGE_FREE."""

_SHADOW_SHIFT = 3
"""KASAN_SHADOW_SCALE_SHIFT of generic KASAN."""

_POISON_STEPS = 4096
"""Instructions that a memset() may take from the last word of a table's shadow to the end of what else it writes."""


@dataclass
class Watcher:
    """Watchpoints on the real entries and tables, breakpoints with what is called at them; runs CPUs to one of them."""

    gdb: Gdb
    cpus: Cpus
    tables: Tables
    window: Window
    shadow_offset: int
    """BuiltKernel.shadow_offset."""
    root_writer: int | None
    """Address of Arch.root_writer, None where the kernel has none."""
    deadline: float
    """When the replay as a whole must have ended, as time.monotonic() counts."""
    found: dict[Entry, int] = field(default_factory=dict)
    """Where each entry is, or was before its table was freed."""
    tables_below: dict[Entry, int] = field(default_factory=dict)
    """Likewise the table below an entry."""
    _watched: dict[int, Entry] = field(default_factory=dict)
    _shadows: dict[int, Entry] = field(default_factory=dict)
    """The last word of the shadow of each table whose free is waited for."""
    _writing: dict[int, Entry] = field(default_factory=dict)
    """By CPU, the entry that it is in root_writer for."""
    _written: list[Hit] = field(default_factory=list)
    """What root_writer has written and `run` has not told of yet."""
    _placed: set[tuple[int, Watch]] = field(default_factory=set)
    _breakpoints: dict[int, Handler] = field(default_factory=dict)

    def find(self, entries: Iterable[Entry], tables: Iterable[Entry]) -> None:
        """Look entries up, and tables by the entry above; what is no longer to be found stays where it was."""
        for above in tables:
            below = self.tables.below(self.window, above)
            if below is not None:
                self.tables_below[above] = below
        for entry in entries:
            address = self.tables.find(self.window, entry)
            if address is not None:
                self.found[entry] = address

    def watch(
        self, entries: Iterable[Entry], freed: Iterable[Entry] = (), read: Collection[Entry] | None = None
    ) -> None:
        """Watch these entries, and the tables below those for being freed, and no others; those that were found.

        With `read`, reads of other entries are not watched, only writes.
        """
        self._watched = {self.found[entry]: entry for entry in entries if entry in self.found}
        shadows = {entry: self._shadow(self.tables_below[entry]) for entry in freed if entry in self.tables_below}
        self._shadows = {shadow.stop - 8: entry for entry, shadow in shadows.items()}
        # shadow is read at each access to what it is of
        wanted = {(address, Watch.WRITE) for address in self._watched}
        wanted |= {(address, Watch.READ) for address, entry in self._watched.items() if read is None or entry in read}
        wanted |= {(address, Watch.WRITE) for address in self._shadows}
        for address, kind in self._placed - wanted:
            self.gdb.clear_watch(address, kind)
        for address, kind in wanted - self._placed:
            self.gdb.set_watch(address, kind)
        self._placed = wanted
        if self.root_writer is not None:
            self.stop_at(self.root_writer, self._enters_root_writer if self._watched else None)

    def _enters_root_writer(self, cpu: int) -> None:
        entry = self._watched.get(self.cpus.argument(cpu))
        if entry is None:
            return
        back = self.cpus.return_address(cpu)
        self._writing[cpu] = entry

        def returned(on: int) -> None:
            if on == cpu:
                self.stop_at(back, None)
                self._written.append(Hit(cpu, self._writing.pop(cpu), write=True))

        self.stop_at(back, returned)

    def _shadow(self, table: int) -> range:
        """Return the addresses of a table's shadow."""
        first = (table >> _SHADOW_SHIFT) + self.shadow_offset & (1 << 64) - 1
        return range(first, first + (1 << self.window.geometry.page_shift - _SHADOW_SHIFT))

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

    def run(self, cpu: int, seconds: float, hit: Seen, stopped: Callable[[], bool]) -> bool:
        """Let a CPU run, the others where they are parked, until `hit` or `stopped` says that it is enough.

        `hit` is called for each access to a watched entry and each free of a watched table, `stopped` after each
        breakpoint's own function and about five times a second. Returns False where the time was up first; the guest
        stands in any case.
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

    def _seen(self, stop: Stop, hit: Seen) -> bool:
        """Deal with one stop; return whether it is enough."""
        if stop.watch is not None:
            address = stop.address & ~7
            entry, above = self._watched.get(address), self._shadows.get(address)
            if self.cpus.arch.stops_before:
                self._past_watchpoint(stop.cpu, address)
            if above is not None:
                return self._poisoned(stop.cpu, self.tables_below[above]) and hit(Freed(stop.cpu, above))
            write = stop.watch is Watch.WRITE
            # what root_writer writes counts once, whether by the entry's own address or by another
            if entry is None or (write and self._writing.get(stop.cpu) == entry):
                return False
            return hit(Hit(stop.cpu, entry, write))
        if stop.signal != 2:
            handler = self._breakpoints.get(self.cpus.pc(stop.cpu))
            if handler is not None:
                handler(stop.cpu)
                self._over_breakpoint(stop.cpu)
        written, self._written = self._written, []
        return any(hit(seen) for seen in written)

    def _past_watchpoint(self, cpu: int, address: int) -> None:
        """Execute the access that a watchpoint stopped before."""
        kinds = [kind for kind in Watch if (address, kind) in self._placed]
        for kind in kinds:
            self.gdb.clear_watch(address, kind)
        self.cpus.step_on(cpu)
        for kind in kinds:
            self.gdb.set_watch(address, kind)

    def _poisoned(self, cpu: int, table: int) -> bool:
        """Return whether a table that had the last word of its shadow written is free, once all of it is written."""
        shadow = self._shadow(table)
        for _ in range(_POISON_STEPS):
            held = self.gdb.memory(cpu, shadow.start, len(shadow))
            if held[-1] != PAGE_FREE:
                # it is being handed out
                return False
            if set(held) == {PAGE_FREE}:
                return True
            self.gdb.step(cpu)
        return False

    def _over_breakpoint(self, cpu: int) -> None:
        """Execute the instruction that a breakpoint is at, so that the CPU does not stop there again at once."""
        pc = self.cpus.pc(cpu)
        if pc in self._breakpoints:
            self.gdb.clear_breakpoint(pc)
            self.cpus.step_on(cpu)
            self.gdb.set_breakpoint(pc)


Seen = Callable[[Hit | Freed], bool]
"""Called with what was seen; returns whether it is enough."""


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


def rehearse(watcher: Watcher, cpu: int, accesses: Sequence[Access], calls: int, seconds: float) -> Rehearsal | None:
    """Let a parked CPU make its first `calls` calls, which only read; return what it read, None where time was up.

    Raises RealKernelError where they write.
    """
    hits: list[Entry] = []
    arrived = 0

    def hit(seen: Hit | Freed) -> bool:
        if isinstance(seen, Freed):
            raise RealKernelError(f"a dump frees the table below the {seen.entry}")
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
    return Rehearsal.of(accesses, hits) if ended else None
