"""A release of Linux: for each architecture the functions that it has and the locks that it takes.

A release is a scheme like any other, and stands wherever a mitigation does. What a release does is what it was released
with; `fuzzvm releases` says which stable points have changed that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fuzzvm.kernel.hooks import Mitigation, Verdict

KASAN: Mapping[str, Verdict] = {"pageunmap_range": "bug", "pagemap_range_fails": "bug"}
"""What is claimed of taking KASAN's shadow away, which no release has changed: its tables are freed while linked."""


class Release(Mitigation):
    """One release. `schemes` has its scheme by architecture, `sources` says where it was read off."""

    sources: ClassVar[str]
    schemes: ClassVar[Mapping[str, type[Mitigation]]]

    @classmethod
    def on(cls, arch: str) -> type[Mitigation]:
        """Return the release as it is on an architecture."""
        return cls.schemes[arch]
