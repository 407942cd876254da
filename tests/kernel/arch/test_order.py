"""fuzzvm.kernel.arch: the order of operations in which tables are freed, as the C has it.

arm64: arch/arm64/mm/mmu.c, Linux 6.12, and for `isolates_first` "arm64: Enable vmalloc-huge with ptdump" (6.18).
x86_64: arch/x86/mm/pgtable.c, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel, mk_leaf
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Address,
    Annotation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Rmw,
    Steps,
    Store,
    Tlbi,
    object_of,
    offset_of,
)
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from tests.support import boot, operations, run

ARM64_FLUSH = ["dsb ishst", "vaae1is", "dsb ish", "isb"]
X86_FLUSH = ["invlpg", "ipi"]
SET_ARM64 = ["dsb ishst", "isb"]


class Hooked(Annotation):
    def __init__(self, text: str) -> None:
        self.text = text


class Hooks(Mitigation):
    """Says which hook runs, with which level and token."""

    tokens: int = 0

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield Hooked(f"before_promotion {level.name}")
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield Hooked(f"after_promotion {level.name}")

    def before_clear(self, k: Kernel, level: Level) -> Steps[Any]:
        yield Hooked(f"before_clear {level.name}")
        return f"token of {level.name}"

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        assert token == f"token of {level.name}"
        yield Hooked(f"after_clear {level.name}")

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        assert token == f"token of {level.name}"
        yield Hooked(f"before_free {level.name}")

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield Hooked(f"free_table {level.name}")
        yield from super().free_table(k, table, level)

    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        assert token == f"token of {level.name}"
        yield Hooked(f"after_free {level.name}")


class IsolatingHooks(Hooks):
    isolates_first = True


class Recorder:
    """The observer that writes hooks down between the operations."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.hooks: list[tuple[int, str]] = []

    def wrote(self, *args: object) -> None: ...
    def allocated(self, *args: object) -> None: ...
    def freeing(self, *args: object) -> None: ...
    def finished(self) -> None: ...

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        if isinstance(annotation, Hooked):
            self.hooks.append((self.machine.steps, annotation.text))


def story(arch: str, mitigation: type[Mitigation], level: Level) -> list[str]:
    """Return what a promotion over two PTE tables of two entries does, as text: operations and hooks in order."""
    machine, kernel = boot(arch, 4, 2, mitigation, cpus=1, tracing=True)
    base = kernel.geometry.base
    end = base + kernel.geometry.size(level)
    machine.boot(vmap_range(kernel, base, end, 0, PAGE_KERNEL, 12))
    machine.boot(vunmap_range(kernel, base, end))
    recorder = Recorder(machine)
    machine.observer = recorder
    names = {
        allocation.number: f"{allocation.label.level.name.lower()}"
        + (str((allocation.label.va - base) >> 12) if allocation.label.level is Level.PTE else "")
        for allocation in machine.allocator.allocations
        if isinstance(allocation.label, TableLabel)
    }
    promote = vmap_range(kernel, base, end, 0, PAGE_KERNEL, 64)
    assert run(machine, promote) is None
    told = []
    hooks = list(recorder.hooks)
    for number, op in enumerate(operations(machine), 1):
        while hooks and hooks[0][0] < number:
            told.append(hooks.pop(0)[1])
        match op:
            case Load(address):
                told.append(f"read {names[object_of(address)]}[{offset_of(address)}]")
            case Store(address, 0):
                told.append(f"clear {names[object_of(address)]}[{offset_of(address)}]")
            case Store(address, value):
                assert value == mk_leaf(0, PAGE_KERNEL)
                told.append(f"set huge {names[object_of(address)]}[{offset_of(address)}]")
            case Fence(kind):
                told.append(kind.value)
            case Tlbi(operation):
                told.append(operation)
            case InterruptAll():
                told.append("ipi")
            case Free(address):
                told.append(f"free {names[object_of(address)]}")
            case Fetch() | Rmw():
                told.append(type(op).__name__)
            case _:
                raise AssertionError(op)
    return told + [text for _, text in hooks]


ARM64_PMD = [
    "read pgd[0]",
    "read pud[0]",
    "read pmd[0]",  # pmd_present() in vmap_try_huge_pmd
    "before_promotion PMD",
    "read pmd[0]",  # READ_ONCE(*pmdp)
    "before_clear PMD",
    "clear pmd[0]",
    "after_clear PMD",
    *ARM64_FLUSH,
    "before_free PMD",
    "free_table PMD",
    "free pte0",
    "after_free PMD",
    "set huge pmd[0]",
    *SET_ARM64,
    "after_promotion PMD",
]


