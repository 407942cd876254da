"""A schedule is followed, on a guest that is made up: each ending, and that none comes about for another reason."""

from __future__ import annotations

import time
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
from fuzzvm.realkernel.follow import Rehearsal
from fuzzvm.realkernel.outcome import Outcome, Result
from fuzzvm.realkernel.places import Entry
from fuzzvm.realkernel.plan import Access
from tests.realkernel import simulated
from tests.realkernel.simulated import AT, LINEAR, PMD, ROOT, Console, Do, Simulated

CASE = read(Path(__file__).resolve().parents[2] / "corpus/regressions/none-use-after-free-read-4f5a29210ff8.toml")
PLAN = plans.make(CASE, X86_64.window(4))
PGD = ROOT + 8 * ((PLAN.window.start >> PLAN.window.shift(Level.PGD)) & 511)


def walk(promotion: list[Do], *, arch: Arch = X86_64, dump: list[Do] | None = None) -> tuple[Outcome, Simulated]:
    """Replay on a guest with this promotion; the dump is there twice, for the rehearsal."""
    once = simulated.dump(PGD) if dump is None else dump
    guest = Simulated(arch, [promotion, [*once, *once]], simulated.words(PLAN), arch.stops_before)
    kernel = BuiltKernel(Path(), "x86_64", "4K", 4, "6.12.0", True, "", 0.0)
    # the properties of a kernel's architecture come from a table; a variant of one is not in it
    console = Console(guest, kernel)
    console.kernel = type("Kernel", (), {"facts": arch, "levels": 4})()  # type: ignore[assignment]
    run = replay._Run(PLAN, console, simulated.GATE, time.monotonic() + 20)  # type: ignore[arg-type]
    return run.walk(), guest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CALL_SECONDS", 0.3)


@pytest.mark.parametrize("arch", [X86_64, replace(X86_64, stops_before=True)], ids=["after", "before"])
def test_reproduced(arch: Arch) -> None:
    outcome, guest = walk(simulated.promotion(PGD), arch=arch)
    assert (outcome.result, outcome.step) == (Result.REPRODUCED, 0)
    assert outcome.matched == len(PLAN.expected)
    assert outcome.extra_reads == 2
    assert "ptdump_pte_entry" in outcome.message and outcome.report == guest.report_lines


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


def test_kasan_saying_nothing_has_diverged() -> None:
    quiet = [do for do in simulated.dump(PGD) if do.what != "kasan"]
    outcome, _ = walk(simulated.promotion(PGD), dump=quiet)
    assert (outcome.result, outcome.step) == (Result.DIVERGED, PLAN.failing.step)
    assert "KASAN reports nothing" in outcome.message


def test_a_report_about_something_else_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ["BUG: KASAN: slab-out-of-bounds in other+0x1/0x2", "Read of size 8 at addr ffff888000000000 by task x/1"]
    monkeypatch.setattr(Console, "report", lambda self, start: other if self.simulated.report_lines else [])
    outcome, _ = walk(simulated.promotion(PGD))
    assert outcome.result is Result.DIVERGED and "slab-out-of-bounds in other" in outcome.message


def test_a_promotion_that_hangs_has_diverged() -> None:
    outcome, _ = walk([*simulated.promotion(PGD)[:2], *(Do(AT["vmap_range_noflush"] + 8) for _ in range(1 << 20))])
    assert outcome.result is Result.DIVERGED and "has not come to it in 0.3 s" in outcome.message


def test_without_the_rehearsal_the_dump_would_be_stopped_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read of the PMD entry is not the one that the walk follows."""
    monkeypatch.setattr(Rehearsal, "of", classmethod(lambda cls, accesses, hits: cls()))
    outcome, _ = walk(simulated.promotion(PGD))
    assert outcome.result is Result.DIVERGED


def test_without_parking_the_dump_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
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
