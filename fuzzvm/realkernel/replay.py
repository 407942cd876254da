"""Replays a schedule of the model on a real kernel."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from fuzzvm.corpus.format import TestCase
from fuzzvm.realkernel import hotplug
from fuzzvm.realkernel import plan as plans
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.cpus import Cpus
from fuzzvm.realkernel.errors import NoCounterpartError, RealKernelError
from fuzzvm.realkernel.follow import Freed, Hit, Rehearsal, Watcher, rehearse
from fuzzvm.realkernel.guest import BOOT_SECONDS, Guest
from fuzzvm.realkernel.locks import Locks
from fuzzvm.realkernel.outcome import FailedLock, Outcome, Result
from fuzzvm.realkernel.places import Entry, Tables
from fuzzvm.realkernel.plan import Access, Expected, Plan, TableFreed
from fuzzvm.scenario.target import Code

CALL_PART = 0.25
"""The part of a replay's time for which a CPU may run with none of what is expected of it happening."""
PRINT_SECONDS = 10.0
"""How long a report may take to be printed once the access was made."""
MOST_CPUS = 4
"""CONFIG_NR_CPUS. One CPU more than the scenario has is for everybody else, such as the thread that prints in 7.3."""
_ADDRESS = re.compile(r"\baddr ([0-9a-f]{16})\b")
_CALLERS = {"vmalloc_to_page": ("vread_iter",)}
"""Functions of the kernel that those of a look-up, which are in the same file, may be inlined into."""


def replay(plan: Plan, kernel: BuiltKernel, seconds: float = 120.0, *, binary: str | None = None) -> Outcome:
    """Boot the kernel, bring its tables into the scenario's state, and walk the schedule; return how it ended.

    Raises NoCounterpartError for a plan that the kernel cannot follow, and RealKernelError where the guest does not
    come up. A schedule that is still under way after `seconds` has diverged where it is.
    """
    scenario = plan.case.scenario
    began = time.monotonic()
    cpus = len(scenario.cpus)
    reserved = plans.reserved(scenario, plan.calls)
    told = script(plan, shadow_alone=hotplug.shadow_alone(kernel))
    with Guest(kernel, told, min(cpus + 1, MOST_CPUS), reserved=reserved, binary=binary) as guest:
        gate = guest.gate()
        guest.wait("started", min(BOOT_SECONDS, seconds))
        run = _Run(plan, guest, gate, began + seconds, CALL_PART * seconds)
        booted = time.monotonic() - began
        outcome = run.walk()
        outcome.console = guest.qemu.lines()
    outcome.script = told
    outcome.boot_seconds = booted
    outcome.seconds = time.monotonic() - began
    outcome.passed_over += plan.passed_over
    return outcome


def plan_of(case: TestCase, kernel: BuiltKernel, code: Code | None = None) -> Plan:
    """Return what a kernel must be seen to do for a test case.

    `code` is the mitigation of the user's own that the case names, or its image. Raises NoCounterpartError for a test
    case that a real kernel, or this one, cannot follow, and as `plan.make` and `image_plan.make` do.
    """
    _check_geometry(case, kernel)
    if code is None or isinstance(code, type):
        takes_out = hotplug.takes_out(case.scenario)
        return plans.make(case, hotplug.window(case.scenario, kernel) if takes_out else kernel.window(), code)
    # imported here: ELF, DWARF and disassembly may not be installed
    from fuzzvm.images.code import ImageCode
    from fuzzvm.realkernel import image_plan

    assert isinstance(code, ImageCode)
    return image_plan.make(case, kernel.window(), code)