def free_pte_page(index: int) -> list[str]:
    return [
        f"read pmd[{index}]",  # pmd_present() in the loop
        f"read pmd[{index}]",  # READ_ONCE(*pmdp) in pmd_free_pte_page
        "before_clear PMD",
        f"clear pmd[{index}]",
        "after_clear PMD",
        *ARM64_FLUSH,
        "before_free PMD",
        "free_table PMD",
        f"free pte{2 * index}",
        "after_free PMD",
    ]


ARM64_PUD = [
    "read pgd[0]",
    "read pud[0]",
    "before_promotion PUD",
    "read pud[0]",
    *free_pte_page(0),
    *free_pte_page(1),
    "before_clear PUD",
    "clear pud[0]",
    "after_clear PUD",
    *ARM64_FLUSH,
    "before_free PUD",
    "free_table PUD",
    "free pmd",
    "after_free PUD",
    "set huge pud[0]",
    *SET_ARM64,
    "after_promotion PUD",
]


def free_isolated_pte_page(index: int) -> list[str]:
    return [f"read pmd[{index}]", f"clear pmd[{index}]", *ARM64_FLUSH, "free_table PMD", f"free pte{2 * index}"]


ARM64_PUD_ISOLATED = [
    "read pgd[0]",
    "read pud[0]",
    "before_promotion PUD",
    "read pud[0]",
    "before_clear PUD",
    "clear pud[0]",
    "after_clear PUD",
    *ARM64_FLUSH,
    "before_free PUD",
    *free_isolated_pte_page(0),
    *free_isolated_pte_page(1),
    "free_table PUD",
    "free pmd",
    "after_free PUD",
    "set huge pud[0]",
    *SET_ARM64,
    "after_promotion PUD",
]

X86_PMD = [
    "read pgd[0]",
    "read pud[0]",
    "read pmd[0]",
    "before_promotion PMD",
    "read pmd[0]",
    "before_clear PMD",
    "clear pmd[0]",
    "after_clear PMD",
    *X86_FLUSH,
    "before_free PMD",
    "free_table PMD",
    "free pte0",
    "after_free PMD",
    "set huge pmd[0]",
    "after_promotion PMD",
]

X86_PUD = [
    "read pgd[0]",
    "read pud[0]",
    "before_promotion PUD",
    "read pud[0]",
    "before_clear PUD",
    "read pmd[0]",
    "clear pmd[0]",
    "read pmd[1]",
    "clear pmd[1]",
    "clear pud[0]",
    "after_clear PUD",
    *X86_FLUSH,
    "before_free PUD",
    "free_table PMD",
    "free pte0",
    "free_table PMD",
    "free pte2",
    "free_table PUD",
    "free pmd",
    "after_free PUD",
    "set huge pud[0]",
    "after_promotion PUD",
]


@pytest.mark.parametrize(
    ("arch", "mitigation", "level", "expected"),
    [
        ("arm64", Hooks, Level.PMD, ARM64_PMD),
        ("arm64", IsolatingHooks, Level.PMD, ARM64_PMD),
        ("arm64", Hooks, Level.PUD, ARM64_PUD),
        ("arm64", IsolatingHooks, Level.PUD, ARM64_PUD_ISOLATED),
        ("x86_64", Hooks, Level.PMD, X86_PMD),
        ("x86_64", Hooks, Level.PUD, X86_PUD),
        ("x86_64", IsolatingHooks, Level.PUD, X86_PUD),
    ],
    ids=["arm64-pmd", "arm64-pmd-isolating", "arm64-pud", "arm64-pud-isolating", "x86-pmd", "x86-pud", "x86-isolating"],
)
def test_order_of_a_promotion(arch: str, mitigation: type[Mitigation], level: Level, expected: Sequence[str]) -> None:
    assert story(arch, mitigation, level) == expected


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
@pytest.mark.parametrize("level", [Level.PMD, Level.PUD])
def test_a_key_that_is_off_costs_one_fetch_and_no_lock(arch: str, level: Level) -> None:
    """Nothing but the fetch is added to the same order without the key."""

    class IsolatesOnly(Mitigation):
        isolates_first = True

    told = story(arch, StaticKeyMitigation, level)
    assert told.count("Fetch") == 1
    assert "Rmw" not in told
    told.remove("Fetch")
    assert told == story(arch, IsolatesOnly, level)
