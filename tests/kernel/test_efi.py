"""fuzzvm.kernel.efi: a root of its own that leads to the kernel's tables, and what oracles make of two roots."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.efi import efi_enter_virtual_mode
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE, LEAKED_TABLE, LOCK_NOT_RELEASED, WALK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_write_lock
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, pxd_pgtable, pxd_table
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Free, Steps, Store
from fuzzvm.mitigations.none import NoMitigation
from tests.support import geometry_of, run


def boot(levels: int = 4, fanout: int = 2) -> tuple[Machine, Kernel, Mm]:
    machine = Machine(SequentialConsistency(2))
    x86 = architectures.get("x86_64")
    kernel = boot_kernel(machine, x86, geometry_of("x86_64", levels, fanout), NoMitigation(), other_mms=("efi_mm",))
    machine.observer = Oracles(machine, kernel)
    efi_mm = kernel.mm("efi_mm")
    machine.boot(efi_enter_virtual_mode(kernel, efi_mm))
    return machine, kernel, efi_mm


@pytest.mark.parametrize("fanout", [2, 4])
def test_both_roots_lead_to_the_same_tables_and_there_is_one_behind_every_entry(fanout: int) -> None:
    machine, kernel, efi_mm = boot(4, fanout)
    assert kernel.mms == (kernel.init_mm, efi_mm) and kernel.mm("init_mm") is kernel.init_mm
    assert efi_mm.pgd != kernel.init_mm.pgd and efi_mm.mmap_lock != kernel.init_mm.mmap_lock
    entries = [machine.memory.peek(efi_mm.pgd + index) for index in range(fanout)]
    assert entries == [machine.memory.peek(kernel.init_mm.pgd + index) for index in range(fanout)]
    assert all(pxd_table(entry) for entry in entries)  # type: ignore[arg-type]
    assert len({pxd_pgtable(entry) for entry in entries}) == fanout  # type: ignore[arg-type]


def test_no_mm_of_that_name() -> None:
    with pytest.raises(KeyError):
        boot()[1].mm("tboot_mm")


@given(st.lists(st.integers(0, 15), max_size=6, unique=True))
def test_what_is_mapped_later_is_in_both_dumps(pages: list[int]) -> None:
    machine, kernel, _ = boot()
    size = 1 << kernel.geometry.page_shift
    for page in pages:
        addr = kernel.geometry.base + page * size
        prot = PAGE_KERNEL_EXEC if page % 2 else PAGE_KERNEL
        machine.boot(vmap_range(kernel, addr, addr + size, page * size, prot, kernel.geometry.page_shift))
    dumps = [machine.boot(ptdump_walk(kernel, mm)) for mm in kernel.mms]
    assert dumps[0] == dumps[1]
    assert dumps[0].count(" x ") >= bool([page for page in pages if page % 2])


def test_the_walk_of_an_mm_needs_the_lock_of_that_mm() -> None:
    machine, kernel, efi_mm = boot()

    def walk() -> Steps[None]:
        yield from mmap_write_lock(kernel, kernel.init_mm)
        yield from walk_page_range(kernel, efi_mm, kernel.geometry.base, kernel.geometry.end)

    failure = run(machine, walk())
    assert failure is not None and failure.error == WALK_WITHOUT_LOCK
    assert failure.message == "CPU 0 walks page tables without efi_mm.mmap_lock held for writing"


def test_a_lock_of_another_mm_that_is_kept_is_found() -> None:
    machine, kernel, efi_mm = boot()
    failure = run(machine, mmap_write_lock(kernel, efi_mm))
    assert failure is not None and (failure.error, failure.message) == (
        LOCK_NOT_RELEASED,
        "efi_mm.mmap_lock is still held",
    )


def test_a_table_that_one_root_alone_leads_to_is_linked_and_not_leaked() -> None:
    machine, kernel, efi_mm = boot()
    table = pxd_pgtable(machine.memory.peek(efi_mm.pgd))  # type: ignore[arg-type]

    def unlink(mm: Mm) -> Steps[None]:
        yield Store(mm.pgd, 0)

    def free() -> Steps[None]:
        yield Free(table)

    machine.boot(unlink(kernel.init_mm))
    assert run(machine.copy(), unlink_nothing()) is None
    with pytest.raises(ModelError) as caught:
        machine.boot(free())
    assert caught.value.error == FREE_OF_LINKED_TABLE
    alone = replace(kernel, mms=kernel.mms[:1])
    machine.observer = Oracles(machine, alone)
    failure = run(machine, unlink_nothing())
    assert failure is not None and failure.error == LEAKED_TABLE


def unlink_nothing() -> Steps[None]:
    yield from ()
