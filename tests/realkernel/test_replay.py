"""A schedule is followed, on a guest that is made up: each ending, and that none comes about for another reason."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel import plan as plans
from fuzzvm.realkernel import replay
from fuzzvm.realkernel.arch import X86_64, Arch
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.cpus import Cpus
from fuzzvm.realkernel.errors import NoCounterpartError, RealKernelError
from fuzzvm.realkernel.follow import Rehearsal
from fuzzvm.realkernel.gdb import Stop
from fuzzvm.realkernel.outcome import Outcome, Result
from fuzzvm.realkernel.places import Entry, Tables
from fuzzvm.realkernel.plan import Access, Plan
from fuzzvm.scenario.calls import parse_call
from tests.clock import slow_clock
from tests.realkernel import simulated
from tests.realkernel.simulated import AT, LAST, LINEAR, PMD, ROOT, TEXT, Console, Do, Simulated

CASE = read(Path(__file__).resolve().parents[2] / "corpus/regressions/none-use-after-free-read-4f5a29210ff8.toml")
PLAN = plans.make(CASE, X86_64.window(12, 4))
PGD = ROOT + 8 * ((PLAN.window.start >> PLAN.window.shift(Level.PGD)) & 511)


def walk(
    promotion: list[Do],
    *,
    arch: Arch = X86_64,
    dump: list[Do] | None = None,
    idle_steps: int = 0,
    counts: int = 0,
    plan: Plan = PLAN,
    reported: str = "ptdump_pte_entry",
    late: bool = False,
    reported_at: int = 0,
) -> tuple[Outcome, Simulated]:
    """Replay on a guest with this promotion; the dump is there twice, for the rehearsal."""
    once = simulated.dump(PGD) if dump is None else dump
    guest = Simulated(arch, [promotion, [*once, *once]], simulated.words(PLAN), arch.stops_before, idle_steps)
    guest.reported, guest.prints_late, guest.reported_at = reported, late, reported_at
    kernel = BuiltKernel(Path(), "x86_64", "4K", 4, "6.12.0", (), (), (), "", 0.0)
    # the properties of a kernel's architecture come from a table; a variant of one is not in it
    console = Console(guest, kernel)
    facts = {"facts": arch, "levels": 4, "page_shift": 12, "shadow_offset": lambda self: simulated.SHADOW_OFFSET}
    console.kernel = type("Kernel", (), facts)()  # type: ignore[assignment]
    run = replay._Run(plan, console, (simulated.GATE, counts), math.inf, 30.0)  # type: ignore[arg-type]
    return run.walk(), guest


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch, "fuzzvm.realkernel.follow")


@pytest.mark.parametrize("arch", [X86_64, replace(X86_64, stops_before=True)], ids=["after", "before"])
def test_reproduced(arch: Arch) -> None:
    outcome, guest = walk(simulated.promotion(PGD), arch=arch)
    assert (outcome.result, outcome.step) == (Result.REPRODUCED, 0)
    assert outcome.matched == len(PLAN.expected)
    assert outcome.extra_reads == 2
    assert "ptdump_pte_entry" in outcome.message and outcome.report == guest.report_lines


@pytest.mark.parametrize("idle", range(2, 8))
def test_a_step_that_is_reported_and_not_made_counts_nothing_twice(idle: int) -> None:
    for arch in (X86_64, replace(X86_64, stops_before=True)):
        outcome, _ = walk(simulated.promotion(PGD, trylock=1), arch=arch, idle_steps=idle)
        assert (outcome.result, outcome.extra_reads) == (Result.REPRODUCED, 2)


def test_a_cpu_that_makes_no_step_is_an_error() -> None:
    with pytest.raises(RealKernelError, match="makes no step"):
        walk(simulated.promotion(PGD), arch=replace(X86_64, stops_before=True), idle_steps=1)


def test_with_a_lock_that_is_to_be_had() -> None:
    outcome, _ = walk(simulated.promotion(PGD, trylock=1))
    assert outcome.result is Result.REPRODUCED and not outcome.locks


def test_a_failed_trylock_is_named() -> None:
    outcome, _ = walk(simulated.promotion(PGD, trylock=0))
    assert (outcome.result, outcome.step) == (Result.NOT_REACHABLE, 9)
    assert "down_read_trylock(&init_mm.mmap_lock) failed in vmap_range_noflush" in outcome.message


def test_a_promotion_that_falls_back_for_no_lock_has_diverged() -> None:
    outcome, _ = walk(simulated.promotion(PGD, frees=False))
    assert (outcome.result, outcome.step) == (Result.DIVERGED, 9)


def test_a_write_that_the_model_does_not_make_has_diverged() -> None:
    program = simulated.promotion(PGD)
    program.insert(1, Do(AT["vmap_range_noflush"] + 2, "write", LINEAR + PMD))
    outcome, _ = walk(program)
    assert (outcome.result, outcome.step) == (Result.DIVERGED, 7)
    assert "CPU 0 writes the pmd entry of page 0 in vmap_range_noflush" in outcome.message and outcome.backtrace


@pytest.mark.parametrize(
    ("stack", "reported", "result"),
    [
        (("vmalloc_to_page", "aligned_vread_iter", "run"), "vmalloc_to_page", Result.REPRODUCED),
        # the compiler may inline it, exported or not
        (("vmalloc_to_page", "aligned_vread_iter", "run"), "vread_iter", Result.REPRODUCED),
        (("vmalloc_to_page", "aligned_vread_iter", "run"), "ptdump_pte_entry", Result.DIVERGED),
        (("ptdump_pte_entry", "walk_pgd_range"), "vread_iter", Result.DIVERGED),
    ],
)
def test_who_is_reported_is_who_fails_in_the_model(stack: tuple[str, ...], reported: str, result: Result) -> None:
    plan = replace(PLAN, expected=(*PLAN.expected[:-1], replace(PLAN.failing, stack=stack)))
    assert walk(simulated.promotion(PGD), plan=plan, reported=reported)[0].result is result


@pytest.mark.parametrize(
    ("somewhere", "reported_at", "result"),
    [
        (False, 0, Result.REPRODUCED),
        (False, 8 * 7, Result.DIVERGED),
        (True, 8 * 7, Result.REPRODUCED),
        (True, 4096, Result.DIVERGED),
        (True, -8, Result.DIVERGED),
    ],
)
def test_an_access_somewhere_in_a_table_is_one_to_any_entry_of_it(
    somewhere: bool, reported_at: int, result: Result
) -> None:
    plan = replace(PLAN, expected=(*PLAN.expected[:-1], replace(PLAN.failing, somewhere=somewhere)))
    assert walk(simulated.promotion(PGD), plan=plan, reported_at=reported_at)[0].result is result


def test_a_report_that_a_thread_prints_after_the_call_has_ended_is_waited_for() -> None:
    outcome, guest = walk(simulated.promotion(PGD), late=True)
    assert outcome.result is Result.REPRODUCED and guest.waits_since_report


def test_of_who_changes_attributes_only_the_next_read_is_seen() -> None:
    """It looks up each of hundreds of pages: a stop at each read would take minutes."""
    program = simulated.promotion(PGD)
    again = [Do(AT["vmap_range_noflush"] + 0x100 + 4 * n, "read", PGD) for n in range(5)]
    outcome, _ = walk([*program[:3], *again, *program[3:]])
    assert (outcome.result, outcome.extra_reads) == (Result.REPRODUCED, 7)
    changes = parse_call("set_memory_rox(page=0, nr_pages=2)")
    scenario = replace(CASE.scenario, cpus=((changes,), *CASE.scenario.cpus[1:]))
    plan = replace(PLAN, case=replace(CASE, scenario=scenario))
    outcome, _ = walk([*program[:3], *again, *program[3:]], plan=plan)
    assert (outcome.result, outcome.extra_reads) == (Result.REPRODUCED, 2)
    # nor is it missed where the compiler has left a read out of an entry that was read before; a first one is
    left_out = [do for do in program if do.pc != AT["pmd_free_pte_page"] + 4]
    outcome, _ = walk(left_out, plan=plan)
    assert (outcome.result, outcome.matched, outcome.passed_over) == (Result.REPRODUCED, len(PLAN.expected) - 1, 1)
    assert walk(left_out)[0].result is Result.DIVERGED
    assert (
        walk([do for do in program if do.address != LINEAR + PMD or do.what != "read"], plan=plan)[0].result
        is Result.DIVERGED
    )
    # a write is seen all the same
    program.insert(1, Do(AT["vmap_range_noflush"] + 2, "write", LINEAR + PMD))
    assert walk(program, plan=plan)[0].result is Result.DIVERGED


def test_a_parked_cpu_is_not_preempted() -> None:
    """Each CPU's count is raised by one while it is parked, and as it was while it runs."""
    outcome, guest = walk(simulated.promotion(PGD), counts=simulated.COUNTS)
    assert outcome.result is Result.REPRODUCED
    assert guest.preempted == [] and guest.counted
    # the reader runs at the end, the other one is parked
    assert guest.counts == {0: simulated.COUNT + 1, 1: simulated.COUNT}


