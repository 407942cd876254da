"""Which kernel functions are modelled, by the names that kernel and model have for them."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kbuild.modelled import Modelled, modelled

LOCKING = "kernel/locking/"
ELSEWHERE = {"arm64": ("arch/x86/",), "x86_64": ("arch/arm64/",)}
READS = {
    "read_pud": ("walk_pud_range", "ptdump_pud_entry", "walk_pud_range", "walk_pmd_range", "walk_pmd_range"),
    "read_pmd": ("walk_pmd_range", "ptdump_pmd_entry", "walk_pmd_range", "walk_pte_range"),
}
"""The kernel's function of each read of one entry that fuzzvm/kernel/pagewalk_rereads.py makes, in their order."""


@dataclass(frozen=True)
class Names:
    """The modelled functions of an architecture; `elsewhere` is the number of those that others have.

    `compared` are the kernel's names; those of locks are left out: a call of a lock is one operation of its caller.
    `kernel` has the kernel's name by the model's.
    """

    functions: tuple[Modelled, ...]
    compared: frozenset[str]
    kernel: dict[str, str]
    elsewhere: int


def names_of(arch: str) -> Names:
    """Return the modelled functions of an architecture."""
    functions = tuple(one for one in modelled() if not one.file.startswith(ELSEWHERE[arch]))
    kernel: dict[str, str] = {}
    for one in functions:
        name = one.model.rpartition(":")[2].rpartition(".")[2]
        if name not in READS and not one.file.startswith(LOCKING):
            kernel.setdefault(name, one.name)
    compared = frozenset(one.name for one in functions if not one.file.startswith(LOCKING))
    return Names(functions, compared, kernel, len(modelled()) - len(functions))
