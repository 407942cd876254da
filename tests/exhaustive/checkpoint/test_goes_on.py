"""A search that is killed and goes on is the same search: verdict, states, transitions, shortest schedule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuzzvm.exhaustive import search as search_module
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.checkpoint.kept import PACKED, REDUCED, Kept, state_bytes
from fuzzvm.exhaustive.checkpoint.numbers import of_wide
from fuzzvm.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.exhaustive.reduced import Reduction
from fuzzvm.exhaustive.reduced_weakly import WeakReduction
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.verify.checkpoints import Checkpoint
from fuzzvm.verify.matrix import Bounds
from tests.exhaustive.checkpoint.killed import (
    KilledError,
    MortalKeeper,
    cell_of,
    facts,
    killed_often,
    plainly,
    small_steps,
    verified,
)

ALL = Bounds(Limits())
EVERY = Bounds(Limits(), reduce=False)

CELLS = [
    # every state in Python, then with the reductions
    ("static-key", "tlb-promotion", "sc", EVERY),
    ("static-key", "two-walkers", "sc", ALL),
    ("none", "pmd-promotion", "sc", ALL),
    ("static-key", "tlb-promotion", "tso", EVERY),
    ("static-key", "pud-promotion", "tso", ALL),
    ("static-key", "lazy-mmu", "arm64", ALL),
    # the error is found by the main search, and the shortest run by a search of its own
    ("none", "two-walkers", "arm64", ALL),
    ("none", "tlb-promotion", "tso", Bounds(Limits(), preemptions=1)),
]


@pytest.mark.always
@pytest.mark.parametrize(("mitigation", "scenario", "memory", "bounds"), CELLS)
def test_a_search_that_is_killed_goes_on_as_if_nothing_had_been(
    mitigation: str, scenario: str, memory: str, bounds: Bounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    monkeypatch.setattr(search_module, "has_compiled", lambda: False)
    cell = cell_of(mitigation, scenario, memory)
    verdict, killed = killed_often(tmp_path / "run", cell, bounds, seed=5, kills=6)
    assert killed, "it was over before it could be killed"
    assert facts(verdict) == facts(plainly(cell, bounds))


@pytest.mark.always
def test_compiled_code_goes_on_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    small_steps(monkeypatch)
    # a module's constant is a default of the function by now
    monkeypatch.setitem(search_module.search.__kwdefaults__, "hand_over", 50)
    kinds = []
    keep = DiskKeeper._keep

    def noted(self: DiskKeeper, space: Space, kept: Kept) -> None:
        kinds.append(kept.facts["kind"])
        keep(self, space, kept)

    monkeypatch.setattr(DiskKeeper, "_keep", noted)
    for mitigation, scenario, seeds in (("static-key", "tlb-promotion", 4), ("none", "two-walkers", 1)):
        cell = cell_of(mitigation, scenario, "sc")
        whole = facts(plainly(cell, EVERY))
        for seed in range(seeds):
            # early ones above all: later, hardly any state waits for a step
            verdict, killed = killed_often(tmp_path / f"{mitigation}-{seed}", cell, EVERY, seed, kills=4, most=3)
            assert killed
            assert facts(verdict) == whole
    assert kinds.count(PACKED) > 10


def test_a_bound_writes_a_checkpoint_and_another_bound_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)
    cell = cell_of("static-key", "tlb-promotion", "tso")
    checkpoint = Checkpoint.create(tmp_path / "run", cell, ALL)
    keeper = MortalKeeper(checkpoint, 0, seconds=float("inf"))

    check = Watch.check

    def stop(self: Watch, states: int) -> float:
        # in the main search, which the keeper has been told of
        if keeper.listens and states >= 150:
            raise StoppedError("enough")
        return check(self, states)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "check", stop)
        cut = verified(checkpoint, keeper)
    assert (cut.complete, cut.stopped) == (False, "enough")
    checkpoint.close()
    checkpoint = Checkpoint.open(tmp_path / "run", Limits())
    assert checkpoint.reached.startswith(f"{cut.states} states, main search")
    went_on = verified(checkpoint, MortalKeeper(checkpoint, 0))
    checkpoint.close()
    assert facts(went_on) == facts(plainly(cell, ALL))


def test_the_end_that_is_asked_for_comes_after_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)
    cell = cell_of("static-key", "tlb-promotion", "tso")
    checkpoint = Checkpoint.create(tmp_path / "run", cell, ALL)
    keeper = MortalKeeper(checkpoint, 0, seconds=float("inf"))
    keeper.asked = 2
    with pytest.raises(KeyboardInterrupt):
        verified(checkpoint, keeper)
    assert "main search" in checkpoint.reached
    checkpoint.close()


@pytest.mark.parametrize(("scenario", "memory"), [("two-walkers", "sc"), ("lazy-mmu", "arm64")])
def test_a_reduced_search_goes_on_with_what_it_knew_and_no_more(
    scenario: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    cell = cell_of("static-key", scenario, memory)
    checkpoint = Checkpoint.create(tmp_path / "run", cell, ALL)
    with pytest.raises(KilledError):
        verified(checkpoint, MortalKeeper(checkpoint, 9))
    checkpoint.close()
    checkpoint = Checkpoint.open(tmp_path / "run", Limits())
    space = Space(cell.system())
    kept = MortalKeeper(checkpoint, 0).restore(space)
    assert kept is not None
    stage, found, restored = kept
    assert (stage, found, restored.kind) == ("main search", None, REDUCED)
    if memory == "sc":
        search = Reduction(space, Limits(), Symmetry(space), None, restored)
    else:
        search = WeakReduction(space, Limits(), None, None, restored)
    again = search.kept()
    assert json.loads(json.dumps(again.facts)) == restored.facts
    for name, column in again.columns.items():
        assert sorted(restored.states(name, space)) == sorted(of_wide(column, state_bytes(space)))
    for name, (_, states) in again.growing.items():
        assert list(restored.states(name, space)) == list(states)
    checkpoint.close()


def test_what_is_new_of_cpus_begins_the_search_again_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    # without the pre-pass CPUs do more than is assumed, again and again
    monkeypatch.setattr("fuzzvm.exhaustive.stages.foresee", lambda space, limits: None)
    cell = cell_of("static-key", "pud-promotion", "tso")
    verdict, killed = killed_often(tmp_path / "run", cell, ALL, seed=1, kills=5)
    assert killed
    assert facts(verdict) == facts(plainly(cell, ALL))


def test_seconds_count_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)
    cell = cell_of("static-key", "tlb-promotion", "tso")
    checkpoint = Checkpoint.create(tmp_path / "run", cell, ALL)
    keeper = MortalKeeper(checkpoint, 1)
    keeper._began -= 1000
    with pytest.raises(KilledError):
        verified(checkpoint, keeper)
    assert 1000 < verified(checkpoint, MortalKeeper(checkpoint, 0)).seconds < 100_000
    checkpoint.close()
