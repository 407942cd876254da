"""fuzzvm.workload: the tests of test_vmalloc, what is counted of them, and that a run follows from its seed."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations.config_off import ConfigOff
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.rcu_free import RcuFree
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.workload.cost import Weights
from fuzzvm.workload.parameters import MAX_PAGES, Parameters
from fuzzvm.workload.runner import Result, run
from fuzzvm.workload.selftest import TESTS, of_mask, shuffle_array

SMALL = Parameters(fanout=16, levels=3, cont_ptes=4, test_loop_count=4)
"""16 pages a PMD block, and a walk of a few dozen entries."""


class Trylock(Mitigation):
    """Promotes under mmap_lock where it can have it at once, and falls back where it cannot."""

    name = "trylock"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        return (yield from mmap_read_trylock(k, k.init_mm))

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


def facts(result: Result) -> dict[str, Any]:
    return {
        "workload": result.workload.to_data(),
        "readers": result.readers.to_data(),
        "time": result.time,
        "waited": result.waited,
        "reach": result.reach.to_data(),
        "failure": result.failure,
    }


# The tests


@pytest.mark.parametrize("name", [name for name, test in TESTS.items() if test])
def test_each_test_ends_as_the_kernels_does(name: str) -> None:
    mask = 1 << list(TESTS).index(name)
    parameters = replace(SMALL, run_test_mask=mask, fanout=64, test_repeat_count=2, list_length=10)
    result = run(parameters, NoMitigation, 0)
    assert result.failure is None
    if name == "align_shift_alloc_test":
        assert (result.passed, result.failed) == ({}, {name: 2}), "supposed to be failed"
    else:
        assert (result.passed, result.failed) == ({name: 2}, {})
    loops = {"full_fit_alloc_test": 2 * 10 + 4, "long_busy_list_alloc_test": 10 + 2 * 4}.get(name, 4)
    assert name == "align_shift_alloc_test" or result.areas == 2 * loops
    assert result.reach.mapped == result.pages << 12, "every page of an area is mapped when the test has it"


def test_the_mask_names_tests_by_bit() -> None:
    assert of_mask(1) == (["fix_size_alloc_test"], [])
    assert of_mask(8 | 128) == (["random_size_alloc_test"], ["pcpu_alloc_test"])
    assert of_mask(1 << 20) == ([], [])
    modelled, others = of_mask((1 << 31) - 1)
    assert [*modelled, *others] == sorted(TESTS, key=lambda name: (TESTS[name] is None, list(TESTS).index(name)))
    assert others == [name for name, test in TESTS.items() if test is None]


def test_shuffling_keeps_every_test() -> None:
    names = list(TESTS)
    shuffle_array(names, random.Random(1))
    assert sorted(names) == sorted(TESTS)
    assert names != list(TESTS)


# What is counted


def test_a_promotion_each_area_where_small_pages_were_before() -> None:
    used = run(SMALL, NoMitigation, 0)
    assert used.workload.promotions == used.blocks_possible == used.blocks_made == 4
    assert used.workload.to_data()["tables_freed"] == {"PTE": 4}
    fresh = run(replace(SMALL, used=False), NoMitigation, 0)
    assert (fresh.workload.promotions, fresh.blocks_made) == (0, 4)


def test_blocks_are_lost_where_they_are_not_made() -> None:
    off = run(SMALL, ConfigOff, 0)
    assert (off.blocks_made, off.blocks_lost) == (0, 4)
    assert off.reach.of("contiguous") == off.reach.mapped
    small = run(replace(SMALL, use_huge=False), NoMitigation, 0)
    assert (small.blocks_possible, small.blocks_lost) == (0, 0)


def test_a_scheme_that_falls_back_loses_blocks_only_where_somebody_dumps() -> None:
    alone = run(SMALL, Trylock, 0)
    assert (alone.blocks_lost, alone.workload.free_path_locks, alone.workload.free_path_contended) == (0, 4, 0)
    beside = run(replace(SMALL, test_loop_count=20), Trylock, 2)
    assert beside.failure is None
    assert beside.blocks_lost > 0
    assert beside.workload.free_path_contended == beside.blocks_lost
    assert beside.reach.of("contiguous") == beside.blocks_lost * 16 << 12
    assert beside.waited == 0


def test_locks_of_each_scheme() -> None:
    for readers in (0, 1):
        always = run(SMALL, MmapLockAlways, readers)
        assert always.workload.free_path_locks >= always.workload.promotions == 4
    alone = run(SMALL, StaticKeyMitigation, 0)
    assert (alone.workload.free_path_locks, alone.free_path_lock) == (0, 0)
    beside = run(replace(SMALL, test_loop_count=20), StaticKeyMitigation, 1)
    assert 0 < beside.workload.free_path_locks <= beside.workload.promotions
    assert beside.free_path_lock >= beside.waited > 0
    assert beside.readers.text_patches == 4 * beside.readers.walks


def test_waiting_is_part_of_the_time_that_passes() -> None:
    """The clocks go on together: what the worker waits and works is what the reader walks meanwhile."""
    result = run(replace(SMALL, test_loop_count=100), MmapLockAlways, 1)
    assert result.waited > 0
    assert result.time == pytest.approx(result.readers.steps * Weights().walk, rel=0.2)


def test_what_a_scheme_puts_off_is_counted_by_itself() -> None:
    result = run(SMALL, RcuFree, 1)
    assert result.failure is None
    assert result.workload.promotions == 4
    assert result.workload.to_data()["tables_freed"] == {}
    assert result.kernel_threads.to_data()["tables_freed"] == {"PTE": 4}


def test_readers_read_until_the_workload_ends_and_at_least_once() -> None:
    result = run(replace(SMALL, test_loop_count=1), StaticKeyMitigation, 3)
    assert result.readers.walks >= 3
    longer = run(replace(SMALL, test_loop_count=30), StaticKeyMitigation, 3)
    assert longer.readers.walks > result.readers.walks


def test_a_bug_ends_the_run_and_is_told() -> None:
    parameters = Parameters(fanout=128, levels=3, test_loop_count=10)
    failures = [run(replace(parameters, seed=seed), NoMitigation, 2).failure for seed in range(6)]
    assert {failure.error for failure in failures if failure} <= {"use-after-free-read", "use-after-free-reused"}
    assert any(failures)


def test_a_purge_comes_after_so_many_pages_and_its_addresses_are_used_again() -> None:
    parameters = replace(SMALL, lazy_max_pages=31, test_loop_count=8, use_huge=False)
    result = run(parameters, NoMitigation, 0)
    # 16 pages an area: the second one reaches 32, and so does every second one after it
    assert result.workload.locks == 4
    assert sum(result.workload.tlbi.values()) == 4, "past PTRS_PER_PTE pages all is flushed at once"
    assert result.workload.to_data()["tables_allocated"] == {}


def test_threads_share_the_kernel() -> None:
    result = run(replace(SMALL, nr_threads=3, run_test_mask=127, list_length=5, fanout=64), StaticKeyMitigation, 1)
    assert result.failure is None
    assert result.passed["fix_size_alloc_test"] == 3


# A run follows from its parameters


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_the_same_seed_gives_the_same_run(memory: str) -> None:
    parameters = replace(SMALL, run_test_mask=9, fanout=128, test_loop_count=2, seed=3)
    first, again = (run(parameters, MmapLockAlways, 1, memory=memory) for _ in range(2))
    assert facts(first) == facts(again)
    other = run(replace(parameters, seed=4), MmapLockAlways, 1, memory=memory)
    assert facts(first) != facts(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nr_pages": 0}, f"nr_pages must be from 1 to {MAX_PAGES}, not 0"),
        ({"test_loop_count": 0}, "test_loop_count must be from 1"),
        ({"run_test_mask": -1}, "run_test_mask must be from 1"),
        ({"nr_threads": 9}, "nr_threads must be from 1 to 8, not 9"),
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_impossible_machines_are_refused() -> None:
    with pytest.raises(ScenarioError, match="0 to 5 readers are possible beside 3 threads, not 6"):
        replace(SMALL, nr_threads=3).scenario(6)
    with pytest.raises(ScenarioError, match="no architecture 'sparc'"):
        Parameters(arch="sparc").scenario(0)
    with pytest.raises(ScenarioError, match="page_size must be one of 4K, 16K, 64K"):
        Parameters(page_size="8K").scenario(0)


def test_the_geometry_is_the_real_one_where_nobody_says() -> None:
    for page_size, levels, fanout in (("4K", 4, 512), ("16K", 4, 2048), ("64K", 3, 8192)):
        scenario = Parameters(page_size=page_size).scenario(2)
        assert (scenario.levels, scenario.fanout, len(scenario.cpus)) == (levels, fanout, 3)