def script(plan: Plan, *, shadow_alone: bool = False) -> list[str]:
    """Return what the guest's program is told: the setup, and each CPU's calls, those that are rehearsed twice.

    `shadow_alone` is said of the kernel (hotplug.shadow_alone).
    """
    scenario = plan.case.scenario
    slots: dict[str, int] = {}
    if hotplug.takes_out(scenario):
        lines = [f"boot {call}" for call in hotplug.setup(scenario, plan.window, shadow_alone)]
    else:
        reserved = plans.reserved(scenario, plan.calls)
        lines = [f"boot reserved {plans.PHYSICAL:#x} {reserved:#x}"] if reserved else []
        lines += [f"boot area {plan.calls.start:#x} {plans.span(scenario.every_call, plan.calls):#x}"]
        lines += [f"boot {plans.operations(call, plan.calls, slots)}" for call in scenario.setup]
    for cpu, calls in enumerate(scenario.cpus):
        twice = (*calls, *calls) if rehearsable(plan, cpu) else calls
        for call in twice:
            removes = isinstance(call, hotplug.CALLS)
            operation = (
                hotplug.operation(call, scenario, plan.window, shadow_alone)
                if removes
                else plans.operations(call, plan.calls, slots)
            )
            lines.append(f"cpu {cpu} {operation}")
    return [*lines, "start"]


def rehearsable(plan: Plan, cpu: int) -> bool:
    """Return whether all calls of a CPU only read tables, and whether it has a part in the schedule."""
    return all(call.walks or call.looks_up for call in plan.case.scenario.cpus[cpu]) and bool(plan.accesses(cpu))


def _check_geometry(case: TestCase, kernel: BuiltKernel) -> None:
    of = case.image or case.scenario
    if (of.arch, of.page_size, of.levels) != (kernel.arch, kernel.page_size, kernel.levels):
        raise NoCounterpartError(
            f"the test case is for {of.arch}, {of.page_size} pages, {of.levels} levels; "
            f"the kernel is {kernel.arch}, {kernel.page_size} pages, {kernel.levels} levels"
        )


@dataclass
class _Progress:
    """How far a CPU is: its own part of the plan, the next of it, and the reads of each entry since it began."""

    expected: list[Expected]
    next: int = 0
    reads: Counter[object] = field(default_factory=Counter)
    calls_left: int = 0
    changes_attr: bool = False


