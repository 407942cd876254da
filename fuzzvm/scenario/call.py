"""A kernel call that a scenario's CPUs make: what each kind of call derives from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, Protocol, TypeAlias

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import Geometry, Level
from fuzzvm.machine.ops import Steps

Areas: TypeAlias = tuple[tuple[str, int], ...]
"""What vmalloc returned to this CPU, by the name that the scenario gave it."""


@dataclass(frozen=True)
class Call:
    """A kernel call with its arguments, and what of the race it has a part in.

    `walks` says whether it is a walk of ptdump, `maps` whether it may promote a range in vmap, `collapses` whether it
    may collapse pages into a block through CPA, `changes_attr` whether it changes the protection of mapped pages,
    `looks_up` whether it looks up single addresses, `disables_irqs` whether it has interrupts off at some time,
    `removes` whether it frees the tables of memory that is taken out.
    """

    name: ClassVar[str]
    archs: ClassVar[tuple[str, ...]] = ()
    """The architectures that have it; none stands for all."""
    walks: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    collapses: ClassVar[bool] = False
    changes_attr: ClassVar[bool] = False
    looks_up: ClassVar[bool] = False
    disables_irqs: ClassVar[bool] = False
    removes: ClassVar[bool] = False

    @property
    def walks_other_mm(self) -> bool:
        """Whether it walks an mm other than init_mm that shares the kernel's tables."""
        return False

    def may_promote(self, geometry: Geometry) -> bool:
        """Return whether a block fits what it maps, so that it promotes where it finds a table in the block's place."""
        return False

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        """Make the call; return the areas that this CPU has afterwards."""
        raise NotImplementedError

    def breach(self, k: Kernel, mapped: Collection[int], areas: Areas) -> str:
        """Return which precondition of the kernel's function does not hold, in a few words; '' where all do.

        `mapped` holds the numbers of the pages that are mapped when the call begins, `areas` what the caller has.
        """
        return ""

    def __str__(self) -> str:
        arguments = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                arguments.append(f"{field.name}={value!r}")
        return f"{self.name}({', '.join(arguments)})"


class Ranged(Protocol):
    """A call that is about some pages in a row."""

    @property
    def page(self) -> int:
        """The number of the first page."""

    @property
    def nr_pages(self) -> int:
        """How many pages they are."""


def range_of(k: Kernel, page: int, nr_pages: int) -> tuple[int, int]:
    """Return the addresses at which a range of pages begins and ends."""
    size = k.geometry.size(Level.PTE)
    addr = k.geometry.base + page * size
    return addr, addr + nr_pages * size


def pages_of(call: Ranged) -> range:
    """Return the numbers of the pages that a call is about."""
    return range(call.page, call.page + call.nr_pages)


def not_mapped(call: Ranged, mapped: Collection[int]) -> str:
    """Return that a page is not mapped, of which the kernel says -EINVAL or -EFAULT; '' where all are."""
    hole = next((page for page in pages_of(call) if page not in mapped), None)
    return "" if hole is None else f"page {hole} is not mapped"
