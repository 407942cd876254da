"""A device that walks the kernel's page tables: what is freed under it, and the flag by which tables wait for it."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.errors import IOMMU_WALK_OF_FREED_TABLE
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations import deferred_free
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell

SPLIT = ["set_memory_ro(page=0, nr_pages=1)", "set_memory_rox(page=0, nr_pages=2)"]
WALK = ["cat_kernel_page_tables()"]


def scenario(cpus: list[list[str]], arch: str = "x86_64", shift: str = "pmd") -> Scenario:
    return Scenario.from_data(
        {
            "name": "iommu",
            "arch": arch,
            "page_size": "4K",
            "levels": 4,
            "fanout": 2,
            "iommu_sva": True,
            "setup": [f"vmap(page=0, nr_pages=2, max_page_shift='{shift}')"],
            "cpus": cpus,
        }
    )


def error(found: Scenario, scheme: str = "linux-7.3+deferred-free", *without: str, memory: str = "sc") -> str:
    run = verify_cell(Cell(scheme, found, memory, without), Bounds(Limits()))
    assert run.verdict.complete
    return run.verdict.failure.error if run.verdict.failure else run.verdict.verdict


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_a_table_of_a_split_waits_for_the_device_where_it_is_marked(memory: str) -> None:
    found = scenario([SPLIT])
    assert error(found, memory=memory) == "safe"
    left_out = error(found, "linux-7.3+deferred-free", "ptdesc-set-kernel", memory=memory)
    assert left_out == IOMMU_WALK_OF_FREED_TABLE


def test_all_other_tables_are_marked() -> None:
    """Pages that vmap has made are collapsed: the table never was a split's."""
    found = scenario([["set_memory_rox(page=0, nr_pages=2)"], WALK], shift="pte")
    assert error(found) == "safe"
    assert error(found, "linux-7.3+deferred-free", "ptdesc-set-kernel") == "safe"


def test_what_is_freed_at_once_is_freed_under_the_device() -> None:
    assert error(scenario([SPLIT]), "linux-7.3") == IOMMU_WALK_OF_FREED_TABLE


def test_a_work_item_that_invalidates_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(k: Kernel) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(deferred_free, "iommu_sva_invalidate_kva_range", nothing)
    assert error(scenario([SPLIT])) == IOMMU_WALK_OF_FREED_TABLE


def test_it_is_x86s() -> None:
    with pytest.raises(ScenarioError, match="no device walks the kernel's page tables on arm64"):
        scenario([WALK], "arm64")
    assert scenario([WALK]).to_data()["iommu_sva"] is True