def replaced(program: list[Do], what: str, *instead: Do) -> list[Do]:
    """Return a program with one instruction replaced."""
    at = next(number for number, do in enumerate(program) if do.what == what)
    return [*program[:at], *instead, *program[at + 1 :]]


FREE = AT["pmd_free_pte_page"] + 12


def test_a_table_is_free_when_all_its_shadow_says_so() -> None:
    """The last word of the shadow first, the rest many instructions later: the reader is not let go before."""
    tail_first = [Do(FREE, "poison", LAST, only=True), *(Do(FREE) for _ in range(100)), Do(FREE, "poison", LAST - 8)]
    outcome, guest = walk(replaced(simulated.promotion(PGD), "poison", *tail_first))
    assert outcome.result is Result.REPRODUCED and set(guest.shadow) == {0xFF}


def test_a_table_that_is_handed_out_is_not_freed() -> None:
    outcome, _ = walk(replaced(simulated.promotion(PGD), "poison", Do(FREE, "unpoison", LAST)))
    assert (outcome.result, outcome.step) == (Result.DIVERGED, 13)
    assert outcome.message.startswith("instead of CPU 0 frees the table below the pmd entry of page 0: CPU 0 writes")


def test_a_free_before_its_time_has_diverged() -> None:
    outcome, _ = walk(replaced(simulated.promotion(PGD), "clear", Do(FREE, "poison", LAST)))
    assert (outcome.result, outcome.step) == (Result.DIVERGED, 10)
    assert "instead of CPU 0 writes the pmd entry of page 0: CPU 0 frees the table" in outcome.message


