"""What happens in some schedule, read off the automata of a search, against what happens in schedules that are run."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.exhaustive import Verdict
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import foresee, search_reduced
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.kernel.cover_points import (
    BRANCH_TAKEN,
    PROMOTION,
    TABLE_FREED,
    WALK,
    WALKED_TABLE_FREED,
    CoverPoints,
    watch,
)
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.execution import execute
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from fuzzvm.runs.happened import ENOUGH_RUNS, Happened
from fuzzvm.runs.strategies.pct import Pct
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from fuzzvm.verify.met import met_in
from fuzzvm.verify.system import verify_system
from tests.exhaustive.reduction import reduce_at_once
from tests.support import Seeded

RUNS = 100
SAFE = [
    ("static-key", "pmd-promotion", "sc"),
    ("static-key", "two-walkers", "sc"),
    ("static-key", "pmd-promotion", "arm64"),
    ("static-key", "x86-pmd-promotion", "tso"),
    ("vmap-trylock", "two-tables", "sc"),
    ("vmap-trylock", "check-wx", "arm64"),
    ("rcu-free", "two-tables", "sc"),
    ("rcu-free", "pmd-promotion", "arm64"),
    ("cpa-lock", "x86-cpa-collapse", "tso"),
    ("none", "x86-cpa-split", "sc"),
    ("config-off", "contpte", "sc"),
]


def system_of(mitigation: str | type[Mitigation], scenario: str, memory: str) -> System:
    scheme = registry.get(mitigation) if isinstance(mitigation, str) else mitigation
    return System(shipped.get(scenario), scheme, memory)


def judge(system: System, *, reduce: bool = True) -> Verdict:
    return verify_system(system, reduce=reduce)[0]


def met_by_runs(system: System) -> frozenset[str]:
    """Return what happens in random runs, and in those that change CPUs a few times only."""
    points = CoverPoints(system.kernel.arch, system.booted().allocator)
    for seed in range(RUNS):
        few_changes = Pct(Random(seed))
        few_changes.begin(0, system.cpus)
        chooser = few_changes if seed % 2 else Seeded(seed)
        assert execute(watch(system.machine(), points), chooser).failure is None
    return points.met


@pytest.mark.parametrize(("mitigation", "scenario", "memory"), SAFE)
def test_a_proof_has_met_what_its_schedules_meet(mitigation: str, scenario: str, memory: str) -> None:
    system = system_of(mitigation, scenario, memory)
    verdict = judge(system)
    assert (verdict.verdict, verdict.complete, verdict.missing) == ("safe", True, ())
    assert verdict.met == met_by_runs(system)


@pytest.mark.parametrize(("mitigation", "scenario", "memory"), [one for one in SAFE if one[2] == "sc"])
def test_reductions_leave_out_no_point(mitigation: str, scenario: str, memory: str) -> None:
    met = []
    for reduced in (False, True):
        system = system_of(mitigation, scenario, memory)
        space = Space(system)
        found = search_reduced(space, Limits(), symmetry=Symmetry(space)) if reduced else search(space, Limits())
        assert found.complete and not found.findings
        met.append(met_in(system, space))
    assert met[0] == met[1]


def test_the_pre_pass_under_sequential_consistency_meets_nothing_that_the_weaker_memory_does_not() -> None:
    for memory in ("tso", "arm64"):
        system = system_of("static-key", "pmd-promotion", memory)
        space = Space(system)
        foresee(space, Limits())
        before = met_in(system, space)
        assert search_reduced(space, Limits()).complete
        assert before <= met_in(system, space) == met_by_runs(system)


class NeverPromotes(Mitigation):
    """Gives promotions up, and does not say so."""

    name = "never-promotes"
    one_walker = "safe"
    two_walkers = "safe"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield from ()
        return False


class SaysSo(NeverPromotes):
    name = "says-so"
    gives_up = frozenset({PROMOTION, TABLE_FREED, WALKED_TABLE_FREED})


class KeyNeverOn(StaticKeyMitigation):
    """A key that nobody turns on, beside a lock that makes it safe."""

    name = "key-never-on"

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from ()

    def after_walk(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from ()

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from registry.get("mmap-lock-always")().before_clear(k, level)

    def after_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from registry.get("mmap-lock-always")().after_free(k, level, token)


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize("reduce", [False, True])
def test_a_scheme_that_gives_up_in_silence_is_vacuous(memory: str, reduce: bool) -> None:
    silent = judge(system_of(NeverPromotes, "pmd-promotion", memory), reduce=reduce)
    assert (silent.verdict, silent.complete) == ("vacuous", True)
    assert silent.missing == (PROMOTION, TABLE_FREED, WALKED_TABLE_FREED)
    assert silent.met == {WALK}
    said = judge(system_of(SaysSo, "pmd-promotion", memory), reduce=reduce)
    assert (said.verdict, said.missing, said.met) == ("safe", (), silent.met)


def test_a_key_that_nobody_turns_on_is_vacuous() -> None:
    verdict = judge(system_of(KeyNeverOn, "pmd-promotion", "sc"))
    assert (verdict.verdict, verdict.missing) == ("vacuous", (BRANCH_TAKEN,))


def test_where_cpus_turn_out_not_to_be_alike_what_was_seen_of_wrong_names_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TellsApart(NeverPromotes):
        name = "tells-apart"

        def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
            if k.cpu == 1:
                yield from ()

    reduce_at_once(monkeypatch)
    verdict = judge(system_of(TellsApart, "x86-two-walkers", "sc"))
    assert (verdict.verdict, verdict.met) == ("vacuous", {WALK})


def test_a_bug_says_what_happened_until_it_was_found() -> None:
    verdict = judge(system_of("none", "pmd-promotion", "sc"))
    assert verdict.verdict == "bug" and verdict.missing == ()
    assert {WALK, PROMOTION} <= verdict.met


def test_runs_are_watched_until_there_is_nothing_left_to_see() -> None:
    system = system_of("none", "x86-cpa-split", "sc")
    happened = Happened()
    first = happened.machine(system)
    assert first.trace is not None
    execute(first, Seeded(0))
    happened.ended(system)
    assert happened.of(system).first == {"split": 1, "walk": 1}
    assert happened.machine(system).trace is None


def test_what_happens_in_no_run_is_vacuous_once_there_were_enough() -> None:
    system = system_of(NeverPromotes, "pmd-promotion", "sc")
    happened = Happened()
    one = happened.of(system)
    for run in range(ENOUGH_RUNS):
        assert not one.vacuous
        execute(happened.machine(system), Seeded(run))
        happened.ended(system)
    assert one.vacuous and one.missing == (PROMOTION, TABLE_FREED, WALKED_TABLE_FREED)
    assert one.first[WALK] == 1
