"""Compiled promotion beside compiled walks: verdicts of the small kernel, as it is and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.compiled.image import Image, load
from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.images.calls import image_task
from fuzzvm.machine.task import settled
from fuzzvm.scenario import shipped
from tests.compiled import small


def verdict_of(image: Image, scenario: str, memory: str) -> Verdict:
    task = image_task(image, shipped.get(scenario), memory).learned()
    return settled(task, lambda task: verify(task, Limits(max_states=200_000)))[1]


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_a_promotion_that_takes_the_lock_is_safe(small_image: Image, memory: str) -> None:
    found = verdict_of(small_image, "pmd-promotion", memory)
    assert (found.verdict, found.complete) == ("safe", True)


@pytest.fixture(scope="session")
def without_lock(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel with a promotion that takes no lock."""
    return load(small.build_image(tmp_path_factory.mktemp("no-trylock"), config=small.FRAGMENT))


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_one_that_takes_no_lock_is_not(without_lock: Image, memory: str) -> None:
    found = verdict_of(without_lock, "pmd-promotion", memory)
    assert found.verdict == "bug"
    assert found.failure is not None
    assert found.failure.error in ("use-after-free-read", "wild-access")
    assert "ptdump_walk" in found.failure.stack


@pytest.fixture(scope="session")
def without_atomics(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel for CPUs that have no atomic instructions."""
    return load(small.build_image(tmp_path_factory.mktemp("ll-sc"), atomics="ll-sc"))


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_an_exclusive_store_fails_where_a_value_has_come_back(without_atomics: Image, memory: str) -> None:
    """Under arm64 the lock's word may be read as it was before a promotion has taken and released it."""
    found = verdict_of(without_atomics, "pmd-promotion", memory)
    assert (found.verdict, found.complete) == ("safe", True)


DOWN_READ = """\
struct rw_semaphore *rwsem_down_read_slowpath(struct rw_semaphore *sem);

void down_read(struct rw_semaphore *sem)
{
	s64 count = READ_ONCE(sem->count.counter), seen;

	while ((seen = cmpxchg_acquire(&sem->count.counter, count, count + READER)) != count)
		count = seen;
	if (unlikely(count & (WRITER | WAITERS)))
		rwsem_down_read_slowpath(sem);
}

bool down_read_trylock("""
AGAIN = """\
	{ void down_read(struct rw_semaphore *sem); down_read(&init_mm.mmap_lock); up_read(&init_mm.mmap_lock); }
	if (pmd_free_pte_page(pmd, addr))"""


def test_a_second_read_lock_queues_behind_a_writer_that_waits(tmp_path: Path) -> None:
    """As where arm64's static key met the trylock of 2026: the reader waits for the writer, who waits for it."""
    edits = {
        "kernel/locking/rwsem.c": ("bool down_read_trylock(", DOWN_READ),
        "mm/vmalloc.c": ("\tif (pmd_free_pte_page(pmd, addr))", AGAIN),
    }
    found = verdict_of(load(small.build_image(tmp_path, edits)), "pmd-promotion", "sc")
    assert found.failure is not None
    assert found.failure.error in ("deadlock", "no-progress")