def test_a_table_that_nobody_can_find_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tables, "below", lambda self, window, entry: None)
    with pytest.raises(NoCounterpartError, match="step 13: the table below the pmd entry of page 0"):
        walk(simulated.promotion(PGD))


LINKED = replace(
    PLAN,
    expected=tuple(e for e in PLAN.expected[:-1] if not (isinstance(e, Access) and e.write and e.cpu == 0)),
)
"""The table is freed with no write of the entry that leads to it, after a dump has read that."""


def never_cleared() -> list[Do]:
    return [do for do in simulated.promotion(PGD) if do.what != "clear"]


def test_a_table_that_is_freed_while_linked_is_seen_and_the_reader_goes_on() -> None:
    outcome, guest = walk(never_cleared(), plan=LINKED)
    assert (outcome.result, outcome.step, outcome.matched) == (Result.REPRODUCED, 0, len(LINKED.expected))
    assert outcome.message.startswith(f"the table at {LINEAR + simulated.PTE:#x} is free while the pmd entry of page 0")
    assert "CPU 1, which was reading tables, goes on: KASAN reports use-after-free in" in outcome.message
    assert outcome.report == guest.report_lines and outcome.backtrace


def test_nothing_more_is_said_where_nobody_was_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PRINT_SECONDS", 0.1)
    alone = replace(LINKED, expected=tuple(e for e in LINKED.expected if e.cpu == 0))
    outcome, guest = walk(never_cleared(), plan=alone)
    assert outcome.result is Result.REPRODUCED and outcome.message.endswith("of page 0 leads to it")
    assert guest.at[1] == 0
    outcome, _ = walk(never_cleared(), plan=LINKED, dump=[do for do in simulated.dump(PGD) if do.what != "kasan"])
    assert outcome.result is Result.REPRODUCED and outcome.message.endswith("goes on: KASAN reports nothing")


