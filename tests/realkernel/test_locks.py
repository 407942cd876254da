"""Locks that a CPU fails to get, seen by breakpoints on CPUs that are made up."""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.realkernel.locks import Handler, Locks
from fuzzvm.realkernel.symbols import Symbols

SYMBOLS = Symbols(
    "1000 T down_read_trylock\n2000 T rwsem_down_write_slowpath\n3000 T vmap_range\n4000 D init_mm\n5000 D some_sem\n"
    "6000 t percpu_rwsem_wait\n7000 D mem_hotplug_lock\n"
)


class FakeCpus:
    """One CPU at one place, with one argument and result, and a backtrace."""

    def __init__(self) -> None:
        self.at, self.given, self.returns = 0x1000, 0x4070, 0

    def pc(self, cpu: int) -> int:
        return self.at

    def argument(self, cpu: int) -> int:
        return self.given

    def return_address(self, cpu: int) -> int:
        return 0x3010

    def result(self, cpu: int) -> int:
        return self.returns

    def backtrace(self, cpu: int, symbols: Symbols) -> list[str]:
        own = ["__percpu_down_read+0x40", "percpu_down_read+0x8"] if self.at == 0x6000 else ["down_write+0x8"]
        return ["slowpath+0x0", *own, "vmap_range+0x10"]


def started() -> tuple[FakeCpus, Locks, dict[int, Handler]]:
    """Return the CPUs, the locks of CPU 0, and what is called at which address."""
    handlers: dict[int, Handler] = {}
    changed: Callable[[int, Handler | None], None] = lambda address, handler: (  # noqa: E731
        handlers.update({address: handler}) if handler else handlers.pop(address, None)
    )
    cpus = FakeCpus()
    locks = Locks(cpus, SYMBOLS, changed)  # type: ignore[arg-type]
    locks.start(0)
    return cpus, locks, handlers


def test_a_trylock_counts_by_what_it_returns() -> None:
    cpus, locks, handlers = started()
    for cpus.returns, failed in ((1, 0), (0, 1)):
        handlers[0x1000](0)
        handlers[0x3010](1)
        assert 0x3010 in handlers
        handlers[0x3010](0)
        assert 0x3010 not in handlers and len(locks.failed) == failed
    assert str(locks.failed[0]) == "down_read_trylock(&init_mm.mmap_lock) failed in vmap_range"


def test_a_wait_names_who_waits_and_for_what() -> None:
    cpus, locks, handlers = started()
    cpus.at, cpus.given = 0x2000, 0x5008
    handlers[0x2000](0)
    assert str(locks.failed[0]) == "vmap_range waits for some_sem+0x8 (rwsem_down_write_slowpath)"


def test_what_other_cpus_fail_to_get_does_not_count() -> None:
    _, locks, handlers = started()
    handlers[0x1000](1)
    handlers[0x2000](1)
    assert not locks.failed and 0x3010 not in handlers


def test_starting_again_forgets() -> None:
    _, locks, handlers = started()
    handlers[0x2000](0)
    locks.start(1)
    assert not locks.failed


def test_functions_that_a_kernel_does_not_have_are_left_out() -> None:
    _, _, handlers = started()
    assert set(handlers) == {0x1000, 0x2000, 0x6000}


def test_a_lock_that_counts_its_readers_by_cpu() -> None:
    cpus, locks, handlers = started()
    cpus.at, cpus.given = 0x6000, 0x7000
    handlers[0x6000](0)
    assert str(locks.failed[0]) == "vmap_range waits for mem_hotplug_lock (percpu_rwsem_wait)"
