"""An architecture is one new file: a toy one, written to a folder beside the package, runs the race as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzzvm.exhaustive import verify
from fuzzvm.kernel import arch as architectures
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import Output
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System, default_memory
from tests.support import Follow

TOY = '''
"""8K pages, three or four levels, no TLB: a store is seen by everybody, and text is written in place."""

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.pgtable import Level, pxd_pgtable
from fuzzvm.machine.ops import Load, Store


class Toy(Architecture):
    name = "toy"
    memory = "sc"
    page_shifts = {"8K": 13}
    levels = (3, 4)
    vmalloc_start = 0x4000_0000_0000_0000

    def arch_vmap_p4d_supported(self, k):
        return False

    def arch_vmap_pud_supported(self, k):
        return False

    def arch_vmap_pmd_supported(self, k):
        return True

    def set_pxd(self, k, pxdp, entry):
        yield Store(pxdp, entry)

    def pmd_free_pte_page(self, k, pmdp, addr):
        pmd = yield Load(pmdp)
        token = yield from k.mitigation.before_clear(k, Level.PMD)
        yield Store(pmdp, 0)
        yield from k.mitigation.before_free(k, Level.PMD, token)
        yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
        yield from k.mitigation.after_free(k, Level.PMD, token)
        return True

    def pud_free_pmd_page(self, k, pudp, addr):
        yield from ()
        return False

    def p4d_free_pud_page(self, k, p4dp, addr):
        yield from ()
        return False

    def flush_tlb_kernel_range(self, k, start, end, point=""):
        yield from ()

    def arch_jump_label_transform(self, k, sites, instruction):
        index = 0
        while index < len(sites):
            yield Store(sites[index], instruction)
            index += 1

    def format_dump(self, rows):
        return dump_text(rows, units="KMGTPE", markers=("toy", "end"), describe=lambda row: row.level.name)


ARCHITECTURE = Toy()
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    yield
    sys.modules.pop("fuzzvm.kernel.arch.toy", None)
    architectures.get.cache_clear()


def scenario(*calls: str, levels: int = 3) -> Scenario:
    data = {"arch": "toy", "page_size": "8K", "levels": levels, "fanout": 2}
    setup = ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"]
    return Scenario.from_data(data | {"setup": setup, "cpus": [[call] for call in calls]})


PROMOTION = "vmap(page=0, nr_pages=2, max_page_shift='pmd')"
WALK = "cat_kernel_page_tables()"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("mitigation", ["none", "mmap-lock-always", "static-key", "static-key-enable", "config-off"])
def test_the_race_is_the_same_on_it(mitigation: str, levels: int) -> None:
    found = scenario(PROMOTION, WALK, levels=levels)
    scheme = registry.get(mitigation)
    verdict = verify(System(found, scheme, default_memory(found)))
    assert verdict.complete
    assert verdict.verdict == found.expected(scheme) == ("bug" if mitigation == "none" else "safe")
    if verdict.failure is not None:
        assert verdict.failure.error == USE_AFTER_FREE_READ


@pytest.mark.usefixtures("toy")
def test_two_walkers_and_a_flag() -> None:
    found = scenario(PROMOTION, WALK, "check_wx_pages()")
    assert verify(System(found, registry.get("static-key"), "sc")).verdict == "safe"
    assert verify(System(found, registry.get("static-key-enable"), "sc")).verdict == "bug"


@pytest.mark.usefixtures("toy")
def test_what_it_need_not_say_is_there() -> None:
    """set_memory_rox changes single pages, no collapse, and the dump is its own."""
    found = scenario("set_memory_rox(page=0, nr_pages=1)", WALK)
    assert found.expected(registry.get("none")) == "safe"
    machine = System(found, registry.get("none"), "sc").machine(tracing=True)
    assert execute(machine, Follow()).failure is None
    (text,) = [note.text for step in machine.trace or () for note in step.annotations if isinstance(note, Output)]
    assert text.startswith("---[ toy ]---\n0x4000000000000000-")


def test_it_is_gone_afterwards() -> None:
    assert "toy" not in architectures.names()
    with pytest.raises(KeyError):
        architectures.get("toy")