def test_a_table_that_was_unlinked_first_has_diverged() -> None:
    outcome, _ = walk(simulated.promotion(PGD), plan=LINKED)
    assert outcome.result is Result.DIVERGED and "CPU 0 writes the pmd entry of page 0" in outcome.message
    # nor does a write that is not seen make it linked
    unseen = replaced(simulated.promotion(PGD), "clear", Do(FREE - 2, "clear-by-alias", LINEAR + PMD))
    outcome, _ = walk(unseen, plan=LINKED)
    assert outcome.result is Result.DIVERGED and outcome.message.endswith("which no longer leads to it")


def entering(monkeypatch: pytest.MonkeyPatch, function: str = "pmd_free_pte_page") -> None:
    """Have the first call of whoever does not dump be let to a function before the schedule begins."""
    monkeypatch.setattr("fuzzvm.realkernel.hotplug.entered", lambda call: None if call.walks else function)


def test_a_call_is_let_to_where_its_part_begins_while_others_may_be_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    entering(monkeypatch, "set_swapper_pgd")
    counted: list[dict[int, int]] = []
    waits = Simulated.wait

    def wait(self: Simulated, seconds: float) -> Stop | None:
        counted.append(dict(self.counts))
        return waits(self, seconds)

    monkeypatch.setattr(Simulated, "wait", wait)
    program = [Do(AT["vmap_range_noflush"] - 8), Do(AT["set_swapper_pgd"]), *simulated.promotion(PGD)]
    outcome, guest = walk(program, counts=simulated.COUNTS)
    assert outcome.result is Result.REPRODUCED
    # nobody is kept from being switched until it is there; then whoever is parked is
    assert counted[0] == dict.fromkeys((0, 1), simulated.COUNT)
    assert guest.counts == {0: simulated.COUNT + 1, 1: simulated.COUNT}


