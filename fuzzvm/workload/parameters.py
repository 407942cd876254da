"""What a workload is run with: the module parameters of lib/test_vmalloc.c, and the machine around it."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kernel import arch as architectures
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import BYTES_PER_ENTRY, MAX_CPUS, Scenario

MAX_PAGES = 1 << 18
LAZY_BYTES = 32 << 20
"""Bytes a CPU (by the logarithm of their number) that are freed lazily before a purge (lazy_max_pages())."""


@dataclass(frozen=True)
class Parameters:
    """A run of test_vmalloc. The names are the module's; `use_huge` is what fix_size_alloc_test allocates with.

    `nr_pages` None is one PMD block, `levels` None the most that the page size has below five, `fanout` None the real
    one, `lazy_max_pages` None what lazy_max_pages() returns with that many CPUs. `list_length` stands for the thousands
    of areas that full_fit and long_busy_list keep. `used` says that small pages were mapped everywhere before, and
    unmapped: their tables are what promotions free. Raises ScenarioError for a value that is not possible.
    """

    nr_pages: int | None = None
    use_huge: bool = True
    test_repeat_count: int = 1
    test_loop_count: int = 10
    run_test_mask: int = 1
    nr_threads: int = 1
    sequential_test_order: bool = False
    arch: str = "arm64"
    page_size: str = "4K"
    levels: int | None = None
    fanout: int | None = None
    cont_ptes: int = 0
    lazy_mmu: bool = False
    lazy_max_pages: int | None = None
    list_length: int = 100
    used: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("nr_pages", 1, MAX_PAGES),
            ("test_repeat_count", 1, 1 << 20),
            ("test_loop_count", 1, 1 << 30),
            ("run_test_mask", 1, (1 << 31) - 1),
            ("nr_threads", 1, MAX_CPUS),
            ("lazy_max_pages", 1, 1 << 30),
            ("list_length", 1, 1 << 16),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ScenarioError(f"{name} must be from {low} to {high}, not {value}", name)

    def scenario(self, readers: int) -> Scenario:
        """Return the scenario of a kernel with that many CPUs that walk; its CPUs have no calls of their own."""
        if not 0 <= readers <= MAX_CPUS - self.nr_threads:
            most = MAX_CPUS - self.nr_threads
            raise ScenarioError(f"0 to {most} readers are possible beside {self.nr_threads} threads, not {readers}")
        levels, fanout = self.levels, self.fanout
        if self.arch in architectures.names() and self.page_size in (
            shifts := (arch := architectures.get(self.arch)).page_shifts
        ):
            if levels is None:
                levels = max(count for count in arch.levels_with(self.page_size) if count < 5)
            if fanout is None:
                fanout = (1 << shifts[self.page_size]) // BYTES_PER_ENTRY
        return Scenario(
            self.arch,
            self.page_size,
            levels or 0,
            fanout or 0,
            (),
            ((),) * (self.nr_threads + readers),
            cont_ptes=self.cont_ptes,
            lazy_mmu=self.lazy_mmu,
        )
