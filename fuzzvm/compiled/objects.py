"""Which objects of a kernel matter: page tables, what walks, changes and frees them, and the locks around that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fuzzvm.compiled.arch import ImageArch

_COMMON: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mm/vmalloc.o", ()),
    ("mm/pagewalk.o", ()),
    # CONFIG_PTDUMP_CORE became CONFIG_PTDUMP in 6.16
    ("mm/ptdump.o", ("CONFIG_PTDUMP", "CONFIG_PTDUMP_CORE")),
    ("mm/pgtable-generic.o", ()),
    # __pte_alloc_kernel() and its like, apply_to_page_range()
    ("mm/memory.o", ()),
    # init_mm
    ("mm/init-mm.o", ()),
    ("mm/sparse-vmemmap.o", ("CONFIG_SPARSEMEM_VMEMMAP",)),
    ("kernel/jump_label.o", ("CONFIG_JUMP_LABEL",)),
    ("kernel/locking/rwsem.o", ()),
    # what vmalloc keeps its areas in
    ("lib/rbtree.o", ()),
    ("lib/find_bit.o", ()),
)


def choose(tree: Path, config: Mapping[str, str], arch: ImageArch) -> tuple[list[str], list[str]]:
    """Return the objects that matter, and those of them that a kernel does not have: no source, or turned off.

    `tree` is a source tree, or a folder of objects.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    for name, options in (*_COMMON, *arch.objects):
        on = not options or any(config.get(option) in ("y", "m") for option in options)
        stem = name.removesuffix(".o")
        there = any((tree / f"{stem}{suffix}").is_file() for suffix in (".c", ".S", ".o"))
        (chosen if on and there else left_out).append(name)
    return chosen, left_out


def units(objects: Iterable[str]) -> frozenset[str]:
    """Return the source files of objects, as debug information names them."""
    return frozenset(f"{name.removesuffix('.o')}{suffix}" for name in objects for suffix in (".c", ".S"))
