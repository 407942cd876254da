"""Where the pages of a scenario are in an image: `images.calls` says how they are counted."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.compiled.image import Image
from fuzzvm.scenario.errors import ScenarioError

ENTRY_SHIFT = 3
PHYS = 1 << 38
"""The physical address of page 0: aligned to every block, and nothing of the kernel's."""
_VMALLOC = {"x86_64": 0xFFFF_C900_0000_0000}
"""Where a scenario's pages begin if not after the image."""


@dataclass(frozen=True)
class Geometry:
    """Where the pages of a scenario are in an image: `fanout` is the scenario's, `entries` the image's."""

    base: int
    page_shift: int
    fanout: int

    @classmethod
    def of(cls, image: Image, fanout: int) -> Geometry:
        """Return that of an image: its pages begin with an entry of the root that maps none of the image.

        Where the image is in the last entry of the root (16K pages, 4 levels), it is an entry of the level below.
        """
        page_shift, levels = image.manifest.page_shift, image.manifest.levels
        shift = page_shift + (page_shift - ENTRY_SHIFT) * (levels - 1)
        begin = image.sections[0].address
        if begin >> shift == (1 << 64) - 1 >> shift:
            shift -= page_shift - ENTRY_SHIFT
        behind = (begin >> shift) + 1 << shift
        return cls(_VMALLOC.get(image.manifest.arch, behind), page_shift, fanout)

    @property
    def entries(self) -> int:
        """The number of entries of a table of the image."""
        return 1 << self.page_shift - ENTRY_SHIFT

    def page(self, number: int) -> int:
        """Return which page of the image a page of the scenario is."""
        found, weight = 0, 1
        while number:
            number, index = divmod(number, self.fanout)
            found += index * weight
            weight *= self.entries
        return found

    def addr(self, number: int) -> int:
        """Return the address of a page of the scenario. Raises ScenarioError where the image has none so high."""
        found = self.base + (self.page(number) << self.page_shift)
        if found >= 1 << 64:
            raise ScenarioError(f"page {number} is past the last address of the image", "cpus")
        return found

    def shift(self, name: str) -> int:
        """Return the shift of the entry that a scenario calls so."""
        below = {"pte": 0, "pmd": 1, "pud": 2}
        if name not in below:
            raise ScenarioError(f"blocks of kind {name!r} are not there for images", "max_page_shift")
        return self.page_shift + (self.page_shift - ENTRY_SHIFT) * below[name]