def test_a_call_that_does_not_come_there_is_an_error(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    entering(monkeypatch, "vread_iter")
    with pytest.raises(RealKernelError, match="CPU 0 has not come to vread_iter in 30 s: it is at"):
        walk(simulated.promotion(PGD))


def test_a_dump_that_waits_for_a_lock_in_the_rehearsal(quick: None) -> None:
    waits = [Do(AT["percpu_rwsem_wait"], argument=simulated.HOTPLUG_LOCK), *(Do(TEXT) for _ in range(1 << 16))]
    outcome, _ = walk(simulated.promotion(PGD), dump=waits)
    assert (outcome.result, outcome.step) == (Result.NOT_REACHABLE, PLAN.accesses(1)[0].step)
    assert "waits for mem_hotplug_lock (percpu_rwsem_wait), the dump that CPU 1 makes alone" in outcome.message
    with pytest.raises(RealKernelError, match="the dump that CPU 1 makes alone does not end"):
        walk(simulated.promotion(PGD), dump=waits[1:])


def by_alias() -> list[Do]:
    """Return a promotion that writes the entry through another address, as arm64 does those of its root."""
    setter = AT["set_swapper_pgd"]
    calls = Do(setter, back=FREE - 2, argument=LINEAR + PMD), Do(setter + 4, "clear-by-alias", LINEAR + PMD)
    return replaced(simulated.promotion(PGD), "clear", *calls, Do(FREE - 2))


def test_a_write_to_the_root_by_another_address_is_seen() -> None:
    outcome, _ = walk(by_alias(), arch=replace(X86_64, root_writer="set_swapper_pgd"))
    assert outcome.result is Result.REPRODUCED
    outcome, _ = walk(by_alias())
    assert outcome.result is Result.DIVERGED


def test_a_write_to_the_root_by_its_own_address_counts_once() -> None:
    program = replaced(by_alias(), "clear-by-alias", Do(AT["set_swapper_pgd"] + 4, "clear", LINEAR + PMD))
    outcome, _ = walk(program, arch=replace(X86_64, root_writer="set_swapper_pgd"))
    assert outcome.result is Result.REPRODUCED


def test_kasan_saying_nothing_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PRINT_SECONDS", 0.1)
    quiet = [do for do in simulated.dump(PGD) if do.what != "kasan"]
    outcome, _ = walk(simulated.promotion(PGD), dump=quiet)
    assert (outcome.result, outcome.step) == (Result.DIVERGED, PLAN.failing.step)
    assert "KASAN reports nothing" in outcome.message


def test_a_report_about_something_else_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ["BUG: KASAN: slab-out-of-bounds in other+0x1/0x2", "Read of size 8 at addr ffff888000000000 by task x/1"]
    monkeypatch.setattr(Console, "report", lambda self, start: other if self.simulated.report_lines else [])
    outcome, _ = walk(simulated.promotion(PGD))
    assert outcome.result is Result.DIVERGED and "slab-out-of-bounds in other" in outcome.message


@pytest.mark.slow
def test_a_promotion_that_hangs_has_diverged(quick: None) -> None:
    outcome, _ = walk([*simulated.promotion(PGD)[:2], *(Do(AT["vmap_range_noflush"] + 8) for _ in range(1 << 20))])
    assert outcome.result is Result.DIVERGED and "has not come to it in 30 s" in outcome.message


def test_without_the_rehearsal_the_dump_would_be_stopped_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read of the PMD entry is not the one that the walk follows."""
    monkeypatch.setattr(replay, "PRINT_SECONDS", 0.1)
    monkeypatch.setattr(Rehearsal, "of", classmethod(lambda cls, accesses, hits: cls()))
    outcome, _ = walk(simulated.promotion(PGD))
    assert outcome.result is Result.DIVERGED


def test_without_parking_the_dump_would_go_on(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(Cpus, "park", lambda self, cpu: self.resume_at.setdefault(cpu, self.pc(cpu)))
    monkeypatch.setattr(Cpus, "unpark", lambda self, cpu: self.gdb.set_register(cpu, 16, self.resume_at.pop(cpu)))
    outcome, _ = walk(simulated.promotion(PGD))
    assert outcome.result is Result.DIVERGED


def access(step: int, level: Level) -> Access:
    return Access(step, 1, Entry(level, 0), False, ())


def test_the_rehearsal_counts_reads_up_to_the_next_entry() -> None:
    pgd, pmd, pte = (Entry(level, 0) for level in (Level.PGD, Level.PMD, Level.PTE))
    accesses = [access(3, Level.PGD), access(4, Level.PMD), access(9, Level.PTE)]
    assert Rehearsal.of(accesses, [pgd, pgd, pmd, pmd, pmd, pte, pmd]).counts == {3: 2, 4: 3}
    # an entry that is not come to says nothing of the ones after it
    assert Rehearsal.of(accesses, [pgd, pmd]).counts == {3: 1}
    assert Rehearsal.of(accesses, []).counts == {}