class _Run:
    """One walk of a plan along a guest that stands with all its processes parked."""

    def __init__(self, plan: Plan, guest: Guest, gate: tuple[int, int], deadline: float, patience: float) -> None:
        self._plan = plan
        self._patience = patience
        self._guest = guest
        self._symbols = guest.symbols
        gdb = guest.qemu.gdb()
        calls = plan.case.scenario.cpus
        self.cpus = Cpus(gdb, guest.kernel.facts, *gate)
        # from here on every CPU is in the kernel, and so is all memory that is looked at mapped for it
        self.cpus.settle(len(calls))
        tables = Tables(guest.kernel.facts, guest.symbols, gdb, guest.kernel.levels, guest.kernel.page_shift)
        writer = guest.kernel.facts.root_writer
        self._watcher = Watcher(
            gdb,
            self.cpus,
            tables,
            plan.window,
            guest.kernel.shadow_offset(),
            guest.symbols.address(writer) if writer is not None and writer in guest.symbols else None,
            deadline,
        )
        self._locks = Locks(self.cpus, guest.symbols, self._watcher.stop_at)
        self._progress = {
            cpu: _Progress(
                [e for e in plan.expected if e.cpu == cpu],
                calls_left=len(calls[cpu]),
                changes_attr=any(call.changes_attr for call in calls[cpu]),
            )
            for cpu in range(len(calls))
        }
        self._rehearsals: dict[int, Rehearsal] = {}
        self._extra = 0
        self._left_out = 0
        self._free: set[Entry] = set()
        self._printed = len(guest.qemu.lines())
        self._verdict: Outcome | None = None

    def walk(self) -> Outcome:
        """Rehearse, then follow one segment after the other; return how it ended."""
        for cpu, calls in enumerate(self._plan.case.scenario.cpus):
            function = hotplug.entered(calls[0]) if calls else None
            if function is not None:
                self._enter(cpu, function)
        self._watcher.find(self._plan.entries(), self._plan.freed())
        outcome = self._rehearse()
        segments = self._plan.segments()
        while outcome is None:
            segment = segments.pop(0)
            fails = not segments and not self._plan.frees_linked
            outcome = self._follow(segment[:-1] if fails else segment)
            if outcome is None and fails:
                outcome = self._fail(segment[0].cpu)
            elif outcome is not None and outcome.result is Result.REPRODUCED:
                self._go_on(outcome, segment[0].cpu)
        outcome.matched = sum(progress.next for progress in self._progress.values()) - self._left_out
        outcome.passed_over = self._left_out
        outcome.extra_reads = self._extra
        outcome.locks = list(self._locks.failed)
        return outcome

    def _enter(self, cpu: int, function: str) -> None:
        """Let a CPU's first call come to a function while the other CPUs may switch tasks, and park it there.

        Raises RealKernelError where it does not come there.
        """
        arrived = False

        def at_function(on: int) -> None:
            nonlocal arrived
            arrived = arrived or on == cpu

        with self.cpus.switching(cpu):
            self._watcher.stop_at(self._symbols.address(function), at_function)
            self.cpus.unpark(cpu)
            self._watcher.run(cpu, self._patience, lambda seen: False, lambda: arrived)
            self._watcher.stop_nowhere()
            if not arrived:
                where = ", ".join(self.cpus.backtrace(cpu, self._symbols)[:8])
                raise RealKernelError(f"CPU {cpu} has not come to {function} in {self._patience:g} s: it is at {where}")
            self.cpus.park(cpu)

    def _rehearse(self) -> Outcome | None:
        """Rehearse each CPU that only reads; return how it ended where one waits for a lock, else None."""
        for cpu, calls in enumerate(self._plan.case.scenario.cpus):
            if not rehearsable(self._plan, cpu):
                continue
            accesses = self._plan.accesses(cpu)
            self._locks.start(cpu)
            rehearsal = rehearse(self._watcher, cpu, accesses, len(calls), self._patience)
            if rehearsal is None:
                waits = [lock for lock in self._locks.failed if lock.waits]
                instead = f"the dump that CPU {cpu} makes alone does not end within {self._patience:g} s"
                if not waits:
                    raise RealKernelError(instead)
                return self._not_reachable(accesses[0], waits[-1], instead)
            self._rehearsals[cpu] = rehearsal
        return None

    # one segment: what one CPU does before another one goes on

    def _follow(self, segment: tuple[Expected, ...]) -> Outcome | None:
        """Let the segment's CPU run until all of it has happened; return None then, else how it ended instead."""
        if not segment:
            return None
        cpu = segment[0].cpu
        progress = self._progress[cpu]
        end = progress.next + len(segment)
        self._verdict = None
        done = False

        def hit(seen: Hit | Freed) -> bool:
            nonlocal done
            if isinstance(seen, Freed):
                self._verdict = self._freed(progress, seen, end)
            elif seen.cpu == cpu:
                self._verdict = self._access(progress, seen, end)
            done = progress.next == end and self._last_moment(cpu, progress)
            if narrow and not done:
                watch()
            return done or self._verdict is not None

        def stopped() -> bool:
            return done or self._verdict is not None

        self._watcher.find(self._plan.entries(), self._plan.freed())
        unknown = [e for e in segment if isinstance(e, TableFreed) and e.entry not in self._watcher.tables_below]
        if unknown:
            raise NoCounterpartError(
                f"step {unknown[0].step}: the table below the {unknown[0].entry} is allocated by the same CPU with no "
                "switch between, so that nobody can know where it is"
            )
        entries = [e.entry for e in progress.expected if isinstance(e, Access)]
        # a change of attributes looks each of hundreds of pages up: only the read that is next is looked at
        narrow = progress.changes_attr

        def watch() -> None:
            following = progress.expected[progress.next] if progress.next < end else None
            read = {following.entry} if isinstance(following, Access) and not following.write else set()
            freed = [above for above in self._plan.freed() if above not in self._free]
            self._watcher.watch(entries, freed, read if narrow else None)

        watch()
        self._watcher.stop_at(self.cpus.gate, lambda on: self._arrived(on, cpu, progress))
        self._locks.start(cpu)
        self.cpus.unpark(cpu)
        ended = self._watcher.run(cpu, self._patience, hit, stopped)
        if self._verdict is None and not ended:
            self._verdict = self._diverged(progress, f"CPU {cpu} has not come to it in {self._patience:g} s", cpu)
        self._watcher.stop_nowhere()
        if self._verdict is None:
            self.cpus.park(cpu)
        self._watcher.watch([])
        return self._verdict

    def _access(self, progress: _Progress, seen: Hit, end: int) -> Outcome | None:
        """Take an access in; return None where it fits the plan."""
        if not seen.write:
            progress.reads[seen.entry] += 1
        if self._is_due(
            progress, end, lambda e: isinstance(e, Access) and (e.entry, e.write) == (seen.entry, seen.write)
        ):
            return None
        known = {e.entry for e in progress.expected[:end] if isinstance(e, Access)}
        if not seen.write and seen.entry in known:
            self._extra += 1
            return None
        where = self._symbols.function(self.cpus.pc(seen.cpu))
        what = f"CPU {seen.cpu} {'writes' if seen.write else 'reads'} the {seen.entry} in {where}"
        return self._diverged(progress, what, seen.cpu)

    def _is_due(self, progress: _Progress, end: int, fits: Callable[[Expected], bool]) -> bool:
        """Return whether what was seen is what is expected next, and take it in then.

        CPA reads entries by plain C: a compiler may take what an earlier read has found. So of a CPU that changes
        attributes, reads of entries that it has read before may be left out.
        """
        at = progress.next
        while at < end and not fits(expected := progress.expected[at]):
            read = isinstance(expected, Access) and not expected.write and progress.reads[expected.entry]
            if not progress.changes_attr or not read:
                return False
            at += 1
        if at >= end:
            return False
        self._left_out += at - progress.next
        progress.next = at + 1
        return True

    def _last_moment(self, cpu: int, progress: _Progress) -> bool:
        """Return whether a CPU whose last access of a segment was seen would come to its next one now."""
        last = progress.expected[progress.next - 1]
        if not isinstance(last, Access) or last.write:
            return True
        rehearsal = self._rehearsals.get(cpu)
        wanted = 0 if rehearsal is None else rehearsal.counts.get(last.step, 0)
        return progress.reads[last.entry] >= wanted

    def _freed(self, progress: _Progress, seen: Freed, end: int) -> Outcome | None:
        """Take in that a table is free; return None where it fits the plan."""
        self._free.add(seen.entry)
        if self._is_due(
            progress, end, lambda e: isinstance(e, TableFreed) and (e.cpu, e.entry) == (seen.cpu, seen.entry)
        ):
            last = self._plan.expected[-1]
            due = progress.expected[progress.next - 1]
            return self._linked(seen) if self._plan.frees_linked and due is last else None
        return self._diverged(progress, f"CPU {seen.cpu} frees the table below the {seen.entry}", seen.cpu)

    def _linked(self, seen: Freed) -> Outcome:
        """Say whether the entry above a table that has just become free still leads to it, as in the model."""
        table = self._watcher.tables_below[seen.entry]
        step = self._plan.expected[-1].step
        trace = self.cpus.backtrace(seen.cpu, self._symbols)
        if self._watcher.tables.below(self._plan.window, seen.entry) != table:
            message = f"CPU {seen.cpu} has freed the table below the {seen.entry}, which no longer leads to it"
            return Outcome(Result.DIVERGED, step, message, backtrace=trace)
        what = f"the table at {table:#x} is free while the {seen.entry} leads to it"
        return Outcome(Result.REPRODUCED, 0, what, backtrace=trace)

    def _arrived(self, on: int, cpu: int, progress: _Progress) -> None:
        """A worker has made a call and stands at the gate again."""
        if on != cpu:
            return
        progress.calls_left -= 1
        if progress.calls_left > 0:
            self.cpus.park_at_gate(cpu)
            self.cpus.unpark(cpu)
            return
        self._verdict = self._ended(progress, cpu)

    def _ended(self, progress: _Progress, cpu: int) -> Outcome:
        expected = progress.expected[min(progress.next, len(progress.expected) - 1)]
        failed = [lock for lock in self._locks.failed if not lock.waits]
        if failed:
            return self._not_reachable(expected, failed[-1], f"and the calls of CPU {cpu} end without it")
        return Outcome(Result.DIVERGED, expected.step, f"{expected} does not happen: CPU {cpu} has ended its calls")

    def _diverged(self, progress: _Progress, instead: str, cpu: int) -> Outcome:
        """Return the outcome for something that is not as expected, which may be because of a lock."""
        expected = progress.expected[min(progress.next, len(progress.expected) - 1)]
        if self._locks.failed:
            return self._not_reachable(expected, self._locks.failed[-1], instead)
        trace = self.cpus.backtrace(cpu, self._symbols)
        return Outcome(Result.DIVERGED, expected.step, f"instead of {expected}: {instead}", backtrace=trace)

    @staticmethod
    def _not_reachable(expected: Expected, lock: FailedLock, more: str) -> Outcome:
        return Outcome(Result.NOT_REACHABLE, expected.step, f"{expected} cannot happen: {lock}, {more}")

    # the end: the access to what is free

    def _fail(self, cpu: int) -> Outcome:
        """Let the CPU make the access that fails in the model, and say what KASAN said."""
        failing = self._plan.failing
        progress = self._progress[cpu]
        report, arrived = self._provoke(cpu)
        if not report:
            instead = f"KASAN reports nothing, and the call of CPU {cpu} {'has ended' if arrived else 'goes on'}"
            trace = self.cpus.backtrace(cpu, self._symbols)
            return Outcome(Result.DIVERGED, failing.step, f"instead of {failing}: {instead}", backtrace=trace)
        # inlined functions have no symbol, or not only: one of the model's that has one is where it is reported
        functions = [name for name in (*failing.stack, *_CALLERS.get(failing.stack[0], ())) if name in self._symbols]
        function = functions[0] if functions else ""
        address = self._watcher.found.get(failing.entry, 0)
        accessed = {int(found, 16) for line in report for found in _ADDRESS.findall(line)}
        if failing.somewhere:
            size = 1 << self._plan.window.geometry.page_shift
            address, accessed = address & -size, {one & -size for one in accessed}
        told = any(f" in {name}+" in report[0] for name in functions)
        if not told or address not in accessed:
            message = f"instead of an access to addr {address:016x} in {function}, KASAN reports {_headline(report)}"
            return Outcome(Result.DIVERGED, failing.step, message, report=report)
        progress.next += 1
        return Outcome(Result.REPRODUCED, 0, _headline(report), report=report)

    def _go_on(self, outcome: Outcome, freer: int) -> None:
        """Let those go on that were reading tables as one was freed that is still linked; add what KASAN says."""
        self.cpus.park(freer)
        for cpu, progress in self._progress.items():
            if cpu == freer or not progress.next:
                continue
            report, _ = self._provoke(cpu)
            said = f"KASAN reports {_headline(report)}" if report else "KASAN reports nothing"
            outcome.message += f"; CPU {cpu}, which was reading tables, goes on: {said}"
            outcome.report = report
            return

    def _provoke(self, cpu: int) -> tuple[list[str], bool]:
        """Let a CPU go on with its call; return KASAN's report, and whether the call has ended."""
        arrived = False

        def at_gate(on: int) -> None:
            nonlocal arrived
            arrived = arrived or on == cpu

        self._watcher.stop_at(self.cpus.gate, at_gate)
        self.cpus.unpark(cpu)
        self._watcher.run(
            cpu, self._patience, lambda seen: False, lambda: arrived or bool(self._guest.report(self._printed))
        )
        # a thread on another CPU may print it, after the call has ended (7.3)
        self._watcher.run(cpu, PRINT_SECONDS, lambda seen: False, lambda: bool(self._guest.report(self._printed)))
        return self._guest.report(self._printed), arrived


def _headline(report: list[str]) -> str:
    """Return what KASAN calls it: `use-after-free in ptdump_pte_entry+0x…`."""
    return report[0].partition("BUG: KASAN: ")[2]
