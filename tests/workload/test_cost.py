"""fuzzvm.workload.cost: the calibration, and what the weights are of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzvm.machine.ops import (
    Alloc,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
)
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.workload.cost import (
    COMMIT_AFTER_USEC,
    COMMIT_BEFORE_USEC,
    COMMIT_LOOPS,
    COMMIT_PAGES,
    Weights,
    calibrate,
)
from fuzzvm.workload.parameters import Parameters
from fuzzvm.workload.runner import Result, run

LOOPS = 320
COMMIT = Parameters(nr_pages=COMMIT_PAGES, use_huge=True, test_loop_count=LOOPS)


@pytest.fixture(scope="module")
def before_and_after() -> tuple[Result, Result]:
    """The commit's loop on a kernel without contiguous blocks, and on one with them."""
    return run(replace(COMMIT, cont_ptes=1), NoMitigation, 0), run(COMMIT, NoMitigation, 0)


def barriers(result: Result) -> int:
    return sum(count for kind, count in result.workload.barriers.items() if kind.startswith(("dsb", "isb")))


@pytest.mark.slow
def test_the_weights_are_what_the_calibration_gives(before_and_after: tuple[Result, Result]) -> None:
    before, after = before_and_after
    besides = [sum(ns for kind, ns in one.busy.items() if kind not in ("barrier", "page")) for one in (before, after)]
    counts = [barriers(one) / LOOPS for one in (before, after)]
    barrier, page = calibrate((counts[0], counts[1]), (besides[0] / LOOPS, besides[1] / LOOPS))
    assert (Weights().barrier, Weights().page) == (round(barrier, 3), round(page, 3))


@pytest.mark.slow
def test_the_commits_loop_takes_the_commits_time(before_and_after: tuple[Result, Result]) -> None:
    """By construction: this says that the formula is solved, and nothing of the hardware."""
    for result, usec in zip(before_and_after, (COMMIT_BEFORE_USEC, COMMIT_AFTER_USEC), strict=True):
        assert result.time / LOOPS * COMMIT_LOOPS / 1000 == pytest.approx(usec, rel=1e-4)
        assert result.pages == LOOPS * COMMIT_PAGES
    saved = 1 - before_and_after[1].time / before_and_after[0].time
    assert round(saved, 2) == 0.15


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (Load(0), "access"),
        (Store(0, 1), "access"),
        (Rmw(0, int), "atomic"),
        (Fence(Barrier.DSB_ISH), "barrier"),
        (Fence(Barrier.DSB_ISHST), "barrier"),
        (Fence(Barrier.ISB), "barrier"),
        (Fence(Barrier.DMB_ISHST), "dmb"),
        (Tlbi("vaae1is", 0), "tlbi"),
        (InterruptAll(), "ipi"),
        (CacheMaintenance(CacheOperation.IC_IVAU, 0), "cache"),
        (Alloc(1, ""), "table"),
        (Free(0), "table"),
        (Fetch(0), "fetch"),
    ],
)
def test_every_operation_has_its_weight(op: Operation, name: str) -> None:
    assert Weights().changed({name: 77.5}).of(op) == 77.5
    others = Weights().changed({other: 77.5 for other in Weights().to_data() if other != name})
    assert others.of(op) == getattr(Weights(), name)


def test_weights_that_are_none_are_refused() -> None:
    for changes, message in (
        ({"x": 1.0}, "no weight 'x'"),
        ({"tlbi": -1.0}, "0 or more"),
        ({"ipi": float("nan")}, "0 or"),
    ):
        with pytest.raises(ValueError, match=message):
            Weights().changed(changes)
    assert Weights().of(None) == 0


def test_a_weight_changes_the_time_by_its_count() -> None:
    parameters = Parameters(fanout=16, levels=3, cont_ptes=4, test_loop_count=4)
    plain = run(parameters, NoMitigation, 0)
    dearer = run(parameters, NoMitigation, 0, weights=Weights().changed({"tlbi": Weights().tlbi + 10}))
    assert dearer.time - plain.time == pytest.approx(10 * sum(plain.workload.tlbi.values()))
