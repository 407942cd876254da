"""Allocations with flags: which may reclaim, what reclaim runs, and what fails (include/linux/gfp_types.h,
mm/page_alloc.c, mm/shrinker.c; Linux 7.3).

Memory runs short where a scenario says so, once in a run: the shortage begins and ends at any time. An allocation that
comes into it reclaims, if its flags let it, and fails where the scenario says that too. Reclaim calls what is
registered as shrinkers; an allocation of a shrinker's does not reclaim again (PF_MEMALLOC). Where no scenario asks for
it memory never runs short, and an allocation is one step.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fuzzvm.machine.ops import Address, Alloc, Annotation, Load, Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

NO_MEMORY: Address = 0
"""What a failed allocation returns: no page table has this address."""
ENOUGH, SHORT = 0, 1


@dataclass(frozen=True, slots=True)
class Gfp:
    """The flags of an allocation: `direct_reclaim` is __GFP_DIRECT_RECLAIM, without which it never sleeps; `fs` is
    __GFP_FS, without which it may sleep, but calls nothing that takes locks of a file system's.
    """

    name: str
    direct_reclaim: bool = True
    fs: bool = True

    def __str__(self) -> str:
        return self.name


GFP_KERNEL = Gfp("GFP_KERNEL")
GFP_NOFS = Gfp("GFP_NOFS", fs=False)
GFP_NOWAIT = Gfp("GFP_NOWAIT", direct_reclaim=False, fs=False)
GFP_ATOMIC = Gfp("GFP_ATOMIC", direct_reclaim=False, fs=False)
"""As GFP_NOWAIT: the reserves that it may use besides are not modelled."""
GFP_PGTABLE_KERNEL = GFP_KERNEL
"""include/asm-generic/pgalloc.h: GFP_KERNEL, zeroed."""


@dataclass(frozen=True, slots=True)
class DirectReclaim(Annotation):
    """Reclaim begins on this CPU, or ends: fs_reclaim_acquire() and fs_reclaim_release()."""

    gfp: Gfp
    ends: bool = False


class Shrinker(Protocol):
    """What reclaim calls (struct shrinker, scan_objects). Immutable, and compares by value."""

    def scan_objects(self, k: Kernel, gfp: Gfp) -> Steps[None]:
        """Free objects. Without `gfp.fs` shrinkers of file systems return at once; those of drivers do not look."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How memory runs short: the word that says whether it is short now, what reclaim calls, whether anything fails."""

    word: Address
    shrinkers: tuple[Shrinker, ...] = ()
    fails: bool = False


@dataclass(frozen=True, slots=True)
class _Becomes:
    value: int

    def __call__(self, old: int) -> int:
        return self.value


def memory_runs_short(word: Address) -> Steps[None]:
    """Have memory run short for a while: the program of what stands for everybody else who allocates."""
    yield Rmw(word, _Becomes(SHORT), Order.ACQUIRE_RELEASE)
    yield Rmw(word, _Becomes(ENOUGH), Order.ACQUIRE_RELEASE)


def pagetable_alloc(k: Kernel, size: int, label: Hashable, gfp: Gfp = GFP_PGTABLE_KERNEL) -> Steps[Address]:
    """Return a new object of `size` locations, all zero; NO_MEMORY where there is none to be had."""
    memory = k.memory
    if memory is not None:
        short = yield Load(memory.word)
        if short and gfp.direct_reclaim and not k.reclaims:
            yield from direct_reclaim(k, memory, gfp)
            short = yield Load(memory.word)
        if short and memory.fails:
            return NO_MEMORY
    table: Address = yield Alloc(size, label, flags=gfp)
    return table


def direct_reclaim(k: Kernel, memory: Memory, gfp: Gfp) -> Steps[None]:
    """Call each shrinker that is registered, on behalf of who allocates (__alloc_pages_direct_reclaim)."""
    yield DirectReclaim(gfp)
    index = 0
    while index < len(memory.shrinkers):
        yield from memory.shrinkers[index].scan_objects(k.in_reclaim(), gfp)
        index += 1
    yield DirectReclaim(gfp, ends=True)
