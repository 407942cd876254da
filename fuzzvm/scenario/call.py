"""A kernel call that a scenario's CPUs make: what each kind of call derives from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, TypeAlias

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
    `removes` whether it frees the tables of memory that is taken out, `copies` whether it reads all tables of the
    linear map to copy them.
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
    copies: ClassVar[bool] = False

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


@dataclass(frozen=True)
class OfPage(Call):
    """A call about a page, which must be mapped unless the call says otherwise."""

    page: int

    @property
    def pages(self) -> range:
        """The numbers of the pages that it is about."""
        return range(self.page, self.page + 1)

    def addresses(self, k: Kernel) -> tuple[int, int]:
        """Return the addresses at which these pages begin and end."""
        size = k.geometry.size(Level.PTE)
        return k.geometry.base + self.pages.start * size, k.geometry.base + self.pages.stop * size

    def breach(self, k: Kernel, mapped: Collection[int], areas: Areas) -> str:
        # of a page that is not mapped the kernel says -EINVAL or -EFAULT
        hole = next((page for page in self.pages if page not in mapped), None)
        return "" if hole is None else f"page {hole} is not mapped"


@dataclass(frozen=True)
class OfPages(OfPage):
    """A call about some pages in a row."""

    nr_pages: int

    @property
    def pages(self) -> range:
        return range(self.page, self.page + self.nr_pages)
