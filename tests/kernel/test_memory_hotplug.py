"""Memory that is taken out, and KASAN's shadow of it: what is left, the order of the free, and the lock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel import memory_hotplug
from fuzzvm.kernel.errors import BAD_TABLE_POINTER, FREE_OF_LINKED_TABLE, MISSING_DESTRUCTOR
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.errors import USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Free, InterruptAll, Operation, Steps, Store, Tlbi
from fuzzvm.mitigations import registry
from fuzzvm.scenario import hotplug_calls
from fuzzvm.scenario.pairs import scenarios
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.support import boot, operations, run

PAGE = 4096
ARCHS = ("arm64", "x86_64")


def newest(arch: str, *, unlinks_first: bool = True) -> type[Mitigation]:
    """Return 7.3 with the clear before the free, so that what comes behind it can be seen; or as it is."""
    scheme = registry.get("linux-7.3").on(arch)
    functions = replace(scheme.functions, hot_remove_unlinks_first=unlinks_first)
    return type("UnlinksFirst", (scheme,), {"functions": functions})


def mapped(arch: str, shift: int = 12, levels: int = 4) -> tuple[Machine, Kernel]:
    """Return a kernel with eight pages mapped by entries of that shift."""
    machine, kernel = boot(arch, levels, 2, newest(arch), cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 8 * PAGE, 0, PAGE_KERNEL, shift))
    return machine, kernel


def remove(k: Kernel, first: int, count: int) -> Steps[None]:
    base = k.geometry.base
    yield from memory_hotplug.try_remove_memory(k, base + first * PAGE, base + (first + count) * PAGE)


def left(machine: Machine, kernel: Kernel) -> list[tuple[Level, int]]:
    base = kernel.geometry.base
    return [(one.level, (one.addr - base) // PAGE) for one in Oracles(machine, kernel).mappings()]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("first", "count", "shift", "expected"),
    [
        (0, 2, 12, [(Level.PTE, page) for page in range(2, 8)]),
        (1, 4, 12, [(Level.PTE, page) for page in (0, 5, 6, 7)]),
        (2, 4, 13, [(Level.PMD, 0), (Level.PMD, 6)]),
        (4, 4, 14, [(Level.PUD, 0)]),
        (0, 8, 12, []),
    ],
)
def test_what_is_taken_out_is_gone_and_nothing_else(
    arch: str, first: int, count: int, shift: int, expected: list[tuple[Level, int]]
) -> None:
    machine, kernel = mapped(arch, shift)
    assert run(machine, remove(kernel, first, count)) is None
    assert left(machine, kernel) == expected
    Oracles(machine, kernel).finished()


@pytest.mark.parametrize(
    ("arch", "levels", "kept"), [("arm64", 4, 1), ("arm64", 5, 1), ("x86_64", 4, 2), ("x86_64", 5, 2)]
)
def test_tables_are_freed_but_for_those_that_other_roots_share(arch: str, levels: int, kept: int) -> None:
    machine, kernel = mapped(arch, levels=levels)
    assert run(machine, remove(kernel, 0, 8)) is None
    allocator = machine.allocator
    tables = [one for one in allocator.allocations if one.number not in allocator.dead and hasattr(one.label, "level")]
    # the root, and on x86_64 what it leads to
    assert len(tables) == kept


def kinds(ops: list[Operation], address: Address) -> list[str]:
    """Return in which order an entry is cleared, something is flushed, and something is freed."""
    said = []
    for op in ops:
        if isinstance(op, Store) and op.address == address and op.value == 0:
            said.append("clear")
        elif isinstance(op, Tlbi | InterruptAll) and said and said[-1] != "flush":
            said.append("flush")
        elif isinstance(op, Free):
            said.append("free")
    return said


def pmd_of(kernel: Kernel, machine: Machine) -> Address:
    return next(
        one.address
        for one in machine.allocator.allocations
        if getattr(one.label, "level", None) == Level.PMD and getattr(one.label, "va", None) == kernel.geometry.base
    )


@pytest.mark.parametrize(("arch", "order"), [("arm64", ["clear", "flush", "free"]), ("x86_64", ["free"])])
def test_arm64_clears_and_flushes_first_and_x86_frees_first(arch: str, order: list[str]) -> None:
    machine, kernel = boot(arch, 4, 2, newest(arch, unlinks_first=False), cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 4 * PAGE, 0, PAGE_KERNEL, 12))
    pmd = pmd_of(kernel, machine)
    failure = run(machine, remove(kernel, 0, 2))
    done = kinds(operations(machine), pmd)
    assert done[: len(order)] == order or done[1 : 1 + len(order)] == order
    # the free of x86 is where the run ends
    assert (failure is None) == (arch == "arm64")
    assert failure is None or failure.error == FREE_OF_LINKED_TABLE


@pytest.mark.parametrize("arch", ARCHS)
def test_the_shadow_is_removed_with_no_flush(arch: str) -> None:
    machine, kernel = boot(arch, 4, 2, newest(arch, unlinks_first=False), cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 4 * PAGE, 0, PAGE_KERNEL, 12))
    failure = run(machine, memory_hotplug.pageunmap_range(kernel, base, base + 2 * PAGE))
    assert failure is not None
    assert failure.error == FREE_OF_LINKED_TABLE
    assert not any(isinstance(op, Tlbi | InterruptAll) for op in operations(machine))


def error(name: str, scheme: type[Mitigation] | None = None, *without: str, release: str = "linux-7.3") -> str:
    run = verify_cell(Cell(release, scenarios()[name], "sc", without), Bounds(Limits()), scheme)
    assert run.verdict.complete
    return run.verdict.failure.error if run.verdict.failure else run.verdict.verdict


DUMPS = [(arch, walker) for arch in ARCHS for walker in ("ptdump", "check-wx")]


@pytest.mark.parametrize(("arch", "walker"), [*DUMPS, ("x86_64", "efi-dump"), ("x86_64", "current-dump")])
def test_a_dump_and_hot_remove_are_kept_apart_by_mem_hotplug_lock_alone(arch: str, walker: str) -> None:
    name = f"pair-{arch}-hot-remove-{walker}"
    assert error(name, newest(arch)) == "safe"
    assert error(name, newest(arch), "hotplug-lock") == USE_AFTER_FREE_READ


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("walker", ["attributes", "perf", "vmemmap-remap"])
def test_who_owns_the_memory_next_to_it_has_tables_of_its_own(arch: str, walker: str) -> None:
    assert error(f"pair-{arch}-hot-remove-{walker}", newest(arch)) == "safe"


@pytest.mark.parametrize("arch", ARCHS)
def test_a_shadow_that_is_removed_with_no_lock_meets_a_dump(arch: str) -> None:
    """The error path of pagemap_range, mm/memremap.c: found once the free of a linked table does not come before it."""
    assert error(f"pair-{arch}-kasan-shadow-ptdump", newest(arch)) == "safe"
    assert error(f"pair-{arch}-kasan-shadow-unlocked-ptdump", newest(arch)) == USE_AFTER_FREE_READ


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("freer", ["kasan-shadow", "kasan-shadow-unlocked"])
def test_the_shadow_is_freed_while_linked(arch: str, freer: str) -> None:
    assert error(f"pair-{arch}-{freer}-ptdump") == FREE_OF_LINKED_TABLE


def test_a_table_that_is_not_empty_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(k: Kernel, table: Address, level: Level) -> Steps[bool]:
        yield from ()
        return True

    name = "pair-arm64-hot-remove-vmemmap-remap"
    assert error(name) == "safe"
    monkeypatch.setattr("fuzzvm.kernel.arch.arm64.hot_remove.is_empty", always)
    assert error(name) in {USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE, "map-over-mapping"}


SPLIT = {
    "name": "split-then-removed",
    "arch": "x86_64",
    "page_size": "4K",
    "levels": 4,
    "fanout": 2,
    "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pmd')"],
    "cpus": [["set_memory_ro(page=0, nr_pages=1)", "try_remove_memory(page=0, nr_pages=2)"]],
}


def test_destructors() -> None:
    """Since 6.16 arm64 constructs the tables of added memory, until 2026 hot-remove did not destruct them."""
    name = "pair-arm64-hot-remove-ptdump"
    assert error(name, release="linux-6.12") == "safe"
    assert error(name, release="linux-6.18") == MISSING_DESTRUCTOR
    assert error(name) == "safe"


@pytest.mark.parametrize(
    ("release", "expected"), [("linux-6.18", FREE_OF_LINKED_TABLE), ("linux-7.3", MISSING_DESTRUCTOR)]
)
def test_the_table_of_a_split_is_constructed_in_the_newest_and_x86_destructs_none(release: str, expected: str) -> None:
    run = verify_cell(Cell(release, Scenario.from_data(SPLIT), "sc"), Bounds(Limits()))
    assert run.verdict.failure is not None
    assert run.verdict.failure.error == expected


def test_the_lock_that_a_dump_takes_would_keep_hot_remove_from_the_copy_of_kexec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kexec_load() does not take it, and meets freed tables; what it reads twice may be none by then."""
    cell = Cell("linux-7.3", scenarios()["pair-arm64-hot-remove-kexec-load"], "sc")
    rereads = replace(cell, scenario=replace(cell.scenario, walk_rereads=True))
    copy = hotplug_calls.trans_pgd_create_copy

    def locked(k: Kernel) -> Steps[None]:
        yield from memory_hotplug.get_online_mems(k)
        yield from copy(k)
        yield from memory_hotplug.put_online_mems(k)

    for one in (cell, rereads):
        failure = verify_cell(one, Bounds(Limits())).verdict.failure
        assert failure is not None
        assert failure.error in {USE_AFTER_FREE_READ, BAD_TABLE_POINTER}
    monkeypatch.setattr(hotplug_calls, "trans_pgd_create_copy", locked)
    for one in (cell, rereads):
        assert verify_cell(one, Bounds(Limits())).verdict.verdict == "safe"
