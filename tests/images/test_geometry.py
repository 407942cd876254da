"""Where pages of a scenario are in an image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fuzzvm.images.geometry import Geometry


@pytest.mark.always
@pytest.mark.parametrize(
    ("page_shift", "levels", "image", "base"),
    [
        (12, 3, 0xFFFF_FFC0_8000_0000, 0xFFFF_FFC0_C000_0000),
        (12, 4, 0xFFFF_8000_8000_0000, 0xFFFF_8080_0000_0000),
        (16, 2, 0xFFFF_FE00_8000_0000, 0xFFFF_FE00_A000_0000),
        # the upper of two entries of the root maps all of the kernel
        (14, 4, 0xFFFF_C000_8000_0000, 0xFFFF_C010_0000_0000),
    ],
)
def test_pages_begin_behind_the_image_at_a_boundary(page_shift: int, levels: int, image: int, base: int) -> None:
    manifest = SimpleNamespace(page_shift=page_shift, levels=levels, arch="arm64")
    given: Any = SimpleNamespace(manifest=manifest, sections=[SimpleNamespace(address=image)])
    geometry = Geometry.of(given, 2)
    assert geometry.addr(0) == base
    assert geometry.addr(3) < 1 << 64
